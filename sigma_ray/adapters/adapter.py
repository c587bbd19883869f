"""Adapter: sequential bottlenecks after attention and feed-forward (Houlsby et al. 2019, arXiv 1902.00751).

    y <- y + GELU(y W_d + b_d) W_u + b_u

with y the sub-layer's output after LayerScale, before the residual add.

No LayerNorm inside, and by default no dropout, as in the paper (Mona's code has 0.1). W_u and b_u start at zero, so
that the network starts as the frozen backbone. Parameters: 2 (2dm + m + d) per block; 2,379,264 at m = 64 on a ViT-B.
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
    """Options of Adapter.

    Attributes:
        bottleneck_dim: width m of the bottleneck.
        dropout: share of bottleneck activations dropped in training.
    """

    bottleneck_dim: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        positive("adapter.bottleneck_dim", self.bottleneck_dim)
        fraction("adapter.dropout", self.dropout)


class Bottleneck(nn.Module):
    """y + GELU(y W_d + b_d) W_u + b_u on every token, prefix tokens included."""

    def __init__(self, dim: int, bottleneck_dim: int, dropout: float) -> None:
        """Make a bottleneck of `bottleneck_dim` channels on `dim`, which starts as the identity."""
        super().__init__()
        self.down = _inject.small_linear(dim, bottleneck_dim)
        self.dropout = nn.Dropout(dropout)
        self.up = _inject.zero_linear(bottleneck_dim, dim)

    def forward(self, y_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Transform (B, N, D) tokens; the grid plays no part."""
        return y_BND + self.up(self.dropout(F.gelu(self.down(y_BND))))


def attach(backbone: Backbone, cfg: Config) -> None:
    """Put a bottleneck after attention and after feed-forward in every block.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "adapter")
    _inject.insert(
        backbone,
        ("attn_out", "ffn_out"),
        lambda dim: Bottleneck(dim, cfg.bottleneck_dim, cfg.dropout),
    )
