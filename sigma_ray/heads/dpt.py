"""Dense prediction transformer (DPT) for depth as Depth Anything has it, from the layers of transformers.

Source: Ranftl et al., "Vision Transformers for Dense Prediction" (ICCV 2021): four maps are brought to 4, 2, 1 and 1/2
times the patch grid's resolution and fused from coarse to fine. Yang et al., "Depth Anything" (CVPR 2024): no class
token, fusion at the true size of odd grids, widths (here those of its ViT-B), and for metric depth a sigmoid in place
of the last ReLU, here over the range from the least to the largest depth. A residual unit that the first fusion never
uses is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sigma_ray.data import Info
from sigma_ray.heads._depth import DepthHead
from sigma_ray.heads._pyramid import NormedStages


@dataclass(frozen=True, kw_only=True)
class Config:
    """`neck_channels`: widths of the four levels, from fine to coarse; `channels`: width of the fusion."""

    task: ClassVar[str] = "depth"
    maps: ClassVar[str] = "spread"

    neck_channels: tuple[int, ...] = (96, 192, 384, 768)
    channels: int = 128

    def __post_init__(self) -> None:
        if len(self.neck_channels) != 4 or min(self.neck_channels) < 1:
            raise ValueError(
                f"head.neck_channels must be four positive numbers, but got {self.neck_channels}; use 96,192,384,768."
            )
        if self.channels < 2 or self.channels % 2:
            raise ValueError(f"head.channels must be even (it is halved), but got {self.channels}; use 128.")


class DptHead(DepthHead):
    """Depth (B, H, W) from four maps, or from one that stands for all four."""

    def __init__(
        self, config: Config, in_channels: Sequence[int], factors: Sequence[float], norm: bool, info: Info
    ) -> None:
        super().__init__(info)
        from transformers import DepthAnythingConfig
        from transformers.models.depth_anything import modeling_depth_anything as layers

        width = config.channels
        # Maps of several widths have no final norm in common.
        self.stages = NormedStages(in_channels, factors) if norm else None
        self.reassemble = nn.ModuleList(
            layers.DepthAnythingReassembleLayer(DepthAnythingConfig(reassemble_hidden_size=d), neck, factor)
            for d, neck, factor in zip(in_channels, config.neck_channels, factors, strict=True)
        )
        self.convs = nn.ModuleList(nn.Conv2d(neck, width, 3, padding=1, bias=False) for neck in config.neck_channels)
        self.fusion = layers.DepthAnythingFeatureFusionStage(DepthAnythingConfig(fusion_hidden_size=width))
        self.fusion.layers[0].residual_layer1 = nn.Identity()
        self.reduce = nn.Conv2d(width, width // 2, 3, padding=1)
        self.regress = nn.Sequential(nn.Conv2d(width // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1))

    def forward(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Depth (B, *size) in metres."""
        maps = features * 4 if len(features) == 1 else features
        maps = maps if self.stages is None else self.stages(maps)
        levels = [conv(layer(x)) for conv, layer, x in zip(self.convs, self.reassemble, maps, strict=True)]
        fine = self.reduce(self.fusion(levels)[-1])
        fine = nn.functional.interpolate(fine, size=size, mode="bilinear", align_corners=True)
        share = self.regress(fine)[:, 0].float().sigmoid()
        return self.min_depth + (self.max_depth - self.min_depth) * share


def build(config: Config, *, in_channels: tuple[int, ...], strides: tuple[float, ...], info: Info) -> nn.Module:
    """The head on four maps, from early to late blocks, or on one, which is then read four times.

    Raises:
        ValueError: neither one nor four maps, or strides whose ratios are not powers of 2.
    """
    if len(in_channels) not in (1, 4):
        raise ValueError(f"dpt must get 1 or 4 maps, but got {len(in_channels)}; choose another backbone or head.")
    if len(in_channels) == 1:
        in_channels, strides = in_channels * 4, strides * 4
    # Maps of one resolution are spread around it; stages keep theirs.
    finest = strides[0] / 4 if len(set(strides)) == 1 else strides[0]
    factors = [stride / (finest * 2**level) for level, stride in enumerate(strides)]
    if any(factor not in (0.25, 0.5, 1, 2, 4) for factor in factors):
        raise ValueError(f"dpt must get maps whose strides double, but got {strides}; choose another backbone.")
    whole = [int(factor) if factor >= 1 else factor for factor in factors]
    return DptHead(config, in_channels, whole, len(set(in_channels)) > 1, info)
