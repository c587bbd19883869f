"""Fixed backbone (linear probing): nothing on the backbone's side is trained, only the head.

0 trainable parameters. The lower reference of every comparison.
"""

from dataclasses import dataclass

from sigma_ray.adapters import _inject
from sigma_ray.backbone import Backbone

STARTS_EQUAL = True


@dataclass(frozen=True, kw_only=True)
class Config:
    """No options."""


def attach(backbone: Backbone, cfg: Config) -> None:
    """Leave the backbone frozen.

    Raises:
        ValueError: a method is attached already.
    """
    _inject.claim(backbone, "fixed")
