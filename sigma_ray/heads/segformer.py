"""SegFormer's all-MLP head, MMSegmentation's implementation, on a simple feature pyramid or the backbone's stages.

Source: Xie et al., "SegFormer" (NeurIPS 2021): 1x1 per level, upsample, concatenate, 1x1, dropout, classify. The batch
norm is a group norm.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sigma_ray import checks
from sigma_ray.data import Info
from sigma_ray.heads._mmseg import MMSegHead
from sigma_ray.heads._openmm import group_norm
from sigma_ray.heads._pyramid import four_levels


@dataclass(frozen=True, kw_only=True)
class Config:
    """`channels`: width of pyramid and head; `dropout`: before the classifier."""

    task: ClassVar[str] = "segmentation"
    maps: ClassVar[str] = "levels"

    channels: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        checks.positive("head.channels", self.channels)
        checks.fraction("head.dropout", self.dropout)


def build(config: Config, *, in_channels: tuple[int, ...], strides: tuple[float, ...], info: Info) -> nn.Module:
    """The head on the last map of a plain ViT or on four stages."""
    pyramid = four_levels(in_channels, strides, config.channels)
    settings = {
        "type": "SegformerHead",
        "in_channels": list(pyramid.channels),
        "in_index": [0, 1, 2, 3],
        "channels": config.channels,
        "dropout_ratio": config.dropout,
        "num_classes": info.num_classes,
        "norm_cfg": group_norm(config.channels),
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 1.0},
    }
    return MMSegHead(settings, pyramid, info.ignore_index)
