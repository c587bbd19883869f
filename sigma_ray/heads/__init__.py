"""Heads: one file each, with its `Config` and `build`.

`build(config, in_channels=d, stride=s, num_classes=C, ignore_index=i)` returns a module with two methods:
`loss(features, mask)`, a scalar, and `predict(features, size)`, logits or scores (B, C, *size). `features` is the
backbone's list of maps, the last layer's last.
"""

from importlib import import_module
from types import ModuleType

from sigma_ray import components


def names() -> list[str]:
    """Names of the heads."""
    return components.names("head")


def load(name: str) -> ModuleType:
    """The module of head `name`.

    Raises:
        ValueError: no such head.
    """
    components.config_class("head", name)
    return import_module(f"sigma_ray.heads.{name}")
