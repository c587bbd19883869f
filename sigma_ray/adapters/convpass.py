"""ConvPass: convolutional by-passes of attention and feed-forward (Jie and Deng 2022, arXiv 2207.07039).

    x <- x + MHA(v) + s A(v)        v = LN x;  the same at feed-forward
    A(v) = W_u phi(conv3x3(phi(W_d v)))        phi = QuickGELU

Patch tokens form a map; each prefix token is a 1x1 map of its own and meets the kernel's centre tap only. The
convolution starts as the identity, W_u, b_u and the other biases at zero: the network starts as the frozen backbone.
The authors tune s in {0.01, 0.1, 1, 10, 100}. Parameters: 2 (2dh + h + d + 9h^2 + h) per block; 327,552 at h = 8 on a
ViT-B.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone
from sigma_ray.checks import fraction, positive

# Shapes: B images, N tokens (prefix, then patches), D backbone and R bottleneck channels.

STARTS_EQUAL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of ConvPass.

    Attributes:
        bottleneck_dim: width h of the by-pass.
        scale: factor s of the by-pass.
        dropout: share of activations dropped before W_u in training.
    """

    bottleneck_dim: int = 8
    scale: float = 1.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        positive("convpass.bottleneck_dim", self.bottleneck_dim)
        positive("convpass.scale", self.scale)
        fraction("convpass.dropout", self.dropout)


class ByPass(nn.Module):
    """s W_u phi(conv3x3(phi(W_d v)))."""

    def __init__(self, dim: int, bottleneck_dim: int, scale: float, dropout: float) -> None:
        """Make a by-pass of `bottleneck_dim` channels on `dim`, which starts at zero."""
        super().__init__()
        self.scale = scale
        self.down = _inject.xavier_linear(dim, bottleneck_dim)
        self.conv = _identity_conv(bottleneck_dim)
        self.dropout = nn.Dropout(dropout)
        self.up = _inject.zero_linear(bottleneck_dim, dim)

    def forward(self, v_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the term of normalised tokens (B, N, D) with a patch `grid` (h, w)."""
        u_BNR = _inject.quick_gelu(self.down(v_BND))
        kernel, bias = self.conv.weight.to(u_BNR.dtype), self.conv.bias.to(u_BNR.dtype)
        mixed_BNR = _inject.convolve(u_BNR, kernel[None], grid) + bias
        return self.scale * self.up(self.dropout(_inject.quick_gelu(mixed_BNR)))


def _identity_conv(channels: int) -> Any:
    conv: Any = nn.Conv2d(channels, channels, 3, padding=1)
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def attach(backbone: Backbone, cfg: Config) -> None:
    """Put a by-pass beside attention and beside feed-forward in every block.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "convpass")
    _inject.insert(
        backbone,
        ("attn_parallel", "ffn_parallel"),
        lambda dim: ByPass(dim, cfg.bottleneck_dim, cfg.scale, cfg.dropout),
    )
