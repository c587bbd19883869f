"""UPerNet, MMSegmentation's implementation, with the auxiliary head that its configurations add.

Source: Xiao et al., "Unified Perceptual Parsing for Scene Understanding" (ECCV 2018): pyramid pooling on the coarsest
level, a feature pyramid over four, all fused at the finest. The auxiliary fully convolutional head works on the third
level (stride 16). Widths, dropout and weight are those of MMSegmentation's `upernet_r50.py`; its
batch norms are group norms.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from sigma_ray import checks
from sigma_ray.data import Info
from sigma_ray.heads._mmseg import MMSegHead
from sigma_ray.heads._openmm import group_norm
from sigma_ray.heads._pyramid import four_levels


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of UPerNet.

    Attributes:
        channels: width of the head.
        pyramid_channels: width of the levels made from one map; stages keep their own widths.
        auxiliary_channels: width of the auxiliary head.
        auxiliary_weight: weight of its loss; 0 leaves it out.
        dropout: before both classifiers.
    """

    task: ClassVar[str] = "segmentation"
    maps: ClassVar[str] = "levels"

    channels: int = 512
    pyramid_channels: int = 256
    auxiliary_channels: int = 256
    auxiliary_weight: float = 0.4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("channels", "pyramid_channels", "auxiliary_channels"):
            checks.positive(f"head.{name}", getattr(self, name))
        checks.non_negative("head.auxiliary_weight", self.auxiliary_weight)
        checks.fraction("head.dropout", self.dropout)


def build(config: Config, *, in_channels: tuple[int, ...], strides: tuple[float, ...], info: Info) -> nn.Module:
    """The head on the last map of a plain ViT or on four stages."""
    pyramid = four_levels(in_channels, strides, config.pyramid_channels)
    shared = {"num_classes": info.num_classes, "dropout_ratio": config.dropout}
    decoder = {
        "type": "UPerHead",
        "in_channels": list(pyramid.channels),
        "in_index": [0, 1, 2, 3],
        "pool_scales": (1, 2, 3, 6),
        "channels": config.channels,
        "norm_cfg": group_norm(config.channels),
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": 1.0},
        **shared,
    }
    auxiliary: dict[str, Any] = {
        "type": "FCNHead",
        "in_channels": pyramid.channels[2],
        "in_index": 2,
        "num_convs": 1,
        "concat_input": False,
        "channels": config.auxiliary_channels,
        "norm_cfg": group_norm(config.auxiliary_channels),
        "align_corners": False,
        "loss_decode": {"type": "CrossEntropyLoss", "loss_weight": config.auxiliary_weight},
        **shared,
    }
    return MMSegHead(decoder, pyramid, info.ignore_index, auxiliary if config.auxiliary_weight else None)
