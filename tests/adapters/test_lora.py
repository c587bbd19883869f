"""LoRA against W' = W + (alpha / r) B A, by merging the update into a copy of the frozen model."""

import pytest
import torch

from sigma_ray import adapters
from sigma_ray import backbone as backbones
from sigma_ray.adapters.lora import Config
from sigma_ray.backbone import wrap

IMAGES = torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(1))


def tiny(tiny_vit):
    torch.manual_seed(0)
    return wrap(tiny_vit("class_token", qk_norm=True), "tiny")


def merge(frozen, adapted, scale):
    """Add scale * B A to the weights of `frozen` that `adapted` updates."""
    for plain, block in zip(frozen.blocks, adapted.blocks, strict=True):
        for part, name in enumerate("qkv"):
            if name in getattr(block.attn.qkv, "updates", {}):
                update = block.attn.qkv.updates[name]
                plain.attn.qkv.weight[24 * part : 24 * (part + 1)] += scale * update.up @ update.down
        for owner, target, name in (
            (block.attn, plain.attn, "qkv"),
            (block.attn, plain.attn, "proj"),
            (block.mlp, plain.mlp, "fc1"),
            (block.mlp, plain.mlp, "fc2"),
        ):
            if hasattr(getattr(owner, name), "update"):
                update = getattr(owner, name).update
                getattr(target, name).weight += scale * update.up @ update.down


@pytest.mark.parametrize(
    "targets", [("q", "v"), ("k",), ("qkv",), ("proj", "fc1", "fc2"), ("q", "k", "v", "proj", "fc1", "fc2")]
)
@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (1.0, 0.25)])
@torch.no_grad()
def test_forward_is_the_merged_model(tiny_vit, targets, alpha, scale):
    adapted, frozen = (
        adapters.attach(tiny(tiny_vit), "lora", rank=4, alpha=alpha, targets=targets),
        tiny(tiny_vit),
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted, frozen = adapted.double(), frozen.double()
    before = frozen(IMAGES.double())[0]
    merge(frozen, adapted, scale)
    torch.testing.assert_close(adapted(IMAGES.double())[0], frozen(IMAGES.double())[0])
    assert not torch.allclose(adapted(IMAGES.double())[0], before)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 2_359_296),
        ({"rank": 32, "targets": ("q", "k", "v", "proj")}, 2_359_296),
        ({"targets": ("qkv",)}, 2_359_296),
        ({"rank": 8, "targets": ("fc1", "fc2")}, 737_280),
    ],
    ids=str,
)
def test_published_counts_on_dinov2_base(options, count):
    with torch.device("meta"):
        backbone = adapters.attach(backbones.load("dinov2_base", weights=None), "lora", **options)
    assert adapters.trainable_parameters(backbone) == count


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"alpha": 0},
        {"targets": ("x",)},
        {"targets": ()},
        {"targets": ("q", "q")},
        {"dropout": -1},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="lora"):
        Config(**options)
