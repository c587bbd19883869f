"""VPT-deep: learned prompt tokens at the input of every block (Jia et al. 2022, arXiv 2203.12119).

    [prefix, prompts, patches] = block_i([prefix, P_i, patches])

What a block returns at its prompts is dropped; the next block gets its own. Prompts carry no position embedding and
never reach the head. They start uniform in +-sqrt(6 / (3 patch^2 + d)): the network does not start as the frozen
backbone. Parameters: num_tokens d per block; 460,800 for 50 tokens on a ViT-B.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone
from sigma_ray.checks import fraction, positive

# Shapes: B images, N tokens (prefix, prompts, patches), P prompts, D channels of the backbone.

STARTS_EQUAL = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of VPT-deep.

    Attributes:
        num_tokens: prompts per block.
        dropout: share of prompt activations dropped in training.
    """

    num_tokens: int = 50
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        positive("vpt.num_tokens", self.num_tokens)
        fraction("vpt.dropout", self.dropout)


class Prompts(nn.Module):
    """Replace whatever lies between prefix and patches by this block's prompts."""

    def __init__(self, num_tokens: int, num_prefix: int, dim: int, bound: float, dropout: float) -> None:
        """Make `num_tokens` prompts of `dim` channels, uniform in +-`bound`."""
        super().__init__()
        self.num_prefix = num_prefix
        self.tokens = nn.Parameter(torch.empty(num_tokens, dim).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Transform (B, N, D) tokens into (B, prefix + P + h w, D)."""
        prompts_BPD = self.dropout(self.tokens.to(x_BND.dtype).expand(len(x_BND), -1, -1))
        patches = x_BND[:, x_BND.shape[1] - grid[0] * grid[1] :]
        return torch.cat([x_BND[:, : self.num_prefix], prompts_BPD, patches], dim=1)


def attach(backbone: Backbone, cfg: Config) -> None:
    """Put prompts at the input of every block.

    Raises:
        ValueError: the backbone attends in windows, or a method is attached already.
    """
    _inject.only_on(backbone, "vpt", ("vit",), "prompts inside attention windows are not implemented")
    _inject.claim(backbone, "vpt")
    bound = math.sqrt(6 / (3 * backbone.patch_size**2 + backbone.embed_dim))
    device = next(backbone.parameters()).device
    blocks: Any = backbone.blocks
    for block in blocks:
        prompts = Prompts(cfg.num_tokens, backbone.num_prefix_tokens, block.dim, bound, cfg.dropout)
        block.add_site("input", prompts.to(device))
