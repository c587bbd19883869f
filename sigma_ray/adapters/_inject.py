"""What the methods share: claiming a backbone, placing modules at its sites, and initialisations."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from sigma_ray.backbone import Backbone


def claim(backbone: Backbone, name: str) -> None:
    """Note that `name` is being attached; the first call of every method's `attach`.

    Raises:
        ValueError: another method, or the same one, is attached already.
    """
    if backbone.adapter is not None:
        raise ValueError(
            f"a backbone must carry one method, but it has {backbone.adapter} and {name} was to be attached; "
            "load a fresh backbone."
        )
    backbone.adapter = name


def insert(backbone: Backbone, sites: Iterable[str], make: Callable[[], nn.Module]) -> None:
    """Put a module of its own at each of `sites` in every block, on the backbone's device."""
    device = next(backbone.parameters()).device
    sites = tuple(sites)
    blocks: Any = backbone.blocks
    for block in blocks:
        for site in sites:
            block.add_site(site, make().to(device))


def small_linear(in_features: int, out_features: int, std: float = 0.02) -> nn.Linear:
    """Make a Linear with truncated-normal weights and zero bias."""
    linear = nn.Linear(in_features, out_features)
    nn.init.trunc_normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
    return linear


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """Make a Linear that starts as the zero map."""
    linear = nn.Linear(in_features, out_features)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
