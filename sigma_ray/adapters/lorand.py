"""LoRand: adapters whose matrices are sums of low-rank products (Yin et al. 2023, arXiv 2303.00690).

    W_D = sum_i P_i K_i Q_i        d x b, b x b, b x m
    W_U = sum_i R_i K_i T_i        m x b, b x b, b x d
    y <- y + GELU(y W_D + b_D) W_U + b_U

after attention and after feed-forward, on the sub-layer's output after LayerScale. The kernels K_i are shared by down
and up of one adapter: unshared ones (`shared_kernel=False`) miss the published count. The factors are Kaiming-uniform
(a = sqrt 5), the biases uniform in +-1/sqrt(fan_in): the network does not start as the frozen backbone, though close to
it. The matrices are never formed; tokens pass through the factors, which takes a quarter of the operations at the
default sizes.

Parameters: 2 (a (2b(d + m) + b^2) + m + d) per block; 3,591,168 at a = 4, b = 16, m = d/2 on a ViT-B (SIGMA Table 1).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone
from sigma_ray.checks import positive

# Shapes: B images, N tokens, A branches, K kernel width, D backbone and M bottleneck channels.

STARTS_EQUAL = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of LoRand.

    Attributes:
        num_branches: number a of products in each sum.
        kernel_dim: width b of the kernels K_i.
        bottleneck_dim: width m of the adapter; None means half of the block's width.
        shared_kernel: use the same kernels down and up.
        norms: train the blocks' LayerNorms too, as VFM-Adapter's code does on SAM.
    """

    num_branches: int = 4
    kernel_dim: int = 16
    bottleneck_dim: int | None = None
    shared_kernel: bool = True
    norms: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        positive("lorand.num_branches", self.num_branches)
        positive("lorand.kernel_dim", self.kernel_dim)
        if self.bottleneck_dim is not None:
            positive("lorand.bottleneck_dim", self.bottleneck_dim)


class LoRand(nn.Module):
    """y + GELU(y W_D + b_D) W_U + b_U on every token, prefix tokens included."""

    def __init__(self, dim: int, bottleneck_dim: int, num_branches: int, kernel_dim: int, shared: bool = True) -> None:
        """Make an adapter of `bottleneck_dim` channels on `dim`."""
        super().__init__()
        self.down_kernel = _factor(num_branches, kernel_dim, kernel_dim)
        self.up_kernel = self.down_kernel if shared else _factor(num_branches, kernel_dim, kernel_dim)
        self.down_in = _factor(num_branches, dim, kernel_dim)
        self.down_out = _factor(num_branches, kernel_dim, bottleneck_dim)
        self.up_in = _factor(num_branches, bottleneck_dim, kernel_dim)
        self.up_out = _factor(num_branches, kernel_dim, dim)
        self.down_bias = nn.Parameter(torch.empty(bottleneck_dim).uniform_(-1, 1) / math.sqrt(dim))
        self.up_bias = nn.Parameter(torch.empty(dim).uniform_(-1, 1) / math.sqrt(bottleneck_dim))

    def forward(self, y_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Transform (B, N, D) tokens; the grid plays no part."""
        z_BNM = F.gelu(_through(y_BND, self.down_in, self.down_kernel, self.down_out) + self.down_bias)
        return y_BND + _through(z_BNM, self.up_in, self.up_kernel, self.up_out) + self.up_bias


def _through(x: Tensor, first_AIK: Tensor, kernel_AKK: Tensor, last_AKO: Tensor) -> Tensor:
    """Compute x sum_a (first_a kernel_a last_a)."""
    inner = (first_AIK @ kernel_AKK).transpose(0, 1).flatten(1)
    return x @ inner @ last_AKO.flatten(0, 1)


def _factor(num_branches: int, rows: int, columns: int) -> nn.Parameter:
    """Draw (A, rows, columns), each branch Kaiming-uniform (a = sqrt 5): within +-1/sqrt(columns)."""
    return nn.Parameter(torch.empty(num_branches, rows, columns).uniform_(-1, 1) / math.sqrt(columns))


def attach(backbone: Backbone, cfg: Config) -> None:
    """Put an adapter after attention and after feed-forward in every block.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "lorand")
    _inject.insert(
        backbone,
        ("attn_out", "ffn_out"),
        lambda dim: LoRand(dim, cfg.bottleneck_dim or dim // 2, cfg.num_branches, cfg.kernel_dim, cfg.shared_kernel),
    )
    blocks: Any = backbone.blocks
    for block in blocks if cfg.norms else ():
        block.norm1.requires_grad_(True)
        block.norm2.requires_grad_(True)
