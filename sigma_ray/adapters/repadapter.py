"""RepAdapter: linear adapters before attention and feed-forward (Luo et al. 2023, arXiv 2302.08106).

    v <- v + s (U (A v + a) + u)        v = LN x;  A: r x d;  U: d x r in g diagonal blocks

There is no activation, so the method merges into the layer that reads v, except where windows are padded with zeros in
between. A is Xavier-uniform, U and the biases start at zero: the network starts as the frozen backbone. The authors
tune s per data set. Parameters: 2 (dr + r + dr/g + d) per block; 239,808 at r = 8 and g = 2 on a ViT-B.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigma_ray.adapters import _inject, _wrap
from sigma_ray.backbone import Backbone
from sigma_ray.checks import fraction, positive

# Shapes: B images, N tokens, D channels of the backbone, R of the bottleneck, G groups.

STARTS_EQUAL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of RepAdapter.

    Attributes:
        bottleneck_dim: width r, a multiple of `groups`.
        groups: number g of diagonal blocks of U.
        scale: factor s.
        dropout: share of bottleneck activations dropped in training.
    """

    bottleneck_dim: int = 8
    groups: int = 2
    scale: float = 1.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        positive("repadapter.bottleneck_dim", self.bottleneck_dim)
        positive("repadapter.groups", self.groups)
        positive("repadapter.scale", self.scale)
        fraction("repadapter.dropout", self.dropout)
        if self.bottleneck_dim % self.groups:
            raise ValueError(
                f"repadapter.bottleneck_dim must be a multiple of repadapter.groups ({self.groups}), but got "
                f"{self.bottleneck_dim}; change either."
            )


class RepAdapter(nn.Module):
    """v + s (U (A v + a) + u) on every token, prefix tokens included."""

    def __init__(self, dim: int, bottleneck_dim: int, groups: int, scale: float, dropout: float) -> None:
        """Make a module of `bottleneck_dim` channels on `dim`, which starts as the identity."""
        super().__init__()
        self.scale = scale
        self.down = _inject.xavier_linear(dim, bottleneck_dim)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Parameter(torch.zeros(groups, bottleneck_dim // groups, dim // groups))
        self.up_bias = nn.Parameter(torch.zeros(dim))

    def forward(self, v_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Transform (B, N, D) normalised tokens; the grid plays no part."""
        u_BNGK = self.dropout(self.down(v_BND)).unflatten(-1, (len(self.up), -1))
        update_BND = torch.einsum("bngk,gkd->bngd", u_BNGK, self.up).flatten(2) + self.up_bias
        return v_BND + self.scale * update_BND

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return s U A and s (U a + u)."""
        up_DR = torch.block_diag(*self.up.transpose(1, 2))
        return self.scale * up_DR @ self.down.weight, self.scale * (up_DR @ self.down.bias + self.up_bias)


def attach(backbone: Backbone, cfg: Config) -> None:
    """Put a module before attention and before feed-forward in every block.

    Raises:
        ValueError: a block's width is not a multiple of the groups, or a method is attached already.
    """
    blocks: Any = backbone.blocks
    uneven = [block.dim for block in blocks if block.dim % cfg.groups]
    if uneven:
        raise ValueError(f"repadapter.groups must divide the block's width {uneven[0]}, but is {cfg.groups}; lower it.")
    _inject.claim(backbone, "repadapter")
    _inject.insert(
        backbone,
        ("attn_pre", "ffn_pre"),
        lambda dim: RepAdapter(dim, cfg.bottleneck_dim, cfg.groups, cfg.scale, cfg.dropout),
    )


def merge(backbone: Backbone) -> None:
    """Fold each module into the layer that reads it, qkv or fc1, and take it out.

    Raises:
        ValueError: the backbone attends in windows, whose padding a folded bias would reach.
    """
    _wrap.fold_inputs(backbone)
