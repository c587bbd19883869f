"""ViTDet's simple feature pyramid: four levels from the last map of a plain ViT.

Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022), section 3. Per level:
resampling, then 1x1 and 3x3 convolutions without bias, each followed by a LayerNorm over channels.
"""

from timm.layers import LayerNorm2d
from torch import Tensor, nn


class SimplePyramid(nn.Module):
    """Maps (B, d, h, w) -> one map of `channels` for each of `scales`, times the resolution (4, 2, 1, 0.5 or 0.25).

    With patch 16 the default strides are 4, 8, 16, 32; with patch 14 they are 3.5, 7, 14, 28.
    """

    def __init__(self, in_channels: int, channels: int = 256, scales: tuple[float, ...] = (4, 2, 1, 0.5)) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Sequential(*_level(in_channels, channels, scale)) for scale in scales)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Levels from fine to coarse, from the last of `features`."""
        return [level(features[-1]) for level in self.levels]


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
