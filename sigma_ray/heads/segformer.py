"""SegFormer's all-MLP head, MMSegmentation's implementation, on a simple feature pyramid.

Source: Xie et al., "SegFormer" (NeurIPS 2021): 1x1 per level, upsample, concatenate, 1x1, dropout, classify.
"""

from dataclasses import dataclass

from torch import nn

from sigma_ray import checks
from sigma_ray.heads._mmseg import MMSegHead


@dataclass(frozen=True, kw_only=True)
class Config:
    """`channels`: width of pyramid and head; `dropout`: before the classifier."""

    channels: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        checks.positive("head.channels", self.channels)
        checks.fraction("head.dropout", self.dropout)


def build(config: Config, *, in_channels: int, stride: int, num_classes: int, ignore_index: int) -> nn.Module:
    """The head on maps of `in_channels` channels; `stride` does not matter to it."""
    del stride
    settings = {
        "type": "SegformerHead",
        "in_channels": [config.channels] * 4,
        "in_index": [0, 1, 2, 3],
        "channels": config.channels,
        "dropout_ratio": config.dropout,
        "num_classes": num_classes,
        "norm_cfg": {"type": "BN"},
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 1.0},
    }
    return MMSegHead(settings, in_channels, config.channels, ignore_index)
