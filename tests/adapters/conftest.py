"""Tiny random ViTs of every shape that a method must cope with."""

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from sigma_ray.backbone import Backbone

SHAPES = {
    "class_token": {},
    "no_prefix": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "registers_layerscale": {"reg_tokens": 4, "init_values": 1.0, "no_embed_class": True},
}


def build_tiny_vit(shape: str, **options) -> VisionTransformer:
    options = {"img_size": 24, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2} | options
    vit = VisionTransformer(num_classes=0, dynamic_img_size=True, **SHAPES[shape], **options)
    vit.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return vit


@pytest.fixture(params=SHAPES)
def make_backbone(request: pytest.FixtureRequest) -> Callable[[], Backbone]:
    """A function that returns the same backbone, freshly made, at every call."""

    def make() -> Backbone:
        torch.manual_seed(0)
        return Backbone(build_tiny_vit(request.param), request.param)

    return make


@pytest.fixture
def tiny_vit() -> Callable[..., VisionTransformer]:
    """The function that makes a tiny timm ViT of a named shape."""
    return build_tiny_vit
