"""ViTDet's simple feature pyramid: four levels from the last map of a plain ViT.

Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022), section 3. Per level:
resampling, then 1x1 and 3x3 convolutions without bias, each followed by a LayerNorm over channels.
"""

from timm.layers import LayerNorm2d
from torch import Tensor, nn


class SimplePyramid(nn.Module):
    """Maps (B, d, h, w) -> four maps of `channels` at 4, 2, 1 and 1/2 times the resolution.

    With patch 16 the strides are 4, 8, 16, 32; with patch 14 they are 3.5, 7, 14, 28.
    """

    def __init__(self, in_channels: int, channels: int = 256) -> None:
        super().__init__()
        d = in_channels
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(d, d // 2, 2, stride=2),
                    LayerNorm2d(d // 2),
                    nn.GELU(),
                    nn.ConvTranspose2d(d // 2, d // 4, 2, stride=2),
                    *_lateral(d // 4, channels),
                ),
                nn.Sequential(nn.ConvTranspose2d(d, d // 2, 2, stride=2), *_lateral(d // 2, channels)),
                nn.Sequential(*_lateral(d, channels)),
                nn.Sequential(nn.MaxPool2d(2), *_lateral(d, channels)),
            ]
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Levels from fine to coarse, from the last of `features`."""
        return [level(features[-1]) for level in self.levels]


def _lateral(before: int, after: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 1, bias=False),
        LayerNorm2d(after),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        LayerNorm2d(after),
    ]
