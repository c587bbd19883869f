"""Maps of several resolutions for heads: made from the one map of a plain ViT, or of the stages of a hierarchical one.

A *scale* names a level. On one map (plain ViT, SAM, ViT-Split) it is the resolution relative to that map, so its
stride is stride / scale. On several maps (Swin's stages) scale 4 is the finest one: stride 4 x strides[0] / scale.
Scales (4, 2, 1, 0.5) give strides 4, 8, 16, 32 on a ViT with patch 16 (3.5, 7, 14, 28 with patch 14) and on Swin.
"""

from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn

SCALES = (4, 2, 1, 0.5)


class SimplePyramid(nn.Module):
    """ViTDet's simple feature pyramid: the last map (B, d, h, w) -> one map of `channels` for each of `scales`.

    Per level resampling (4, 2, 1, 0.5 or 0.25), then 1x1 and 3x3 convolutions without bias, each followed by a
    LayerNorm over channels. Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection"
    (2022), section 3.

    Attributes:
        channels: of each level.
        strides: pixels per cell of each level, where the given map has `stride`.
    """

    def __init__(
        self, in_channels: int, channels: int = 256, scales: Sequence[float] = SCALES, stride: float = 16
    ) -> None:
        super().__init__()
        self.channels = (channels,) * len(scales)
        self.strides = tuple(stride / scale for scale in scales)
        self.levels = nn.ModuleList(nn.Sequential(*_level(in_channels, channels, scale)) for scale in scales)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Levels from fine to coarse, from the last of `features`."""
        return [level(features[-1]) for level in self.levels]


class NormedStages(nn.Module):
    """The stages' own maps, each through a LayerNorm over channels, as Swin's detectors and segmenters have it.

    Attributes:
        channels: of each map.
        strides: pixels per cell of each map.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[float]) -> None:
        super().__init__()
        self.channels, self.strides = tuple(in_channels), tuple(strides)
        self.norms = nn.ModuleList(LayerNorm2d(d) for d in in_channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """One map for each of `features`."""
        return [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]


class FeaturePyramid(nn.Module):
    """Feature pyramid network (torchvision's) on normed stages; levels coarser than the last stage are max-pooled.

    Stages finer than the first scale are left out: the top-down path would not use them. Source: Lin et al., "Feature
    Pyramid Networks for Object Detection" (CVPR 2017).

    Attributes:
        channels: of each level.
        strides: pixels per cell of each level.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[float], channels: int, scales: Sequence[float]
    ) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.channels = (channels,) * len(scales)
        self.strides = tuple(4 * strides[0] / scale for scale in scales)
        reach = [strides[-1] * 2**power for power in range(1, len(scales) + 1)]
        if self.strides[0] not in strides or list(self.strides) != sorted({*self.strides} & {*strides, *reach}):
            known = ", ".join(f"{4 * strides[0] / s:g}" for s in strides)
            raise ValueError(
                f"scales must fall from one of the maps' scales ({known}) by halves, but got {tuple(scales)}; "
                "name each level once, from fine to coarse."
            )
        self.first = list(strides).index(self.strides[0])
        self.stages = NormedStages(in_channels[self.first :], strides[self.first :])
        self.network = FeaturePyramidNetwork(list(self.stages.channels), channels)
        for index, stride in enumerate(self.stages.strides):
            if stride not in self.strides:  # only passed on to finer levels: its own output would train nothing
                self.network.layer_blocks[index] = nn.Identity()

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Levels from fine to coarse."""
        named = {str(i): stage for i, stage in enumerate(self.stages(features[self.first :]))}
        levels = dict(zip(self.stages.strides, self.network(named).values(), strict=True))
        for before, stride in zip(self.strides, self.strides[1:], strict=False):
            if stride not in levels:
                levels[stride] = nn.functional.max_pool2d(levels[before], 1, stride=2)
        return [levels[stride] for stride in self.strides]


def pyramid(
    in_channels: Sequence[int], strides: Sequence[float], channels: int = 256, scales: Sequence[float] = SCALES
) -> SimplePyramid | FeaturePyramid:
    """Levels of `channels` at `scales`: a simple feature pyramid on one map, a feature pyramid network on several.

    Raises:
        ValueError: scales that the maps have no level for.
    """
    if len(in_channels) == 1:
        return SimplePyramid(in_channels[0], channels, scales, strides[0])
    return FeaturePyramid(in_channels, strides, channels, scales)


def four_levels(
    in_channels: Sequence[int], strides: Sequence[float], channels: int = 256
) -> SimplePyramid | NormedStages:
    """Four levels for a head that takes levels of any width: a simple feature pyramid on one map, else the stages.

    Raises:
        ValueError: neither one nor four maps.
    """
    if len(in_channels) == 1:
        return SimplePyramid(in_channels[0], channels, stride=strides[0])
    if len(in_channels) != 4:
        raise ValueError(f"the backbone must give 1 or 4 maps, but got {len(in_channels)}; choose another backbone.")
    return NormedStages(in_channels, strides)


def _level(d: int, channels: int, scale: float) -> list[nn.Module]:
    if scale < 1:
        return [nn.MaxPool2d(round(1 / scale)), *_lateral(d, channels)]
    if scale == 1:
        return _lateral(d, channels)
    once = nn.ConvTranspose2d(d, d // 2, 2, stride=2)
    if scale == 2:
        return [once, *_lateral(d // 2, channels)]
    twice = nn.ConvTranspose2d(d // 2, d // 4, 2, stride=2)
    return [once, LayerNorm2d(d // 2), nn.GELU(), twice, *_lateral(d // 4, channels)]


def _lateral(before: int, after: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 1, bias=False),
        LayerNorm2d(after),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        LayerNorm2d(after),
    ]
