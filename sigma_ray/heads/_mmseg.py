"""MMSegmentation's decode heads behind this project's head interface."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sigma_ray.heads._mmcv_ops import install
from sigma_ray.heads._openmm import initialise, keep_counts_local, meta, total
from sigma_ray.heads._pyramid import NormedStages, SimplePyramid
from sigma_ray.parallel import WHOLE, Share
from sigma_ray.tasks import segmentation


class MMSegHead(nn.Module):
    """A decode head of MMSegmentation on the levels that `pyramid` makes.

    `config` is the `decode_head` part of a model's configuration there, `auxiliary` its `auxiliary_head`, if any: a
    head whose loss is added, and that predictions do without.
    """

    def __init__(
        self,
        config: dict[str, Any],
        pyramid: SimplePyramid | NormedStages,
        ignore_index: int,
        auxiliary: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.head = _build(config, ignore_index)
        self.auxiliary = None if auxiliary is None else _build(auxiliary, ignore_index)

    def loss(
        self, features: list[Tensor], targets: dict[str, Tensor], size: tuple[int, int], share: Share = WHOLE
    ) -> Tensor:
        """Sum of the heads' own loss terms against `mask` (B, *size)."""
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        samples = []
        for label in targets["mask"]:
            sample = SegDataSample(metainfo=meta(size))
            sample.gt_sem_seg = PixelData(data=label[None])
            samples.append(sample)
        levels, weights = self._levels(features), self.weights(share)
        terms = total(self.head.loss(levels, samples, {}), weights)
        return terms if self.auxiliary is None else terms + total(self.auxiliary.loss(levels, samples, {}), weights)

    def weights(self, share: Share) -> Mapping[str, Any]:
        """What every loss term counts for; cross-entropy is a mean over all pixels here, also over ignored ones."""
        return {"ce": share.images}

    def predict(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Class scores (B, C, *size)."""
        metas = [meta(size)] * len(features[-1])
        return segmentation.resize(self.head.predict(self._levels(features), metas, {}).float(), size)

    def _levels(self, features: list[Tensor]) -> list[Tensor]:
        return self.pyramid([feature.float() if not torch.is_autocast_enabled() else feature for feature in features])


def _build(config: dict[str, Any], ignore_index: int) -> Any:
    from mmengine.config import ConfigDict

    head = _models().build(ConfigDict({**config, "ignore_index": ignore_index}))
    initialise(head)
    return head


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

    keep_counts_local()
    init_default_scope("mmseg")  # lets types such as "mmdet.X" inside a head's configuration be found
    return MODELS
