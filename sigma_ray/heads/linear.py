"""Linear probe: a 1x1 classifier on the last map, upsampled bilinearly.

Source: Oquab et al., "DINOv2" (2023), section 7.4, without the batch normalisation before the classifier: batch
statistics would make a trial's result depend on how the batch is split over workers.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sigma_ray.data import Info
from sigma_ray.parallel import WHOLE, Share
from sigma_ray.tasks import segmentation


@dataclass(frozen=True, kw_only=True)
class Config:
    """There is nothing to choose."""

    task: ClassVar[str] = "segmentation"
    maps: ClassVar[str] = "last"


class LinearHead(nn.Module):
    """Logits (B, C, h, w) from the last map (B, d, h, w)."""

    def __init__(self, in_channels: int, info: Info) -> None:
        super().__init__()
        self.ignore_index = info.ignore_index
        self.classify = nn.Conv2d(in_channels, info.num_classes, 1)

    def loss(
        self, features: list[Tensor], targets: dict[str, Tensor], size: tuple[int, int], share: Share = WHOLE
    ) -> Tensor:
        """Pixel cross-entropy against `mask` (B, *size)."""
        return segmentation.loss(self.predict(features, size), targets["mask"], share, ignore_index=self.ignore_index)

    def predict(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Logits (B, C, *size)."""
        return segmentation.resize(self.classify(features[-1]).float(), size)


def build(config: Config, *, in_channels: tuple[int, ...], strides: tuple[float, ...], info: Info) -> nn.Module:
    """The head on the last map."""
    return LinearHead(in_channels[-1], info)
