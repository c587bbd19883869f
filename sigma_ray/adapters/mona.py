"""Mona: multi-cognitive visual adapter (Yin et al. 2024, arXiv 2408.08345), SIGMA's parent.

One module after attention and one after feed-forward in every block, on the stream, with its own skip:

    v = gamma_n * LN(x) + gamma_x * x        gamma_n starts at 1e-6, gamma_x at 1
    U = v W_d + b_d
    A = (DW3(U) + DW5(U) + DW7(U)) / 3 + U
    B = A + PW(A)
    x <- x + GELU(B) W_u + b_u

Prefix tokens, which Mona's own backbone (Swin) does not have, pass by. Linear weights are truncated normal with std
0.02, also W_u, so that the network does not start as the frozen backbone. Parameters: 5d + 2dr + 88r + r^2 per module;
2,684,928 at r = 64 on a ViT-B.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigma_ray.adapters import _inject
from sigma_ray.adapters.sigma import Fusion
from sigma_ray.backbone import Backbone
from sigma_ray.checks import fraction, odd, positive

# Shapes: B images, N tokens (prefix, then M patches), D backbone and R bottleneck channels.

STARTS_EQUAL = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of Mona.

    Attributes:
        bottleneck_dim: width r.
        kernel_sizes: depth-wise kernels, odd.
        dropout: share of activations dropped before W_u in training.
    """

    bottleneck_dim: int = 64
    kernel_sizes: tuple[int, ...] = (3, 5, 7)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        positive("mona.bottleneck_dim", self.bottleneck_dim)
        odd("mona.kernel_sizes", self.kernel_sizes)
        fraction("mona.dropout", self.dropout)


class Mona(nn.Module):
    """One module with its own skip."""

    def __init__(self, dim: int, bottleneck_dim: int, kernel_sizes: tuple[int, ...], dropout: float) -> None:
        """Make a module of `bottleneck_dim` channels on `dim`."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.norm_scale = nn.Parameter(torch.full((dim,), 1e-6))
        self.skip_scale = nn.Parameter(torch.ones(dim))
        self.down = _inject.small_linear(dim, bottleneck_dim)
        self.fusion = Fusion(bottleneck_dim, kernel_sizes, concat=False, mean=True, residual=True)
        self.dropout = nn.Dropout(dropout)
        self.up = _inject.small_linear(bottleneck_dim, dim)

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Transform the token stream (B, N, D) of a patch `grid` (h, w)."""
        num_prefix = x_BND.shape[1] - grid[0] * grid[1]
        v_BND = self.norm(x_BND) * self.norm_scale + x_BND * self.skip_scale
        b_BMR = self.fusion(self.down(v_BND)[:, num_prefix:], grid, [])
        update = self.up(self.dropout(F.gelu(b_BMR)))
        return x_BND + (F.pad(update, (0, 0, num_prefix, 0)) if num_prefix else update)


def attach(backbone: Backbone, cfg: Config) -> None:
    """Put a module after attention and after feed-forward in every block.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "mona")
    _inject.insert(
        backbone,
        ("attn_post", "ffn_post"),
        lambda dim: Mona(dim, cfg.bottleneck_dim, cfg.kernel_sizes, cfg.dropout),
    )
