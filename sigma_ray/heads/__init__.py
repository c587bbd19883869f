"""Heads: one file each, with its `Config` and `build`.

`Config` names its `task` and the `maps` of the backbone that it works on: "last" (one map of the last block), "levels"
(the last map of a plain ViT; one map a stage, fine to coarse, of a hierarchical backbone) or "spread" (four maps:
blocks evenly spread, or the four stages). `build(config, in_channels=..., strides=..., info=...)`, with one entry a
map, returns a module with two methods: `loss(features, targets, size, share)`, a scalar, and `predict(features, size)`,
both on the list of maps and the input's (height, width). What targets and predictions are depends on the task: see
`sigma_ray.tasks`. Every mean in a loss is multiplied by a weight from `share` (`sigma_ray.parallel.Share`), and no head
has batch normalisation: so a step's gradient does not depend on how its batch is cut into workers and micro-batches.
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
