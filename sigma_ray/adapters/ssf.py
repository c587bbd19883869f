"""SSF: scale and shift every layer's output (Lian et al. 2022, arXiv 2210.08823).

    y <- gamma * y + beta

per channel after every Linear, LayerNorm and the patch projection of the backbone. gamma ~ N(1, 0.02) and
beta ~ N(0, 0.02): the network starts close to the frozen backbone, not as it. Merges into the layers without a trace.
Parameters: 22 d per block, 2 d for the patch projection, 2 d for the final norm; 205,824
on a ViT-B. SAM's neck is left alone, as in the count of VFM-Adapter's paper (204,288).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigma_ray.adapters import _inject, _wrap
from sigma_ray.backbone import Backbone

STARTS_EQUAL = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """No options."""


class ScaleShift(_wrap.Wrapped):
    """gamma * base(x) + beta; channels lie last, after a convolution first."""

    def __init__(self, base: Any) -> None:
        """Wrap a Linear, LayerNorm or Conv2d."""
        super().__init__(base)
        self.spatial = isinstance(base, nn.Conv2d)
        size, device = len(base.weight), base.weight.device
        self.gamma = nn.Parameter(torch.empty(size, device=device).normal_(1, 0.02))
        self.beta = nn.Parameter(torch.empty(size, device=device).normal_(0, 0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Map what the layer maps."""
        if self.spatial:
            return torch.addcmul(self.beta.view(-1, 1, 1), self.base(x), self.gamma.view(-1, 1, 1))
        return torch.addcmul(self.beta, self.base(x), self.gamma)

    def merged(self) -> nn.Module:
        """Fold gamma and beta into weight and bias."""
        weight = self.base.weight * self.gamma.view(-1, *[1] * (self.base.weight.ndim - 1))
        return _wrap.with_weights(self.base, weight, _wrap.zeros_bias(self.base) * self.gamma + self.beta)


def attach(backbone: Backbone, cfg: Config) -> None:
    """Wrap the layers.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "ssf")
    for parent_name, parent in list(backbone.named_modules()):
        if parent_name.split(".")[0] == "neck":
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear | nn.LayerNorm | nn.Conv2d):
                setattr(parent, name, ScaleShift(child))


def merge(backbone: Backbone) -> None:
    """Fold every scale and shift into its layer."""
    _wrap.unwrap(backbone)
