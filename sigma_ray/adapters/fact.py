"""FacT: all weight updates of the network as one low-rank tensor (Jie and Deng 2023, arXiv 2212.03145).

    dW_j = s U Sigma_j V^T        for the d x d pieces j of all blocks: q, k, v, proj, 4 of fc1, 4 of fc2

U and V (d x r) are shared by the whole network. `tt` (tensor train): every piece has its own Sigma_j (r x r). `tk`
(Tucker): Sigma_j = sum_k P_kj C_k with a core C (r x r x r) and P (r x pieces). V starts at zero: the network starts
as the frozen backbone. The authors tune s in {0.01, 0.1, 1, 10, 100}. Merges into the weights.

Parameters, 12 pieces per block: tt 2dr + 144 r^2 = 61,440 at r = 16, tk 2dr + 144 r + r^3 = 86,528 at r = 32 on a
ViT-B.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigma_ray.adapters import _inject, _wrap
from sigma_ray.backbone import Backbone
from sigma_ray.checks import fraction, one_of, positive
from sigma_ray.failures import UnsupportedError

# Shapes: ... any leading dimensions, D channels of the backbone, R rank, J pieces of the network, Q of one layer.

STARTS_EQUAL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of FacT.

    Attributes:
        rank: rank r of the shared factors.
        form: `tt` (tensor train) or `tk` (Tucker).
        scale: factor s of every update.
        dropout: share of activations dropped before V in training.
    """

    rank: int = 16
    form: str = "tt"
    scale: float = 1.0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        positive("fact.rank", self.rank)
        one_of("fact.form", self.form, ("tt", "tk"))
        positive("fact.scale", self.scale)
        fraction("fact.dropout", self.dropout)


class Factors(nn.Module):
    """U, V and what the middle matrices of all pieces are made of."""

    def __init__(self, dim: int, num_pieces: int, cfg: Config) -> None:
        """Make the factors for `num_pieces` d x d pieces."""
        super().__init__()
        self.first = nn.Parameter(_uniform(dim, cfg.rank, fan_in=dim))
        self.last = nn.Parameter(torch.zeros(cfg.rank, dim))
        if cfg.form == "tt":
            self.core = nn.Parameter(_uniform(num_pieces, cfg.rank, cfg.rank, fan_in=cfg.rank))
            self.mixing = None
        else:
            self.core = nn.Parameter(_uniform(cfg.rank, cfg.rank, cfg.rank, fan_in=cfg.rank))
            self.mixing = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_pieces, cfg.rank)))

    def middle(self, pieces: slice) -> Tensor:
        """Return the Sigma (Q, R, R) of some pieces."""
        if self.mixing is None:
            return self.core[pieces]
        return torch.einsum("qk,kio->qio", self.mixing[pieces], self.core)


class FactLinear(_wrap.Wrapped):
    """A frozen Linear plus s U Sigma V^T on each of its d x d pieces."""

    def __init__(self, base: nn.Linear, factors: Factors, pieces: slice, cfg: Config) -> None:
        """Wrap `base`, whose weight is `pieces` side by side, over outputs or over inputs."""
        super().__init__(base)
        self.factors, self.pieces, self.scale = factors, pieces, cfg.scale
        self.over_inputs = base.in_features > base.out_features
        self.dropout = nn.Dropout(cfg.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D_in) to (..., D_out)."""
        first, last, middle_QRR = self.factors.first, self.factors.last, self.factors.middle(self.pieces)
        if self.over_inputs:
            u = x.unflatten(-1, (len(middle_QRR), -1)) @ first
            update = self.dropout(u.flatten(-2) @ middle_QRR.flatten(0, 1)) @ last
        else:
            u = (x @ first) @ middle_QRR.transpose(0, 1).flatten(1)
            update = (self.dropout(u).unflatten(-1, (len(middle_QRR), -1)) @ last).flatten(-2)
        return self.base(x) + self.scale * update

    def merged(self) -> nn.Module:
        """Add the update to the weight."""
        deltas_QDD = self.factors.first @ self.factors.middle(self.pieces) @ self.factors.last
        delta = torch.cat(list(deltas_QDD.transpose(1, 2)), dim=1 if self.over_inputs else 0)
        return _wrap.with_weights(self.base, self.base.weight + self.scale * delta, self.base.bias)


def _uniform(*shape: int, fan_in: int) -> Tensor:
    return torch.empty(*shape).uniform_(-1, 1) / math.sqrt(fan_in)


def attach(backbone: Backbone, cfg: Config) -> None:
    """Wrap qkv, proj, fc1 and fc2 of every block.

    Raises:
        ValueError: blocks of different widths, or a method is attached already.
    """
    blocks: Any = backbone.blocks
    why = "its two factors are shared by all blocks, which differ in width"
    _inject.only_on(backbone, "fact", ("vit", "sam"), why)
    dim = backbone.embed_dim
    layers = [
        (owner, name)
        for b in blocks
        for owner, name in ((b.attn, "qkv"), (b.attn, "proj"), (b.mlp, "fc1"), (b.mlp, "fc2"))
    ]
    counts = [getattr(owner, name).weight.numel() // dim**2 for owner, name in layers]
    if any(getattr(o, n).weight.numel() != count * dim**2 for (o, n), count in zip(layers, counts, strict=True)):
        raise UnsupportedError(f"fact cannot run on {backbone.name}: its weights are not made of {dim} x {dim} pieces.")
    _inject.claim(backbone, "fact")
    factors = Factors(dim, sum(counts), cfg).to(next(backbone.parameters()).device)
    start = 0
    for (owner, name), count in zip(layers, counts, strict=True):
        setattr(owner, name, FactLinear(getattr(owner, name), factors, slice(start, start + count), cfg))
        start += count


def merge(backbone: Backbone) -> None:
    """Add every update to its weight."""
    _wrap.unwrap(backbone)
