"""ARC: adapter re-composing, one projection shared by all blocks (Dong et al. 2023, arXiv 2310.06234).

    v <- v + ((v W) * c) W^T + b        v = LN x

before attention and, with another W, before feed-forward. W (d x r) is shared by all blocks of one width, c (r) and b
(d) belong to the block. There is no activation, so the method merges into the layer that reads v, except where windows
are padded with zeros in between. Initialisation as in the authors' code: W Xavier, c zero at attention and Xavier at
feed-forward, b zero; hence the network does not start as the frozen backbone. Parameters: 2dr + 24 (r + d); 96,432 at
r = 50 on a ViT-B.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigma_ray.adapters import _inject, _wrap
from sigma_ray.backbone import Backbone
from sigma_ray.checks import fraction, positive

# Shapes: B images, N tokens, D channels of the backbone, R channels of the projection.

STARTS_EQUAL = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of ARC.

    Attributes:
        bottleneck_dim: width r of the shared projections.
        dropout: share of projected activations dropped in training.
    """

    bottleneck_dim: int = 50
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        positive("arc.bottleneck_dim", self.bottleneck_dim)
        fraction("arc.dropout", self.dropout)


class Arc(nn.Module):
    """v + ((v W) * c) W^T + b on every token, prefix tokens included."""

    def __init__(self, shared: nn.Parameter, coefficients: Tensor, dropout: float) -> None:
        """Make a block's module on the `shared` (D, R) projection."""
        super().__init__()
        self.projection = shared
        self.coefficients = nn.Parameter(coefficients)
        self.bias = nn.Parameter(torch.zeros(len(shared)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, v_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Transform (B, N, D) normalised tokens; the grid plays no part."""
        u_BNR = self.dropout(v_BND @ self.projection)
        return v_BND + F.linear(u_BNR * self.coefficients, self.projection, self.bias)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return W diag(c) W^T, which is symmetric, and b."""
        return (self.projection * self.coefficients) @ self.projection.T, self.bias


def attach(backbone: Backbone, cfg: Config) -> None:
    """Put a module before attention and before feed-forward in every block.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "arc")
    device = next(backbone.parameters()).device
    shared: dict[tuple[str, int], nn.Parameter] = {}
    blocks: Any = backbone.blocks
    for block in blocks:
        for side in ("attn", "ffn"):
            if (side, block.dim) not in shared:
                matrix = nn.init.xavier_uniform_(torch.empty(block.dim, cfg.bottleneck_dim))
                shared[side, block.dim] = nn.Parameter(matrix.to(device))
            zero = torch.zeros(cfg.bottleneck_dim)
            start = zero if side == "attn" else _inject.xavier_vector(cfg.bottleneck_dim)
            block.add_site(f"{side}_pre", Arc(shared[side, block.dim], start, cfg.dropout).to(device))


def merge(backbone: Backbone) -> None:
    """Fold each module into the layer that reads it, qkv or fc1, and take it out.

    Raises:
        ValueError: the backbone attends in windows, whose padding a folded bias would reach.
    """
    _wrap.fold_inputs(backbone)
