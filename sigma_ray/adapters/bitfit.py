"""BitFit: only biases are trained (Ben Zaken et al. 2022, arXiv 2106.10199).

Every parameter of the backbone whose name ends in `bias`: of projections, LayerNorms, and the patch embedding. There is
nothing to attach, so the network starts as the frozen backbone. Parameters: 11 d per block + 2 d; 102,912 on a ViT-B.
"""

from dataclasses import dataclass

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone

STARTS_EQUAL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """No options."""


def attach(backbone: Backbone, cfg: Config) -> None:
    """Let gradients into the biases.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "bitfit")
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
