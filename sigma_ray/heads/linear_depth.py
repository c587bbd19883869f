"""Linear depth probe: a 1x1 convolution to depth bins on the last map.

Source: Oquab et al., "DINOv2" (2023), section 7.4 ("lin. 1"): the range of depth is divided into uniform bins, the
map upsampled by 4, and depth the mean of the bins weighted by ReLU(logit) + 0.1, divided by their sum (the linear
normalisation of Bhat et al., "AdaBins", CVPR 2021). The class token, which DINOv2 joins to every cell, is left out.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sigma_ray import checks
from sigma_ray.data import Info
from sigma_ray.heads._depth import DepthHead
from sigma_ray.tasks import depth


@dataclass(frozen=True, kw_only=True)
class Config:
    """`num_bins`: of equal width from the least to the largest depth; `upsample`: resolution at which they are mixed.

    `upsample` counts from the map's resolution; from there on depth itself is resized.
    """

    task: ClassVar[str] = "depth"
    maps: ClassVar[str] = "last"

    num_bins: int = 256
    upsample: int = 4

    def __post_init__(self) -> None:
        checks.positive("head.upsample", self.upsample)
        if self.num_bins < 2:
            raise ValueError(f"head.num_bins must be at least 2, but got {self.num_bins}; use 256.")


class LinearDepthHead(DepthHead):
    """Depth (B, H, W) from the last map (B, d, h, w)."""

    def __init__(self, config: Config, in_channels: int, info: Info) -> None:
        super().__init__(info)
        self.upsample = config.upsample
        self.classify = nn.Conv2d(in_channels, config.num_bins, 1)
        self.bins: Tensor
        self.register_buffer("bins", torch.linspace(info.min_depth, info.max_depth, config.num_bins), persistent=False)

    def forward(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Depth (B, *size) in metres."""
        # A 1x1 convolution and a bilinear resize commute; this order resizes fewer channels on wide backbones.
        logits = self.classify(features[-1]).float()
        height, width = logits.shape[-2:]
        logits = nn.functional.interpolate(
            logits, (height * self.upsample, width * self.upsample), mode="bilinear", align_corners=False
        )
        weights = logits.relu() + 0.1
        mean = torch.einsum("bkhw,k->bhw", weights, self.bins) / weights.sum(dim=1)
        return depth.resize(mean, size)


def build(config: Config, *, in_channels: tuple[int, ...], strides: tuple[float, ...], info: Info) -> nn.Module:
    """The head on the last map."""
    return LinearDepthHead(config, in_channels[-1], info)
