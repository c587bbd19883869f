"""AdaptFormer: a scaled bottleneck beside every feed-forward (Chen et al. 2022, arXiv 2205.13535).

    x <- x + FFN(LN x) + s (ReLU(x W_d + b_d) W_u + b_u)

with x the stream after attention, not normalised, and s fixed. The branch by-passes LayerScale. W_d is Kaiming-uniform,
W_u, b_d and b_u start at zero: the network starts as the frozen backbone. Parameters: 2dm + m + d per block;
1,189,632 at m = 64 on a ViT-B.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone
from sigma_ray.checks import fraction, positive

# Shapes: B images, N tokens, D channels of the backbone.

STARTS_EQUAL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of AdaptFormer.

    Attributes:
        bottleneck_dim: width m of the bottleneck.
        scale: factor s of the branch.
        dropout: share of bottleneck activations dropped in training.
    """

    bottleneck_dim: int = 64
    scale: float = 0.1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        positive("adaptformer.bottleneck_dim", self.bottleneck_dim)
        positive("adaptformer.scale", self.scale)
        fraction("adaptformer.dropout", self.dropout)


class Branch(nn.Module):
    """s (ReLU(x W_d + b_d) W_u + b_u) on every token, prefix tokens included."""

    def __init__(self, dim: int, bottleneck_dim: int, scale: float, dropout: float) -> None:
        """Make a branch of `bottleneck_dim` channels on `dim`, which starts at zero."""
        super().__init__()
        self.scale = scale
        self.down = _inject.kaiming_linear(dim, bottleneck_dim)
        self.dropout = nn.Dropout(dropout)
        self.up = _inject.zero_linear(bottleneck_dim, dim)

    def forward(self, x_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the term of (B, N, D) tokens; the grid plays no part."""
        return self.scale * self.up(self.dropout(F.relu(self.down(x_BND))))


def attach(backbone: Backbone, cfg: Config) -> None:
    """Put a branch beside feed-forward in every block.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "adaptformer")
    _inject.insert(
        backbone, ("ffn_parallel_stream",), lambda dim: Branch(dim, cfg.bottleneck_dim, cfg.scale, cfg.dropout)
    )
