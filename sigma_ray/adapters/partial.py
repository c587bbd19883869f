"""Partial-k: the last k blocks are trained, the rest stays frozen (Yosinski et al. 2014; Partial-1 of Jia et al. 2022).

The final norm stays frozen. No gradient reaches the frozen blocks, so they run without autograd. The freed blocks leave
evaluation mode in training, as in full fine-tuning. Parameters: k (12 d^2 + 13 d), plus 2 d each with LayerScale;
7,089,408 for k = 1 on DINOv2-B.
"""

from dataclasses import dataclass
from typing import Any

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone
from sigma_ray.checks import positive

STARTS_EQUAL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options of Partial-k.

    Attributes:
        num_blocks: how many blocks at the end are trained.
    """

    num_blocks: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        positive("partial.num_blocks", self.num_blocks)


def attach(backbone: Backbone, cfg: Config) -> None:
    """Let gradients into the last blocks.

    Raises:
        ValueError: the backbone has fewer blocks, or a method is attached already.
    """
    blocks: Any = backbone.blocks
    if cfg.num_blocks > len(blocks):
        raise ValueError(
            f"partial.num_blocks must be at most the {len(blocks)} blocks of {backbone.name}, but got "
            f"{cfg.num_blocks}; use adapter full to train everything."
        )
    _inject.claim(backbone, "partial")
    for block in list(blocks)[-cfg.num_blocks :]:
        block.requires_grad_(True)
        for module in block.modules():
            module.frozen = False
    backbone.train(backbone.training)
