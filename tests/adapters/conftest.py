"""Tiny random backbones of every shape that a method must cope with."""

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from tiny_backbones import SHAPES, build_tiny, build_tiny_vit

from sigma_ray.backbone import Backbone, wrap


@pytest.fixture(params=SHAPES)
def make_backbone(request: pytest.FixtureRequest) -> Callable[[], Backbone]:
    """A function that returns the same backbone, freshly made, at every call."""

    def make() -> Backbone:
        torch.manual_seed(0)
        return wrap(build_tiny(request.param), request.param)

    return make


@pytest.fixture
def tiny_vit() -> Callable[..., VisionTransformer]:
    """The function that makes a tiny timm ViT of a named shape."""
    return build_tiny_vit
