"""MMSegmentation's decode heads behind this project's head interface, on a simple feature pyramid."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sigma_ray.heads._mmcv_ops import install
from sigma_ray.heads._pyramid import SimplePyramid
from sigma_ray.tasks import segmentation


class MMSegHead(nn.Module):
    """A decode head of MMSegmentation, built from its configuration `config` (the `decode_head` part of a model)."""

    def __init__(self, config: dict[str, Any], in_channels: int, channels: int, ignore_index: int) -> None:
        super().__init__()
        from mmengine.config import ConfigDict

        models = _models()
        self.ignore_index = ignore_index
        self.pyramid = SimplePyramid(in_channels, channels)
        self.head = models.build(ConfigDict({**config, "ignore_index": ignore_index}))
        level = logging.getLogger("mmengine").level
        logging.getLogger("mmengine").setLevel(logging.ERROR)  # it prints one line a parameter
        self.head.init_weights()
        logging.getLogger("mmengine").setLevel(level)

    def loss(self, features: list[Tensor], mask: Tensor) -> Tensor:
        """Sum of the head's own loss terms against `mask` (B, H, W)."""
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        samples = []
        for label in mask:
            sample = SegDataSample(metainfo=_meta(mask.shape[-2:]))
            sample.gt_sem_seg = PixelData(data=label[None])
            samples.append(sample)
        terms = self.head.loss(self._levels(features), samples, {})
        values = [value for name, value in terms.items() if "loss" in name]
        return torch.stack([torch.as_tensor(sum(v) if isinstance(v, list) else v).sum() for v in values]).sum()

    def predict(self, features: list[Tensor], size: torch.Size) -> Tensor:
        """Class scores (B, C, *size)."""
        metas = [_meta(size)] * len(features[-1])
        return segmentation.resize(self.head.predict(self._levels(features), metas, {}).float(), size)

    def _levels(self, features: list[Tensor]) -> list[Tensor]:
        return self.pyramid([feature.float() if not torch.is_autocast_enabled() else feature for feature in features])


def official_config(path: str) -> Any:
    """A model configuration that ships inside the mmsegmentation package, by its path below `configs/`."""
    _models()
    import mmseg
    from mmengine.config import Config

    return Config.fromfile(Path(mmseg.__file__).parent / ".mim" / "configs" / path).model


def _models() -> Any:
    install()
    import mmseg.models  # noqa: F401  (registers the heads)
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    init_default_scope("mmseg")  # lets types such as "mmdet.X" inside a head's configuration be found
    return MODELS


def _meta(size: torch.Size) -> dict[str, Any]:
    shape = tuple(size)
    return {"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "batch_input_shape": shape}
