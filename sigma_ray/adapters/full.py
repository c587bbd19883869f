"""Full fine-tuning: every parameter of the backbone is trained, from the pre-trained values.

The backbone leaves its frozen state: `.train()` also switches on whatever dropout and stochastic depth the
model was created with (none by default).
"""

from dataclasses import dataclass

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone

STARTS_EQUAL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """No options."""


def attach(backbone: Backbone, cfg: Config) -> None:
    """Let gradients into the whole backbone.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "full")
    backbone.requires_grad_(True)
    backbone.set_frozen(False)
