"""VFM-Adapter: hybrid operation mapping whose kernels a hyper-network writes for each image (Chen et al., AAAI 2025).

    x <- x + MHA(v) + s A(v)        v = LN x;  the same at feed-forward
    A(v) = W_u phi(conv3x3(phi(W_d v); K))        phi = QuickGELU                     hybrid operation mapping, (5)
    p = Lin(ReLU(Lin(v)))                         d -> 64 -> z, for each patch
    h = sum_t sum_i softmax_i(p_i . E_t) p_i      E (T x z) shared by all adapters    input-aware embedding, (7)
    K = w_1 . reshape(w_2 h)                      z -> r x z, then each row z -> 9r   hyper-network

Two hyper-networks (w_1, w_2) serve all adapters at attention and all at feed-forward. `hypernet` takes it apart:
`aware` as above, `independent` gives every adapter a learned h instead, `none` a learned K; without `hom` there is no
convolution, A(v) = W_u phi(W_d v). Prefix tokens are 1x1 maps, so they meet the kernel's centre tap only.

Published: the parts, and the totals. From the authors' code: QuickGELU on both sides, the projection d -> 64 -> z, the
sum over t where equation (7) has the mean. Inferred from the totals: r = 32, z = 64. Not known: T (8 is used; up to 22
print the same total) and s. W_d, w_1 and w_2 are Xavier with zero biases, the projection as torch initialises it, W_u
and b_u zero: the network starts as the frozen backbone.

Parameters: 24 (2dr + r + d + 64d + 64 + 64z + z) + 2 (9rz + 9r + r z^2 + rz) + Tz; 2,784,064 on a ViT-B.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone
from sigma_ray.checks import fraction, one_of, positive

# Shapes: B images, N tokens (prefix, then M patches), P prefix tokens, D backbone and R bottleneck channels,
# Z embedding, T queries.

STARTS_EQUAL = True
META_DIM = 64


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of VFM-Adapter.

    Attributes:
        bottleneck_dim: width r.
        embedding_dim: width z of the layer embedding.
        num_queries: number T of learned queries E.
        hom: hybrid operation mapping; False leaves a linear bottleneck.
        hypernet: `aware` of the image, `independent` of it, or `none`.
        scale: factor s of the branch.
        dropout: share of activations dropped before W_u in training.
    """

    bottleneck_dim: int = 32
    embedding_dim: int = 64
    num_queries: int = 8
    hom: bool = True
    hypernet: str = "aware"
    scale: float = 1.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        positive("vfm_adapter.bottleneck_dim", self.bottleneck_dim)
        positive("vfm_adapter.embedding_dim", self.embedding_dim)
        positive("vfm_adapter.num_queries", self.num_queries)
        one_of("vfm_adapter.hypernet", self.hypernet, ("aware", "independent", "none"))
        if not self.hom and self.hypernet != "none":
            raise ValueError(
                f"vfm_adapter.hypernet must be none without hom, but got {self.hypernet!r}; set it to none."
            )
        positive("vfm_adapter.scale", self.scale)
        fraction("vfm_adapter.dropout", self.dropout)


class HyperNet(nn.Module):
    """Turns a layer embedding into a 3x3 kernel."""

    def __init__(self, embedding_dim: int, bottleneck_dim: int) -> None:
        """Make w_2 and w_1."""
        super().__init__()
        self.rows = _inject.xavier_linear(embedding_dim, bottleneck_dim * embedding_dim)
        self.taps = _inject.xavier_linear(embedding_dim, 9 * bottleneck_dim)
        self.bottleneck_dim = bottleneck_dim

    def forward(self, h_BZ: Tensor) -> Tensor:
        """Return a kernel (B, R, R, 3, 3) for each embedding."""
        rows_BRZ = self.rows(h_BZ).unflatten(-1, (self.bottleneck_dim, -1))
        return self.taps(rows_BRZ).unflatten(-1, (self.bottleneck_dim, 3, 3))


class AwareEmbedding(nn.Module):
    """The embedding h of an adapter's input: patches gathered by the shared queries."""

    def __init__(self, dim: int, queries_TZ: nn.Parameter) -> None:
        """Make the projection of `dim` channels."""
        super().__init__()
        self.queries = queries_TZ
        self.inner = nn.Linear(dim, META_DIM)
        self.outer = nn.Linear(META_DIM, queries_TZ.shape[1])

    def forward(self, v_BMD: Tensor) -> Tensor:
        """Return (B, Z) of patch tokens (B, M, D)."""
        p_BMZ = self.outer(F.relu(self.inner(v_BMD)))
        shares_BMT = (p_BMZ @ self.queries.T).softmax(dim=1)
        return torch.einsum("bmt,bmz->bz", shares_BMT, p_BMZ)


class Embedding(nn.Module):
    """A learned embedding h, the same for every image."""

    def __init__(self, embedding_dim: int) -> None:
        """Make the embedding."""
        super().__init__()
        self.value = nn.Parameter(torch.randn(1, embedding_dim))

    def forward(self, v_BMD: Tensor) -> Tensor:
        """Return (1, Z) whatever the tokens."""
        return self.value


class Kernel(nn.Module):
    """A learned kernel K, the same for every image."""

    def __init__(self, bottleneck_dim: int) -> None:
        """Make the kernel, as torch initialises a convolution."""
        super().__init__()
        self.value = nn.Parameter(nn.Conv2d(bottleneck_dim, bottleneck_dim, 3).weight.detach().clone())

    def forward(self, v_BMD: Tensor) -> Tensor:
        """Return (1, R, R, 3, 3) whatever the tokens."""
        return self.value[None]


class Branch(nn.Module):
    """s W_u phi(conv3x3(phi(W_d v); K)), K from `kernel(patches)`; without one, no convolution."""

    def __init__(self, dim: int, kernel: nn.Module | None, cfg: Config) -> None:
        """Make a branch on `dim` channels, which starts at zero."""
        super().__init__()
        self.scale = cfg.scale
        self.kernel = kernel
        self.down = _inject.xavier_linear(dim, cfg.bottleneck_dim)
        self.dropout = nn.Dropout(cfg.dropout)
        self.up = _inject.zero_linear(cfg.bottleneck_dim, dim)

    def forward(self, v_BND: Tensor, grid: tuple[int, int]) -> Tensor:
        """Compute the term of normalised tokens (B, N, D) with a patch `grid` (h, w)."""
        u_BNR = _inject.quick_gelu(self.down(v_BND))
        if self.kernel is not None:
            kernel_BRR33 = self.kernel(v_BND[:, v_BND.shape[1] - grid[0] * grid[1] :])
            u_BNR = _inject.quick_gelu(_inject.convolve(u_BNR, kernel_BRR33.to(u_BNR.dtype), grid))
        return self.scale * self.up(self.dropout(u_BNR))


def attach(backbone: Backbone, cfg: Config) -> None:
    """Put a branch beside attention and beside feed-forward in every block.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "vfm_adapter")
    device = next(backbone.parameters()).device
    queries = nn.Parameter(torch.randn(cfg.num_queries, cfg.embedding_dim, device=device))
    blocks: Any = backbone.blocks
    for side in ("attn", "ffn"):
        hypernet = HyperNet(cfg.embedding_dim, cfg.bottleneck_dim)
        for block in blocks:
            kernel = _kernel(cfg, block.dim, hypernet, queries)
            block.add_site(f"{side}_parallel", Branch(block.dim, kernel, cfg).to(device))


def _kernel(cfg: Config, dim: int, hypernet: HyperNet, queries: nn.Parameter) -> nn.Module | None:
    """Choose where an adapter's kernel comes from."""
    if not cfg.hom:
        return None
    if cfg.hypernet == "none":
        return Kernel(cfg.bottleneck_dim)
    embedding = Embedding(cfg.embedding_dim) if cfg.hypernet == "independent" else AwareEmbedding(dim, queries)
    return nn.Sequential(embedding, hypernet)
