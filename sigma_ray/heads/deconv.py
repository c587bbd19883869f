"""Light pixel head: two stride-2 deconvolutions, then a 1x1 classifier (ViT-Split's segmentation head).

Source: ViT-Split (ICCV 2025), public code: 2 x [ConvTranspose 2x2 stride 2, GroupNorm, GELU] -> normalisation ->
1x1 convolution, upsampling the backbone's map by 4. The SyncBatchNorm before its classifier is left out here: batch
statistics would make a trial's result depend on how the batch is split over workers.
"""

import itertools
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sigma_ray import checks
from sigma_ray.data import Info
from sigma_ray.parallel import WHOLE, Share
from sigma_ray.tasks import segmentation


@dataclass(frozen=True, kw_only=True)
class Config:
    """`channels`: width of both deconvolutions; None keeps the backbone's width."""

    task: ClassVar[str] = "segmentation"
    maps: ClassVar[str] = "last"

    channels: int | None = None
    num_groups: int = 16

    def __post_init__(self) -> None:
        checks.positive("head.num_groups", self.num_groups)
        if self.channels is not None and (self.channels < 1 or self.channels % self.num_groups):
            raise ValueError(
                f"head.channels must be a positive multiple of head.num_groups ({self.num_groups}), "
                f"but got {self.channels}; change either."
            )


class DeconvHead(nn.Module):
    """Logits (B, C, 4h, 4w) from the last map (B, d, h, w)."""

    def __init__(self, in_channels: int, channels: int, num_groups: int, num_classes: int, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        widths = [in_channels, channels, channels]
        self.up = nn.Sequential(
            *(
                layer
                for before, after in itertools.pairwise(widths)
                for layer in (
                    nn.ConvTranspose2d(before, after, 2, stride=2),
                    nn.GroupNorm(num_groups, after),
                    nn.GELU(),
                )
            )
        )
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Logits at four times the map's resolution."""
        return self.classify(self.up(features[-1]))

    def loss(
        self, features: list[Tensor], targets: dict[str, Tensor], size: tuple[int, int], share: Share = WHOLE
    ) -> Tensor:
        """Pixel cross-entropy against `mask` (B, *size)."""
        return segmentation.loss(self(features).float(), targets["mask"], share, ignore_index=self.ignore_index)

    def predict(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (B, C, *size)."""
        return segmentation.resize(self(features).float(), size)


def build(config: Config, *, in_channels: tuple[int, ...], strides: tuple[float, ...], info: Info) -> nn.Module:
    """The head on the last map.

    Raises:
        ValueError: the backbone's width, which `channels` None stands for, is no multiple of `num_groups`.
    """
    channels = config.channels or in_channels[-1]
    if channels % config.num_groups:
        raise ValueError(
            f"head.channels must be a multiple of head.num_groups ({config.num_groups}), but got {channels} "
            "(the backbone's width); set head.channels."
        )
    return DeconvHead(in_channels[-1], channels, config.num_groups, info.num_classes, info.ignore_index)
