"""What MMDetection's heads need here: the shim, initial weights, samples, and a focal loss that runs everywhere."""

import warnings
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sigma_ray.heads._mmcv_ops import install
from sigma_ray.heads._openmm import initialise, keep_counts_local


def build(settings: dict[str, Any]) -> Any:
    """A dense head of MMDetection from its configuration, with its initial weights."""
    install()
    import mmdet.models.dense_heads  # noqa: F401  (registers the heads)
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    keep_counts_local()
    with DefaultScope.overwrite_default_scope("mmdet"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "DeprecationWarning", UserWarning)  # MMDetection's, of its own attributes
        head = MODELS.build(ConfigDict(settings))
    if not next(head.parameters()).is_meta:
        initialise(head)
    head.loss_cls = OneHotFocalLoss(head.loss_cls)
    return head


class OneHotFocalLoss(nn.Module):
    """A focal loss of MMDetection on one-hot targets, which needs no compiled operator on a GPU either."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, pred: Tensor, target: Tensor, *args: Any, **options: Any) -> Tensor:
        """The loss of logits `pred` (N, C) for labels `target` (N,), where C is the background."""
        return self.loss(pred, F.one_hot(target, pred.shape[1] + 1)[:, :-1], *args, **options)


def instances(image: dict[str, Tensor]) -> Any:
    """An image's objects as MMDetection has them, without masks."""
    from mmengine.structures import InstanceData

    return InstanceData(bboxes=image["boxes"].float(), labels=image["labels"])
