"""LoRA: low-rank updates of frozen weights (Hu et al. 2021, arXiv 2106.09685).

    W' = W + (alpha / r) B A        A: r x d_in, Kaiming-uniform(a = sqrt 5);  B: d_out x r, zeros

The update of q, k and v is added to its part of timm's fused qkv output, before any q/k norm. Merges into
the weights. Parameters: r (d_in + d_out) per target and block; 2,359,296 for q and v at r = 64 on a ViT-B.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigma_ray.adapters import _inject, _wrap
from sigma_ray.backbone import Backbone
from sigma_ray.checks import fraction, one_of, positive

# Shapes: ... any leading dimensions, D_in and D_out channels of the updated weight, R rank.

STARTS_EQUAL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of LoRA.

    Attributes:
        rank: rank r of every update.
        alpha: numerator of the scale alpha / r; None means r, a scale of 1.
        targets: which weights are updated, of q, k, v, qkv (one update of all three), proj (attention output), fc1,
            fc2 (feed-forward).
        dropout: share of inputs to the update dropped in training.
    """

    rank: int = 64
    alpha: float | None = None
    targets: tuple[str, ...] = ("q", "v")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        positive("lora.rank", self.rank)
        fraction("lora.dropout", self.dropout)
        if self.alpha is not None:
            positive("lora.alpha", self.alpha)
        for target in self.targets:
            one_of("lora.targets", target, ("q", "k", "v", "qkv", "proj", "fc1", "fc2"))
        if "qkv" in self.targets and {"q", "k", "v"} & set(self.targets):
            raise ValueError(f"lora.targets must name qkv or its parts, but got {self.targets!r}; leave one away.")
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError(f"lora.targets must name weights once each, but got {self.targets!r}; use q,v.")


class LowRank(nn.Module):
    """The update scale * B A x."""

    def __init__(self, in_features: int, out_features: int, rank: int, scale: float, dropout: float) -> None:
        """Make an update of rank `rank` that starts at zero."""
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Parameter(torch.empty(rank, in_features))
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D_in) to (..., D_out)."""
        down = F.linear(self.dropout(x), self.down)
        return F.linear(down if self.scale == 1 else down * self.scale, self.up)

    def matrix(self) -> Tensor:
        """Return scale * B A, (D_out, D_in)."""
        return self.scale * self.up @ self.down


class LowRankLinear(_wrap.Wrapped):
    """A frozen Linear plus its update."""

    def __init__(self, base: nn.Linear, update: LowRank) -> None:
        """Wrap `base`, whose parameters stay as they are."""
        super().__init__(base)
        self.update = update

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D_in) to (..., D_out)."""
        return self.base(x) + self.update(x)

    def merged(self) -> nn.Module:
        """Add the update to the weight."""
        return _wrap.with_weights(self.base, self.base.weight + self.update.matrix(), self.base.bias)


class LowRankQKV(_wrap.Wrapped):
    """A frozen fused qkv Linear plus updates of some of its three parts."""

    def __init__(self, base: nn.Linear, updates: dict[str, LowRank]) -> None:
        """Wrap `base`; `updates` has keys among q, k, v."""
        super().__init__(base)
        self.updates = nn.ModuleDict(updates)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D_in) to (..., 3 D_in), q first, then k, then v."""
        parts = zip("qkv", self.base(x).chunk(3, dim=-1), strict=True)
        return torch.cat(
            [part + self.updates[name](x) if name in self.updates else part for name, part in parts], dim=-1
        )

    def merged(self) -> nn.Module:
        """Add the updates to their parts of the weight."""
        updates: Any = self.updates
        parts = zip("qkv", self.base.weight.chunk(3), strict=True)
        weight = torch.cat([part + updates[name].matrix() if name in updates else part for name, part in parts])
        return _wrap.with_weights(self.base, weight, self.base.bias)


def attach(backbone: Backbone, cfg: Config) -> None:
    """Wrap the target weights of every block.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "lora")
    scale = 1.0 if cfg.alpha is None else cfg.alpha / cfg.rank

    def update(base: nn.Linear, parts: int = 1) -> LowRank:
        low_rank = LowRank(base.in_features, base.out_features // parts, cfg.rank, scale, cfg.dropout)
        return low_rank.to(base.weight.device)

    blocks: Any = backbone.blocks
    for block in blocks:
        qkv = {name: update(block.attn.qkv, parts=3) for name in "qkv" if name in cfg.targets}
        if qkv:
            block.attn.qkv = LowRankQKV(block.attn.qkv, qkv)
        for name, owner in (("qkv", block.attn), ("proj", block.attn), ("fc1", block.mlp), ("fc2", block.mlp)):
            if name in cfg.targets:
                base = getattr(owner, name)
                setattr(owner, name, LowRankLinear(base, update(base)))


def merge(backbone: Backbone) -> None:
    """Add every update to its weight."""
    _wrap.unwrap(backbone)
