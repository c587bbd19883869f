"""Methods that only choose what is trained."""

import pytest

from sigma_ray import adapters
from sigma_ray.adapters import bitfit, partial
from sigma_ray.backbone import wrap


def trained(backbone):
    return {name for name, p in backbone.named_parameters() if p.requires_grad}


def test_bitfit_trains_every_bias(tiny_vit):
    backbone = wrap(tiny_vit("class_token", depth=1), "tiny")
    bitfit.attach(backbone, bitfit.Config())
    block = {f"blocks.0.{name}.bias" for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")}
    assert trained(backbone) == {"patch_embed.proj.bias", "norm.bias"} | block


def test_partial_trains_the_last_blocks(tiny_vit):
    backbone = wrap(tiny_vit("registers_layerscale", depth=3, drop_path_rate=0.1), "tiny")
    partial.attach(backbone, partial.Config(num_blocks=2))
    assert {name.split(".")[1] for name in trained(backbone)} == {"1", "2"}
    assert all(p.requires_grad for block in list(backbone.blocks)[1:] for p in block.parameters())
    backbone.train()
    assert [block.training for block in backbone.blocks] == [False, True, True]


def test_partial_refuses_more_blocks_than_there_are(tiny_vit):
    with pytest.raises(ValueError, match="at most the 2 blocks of tiny, but got 3"):
        adapters.attach(wrap(tiny_vit("class_token"), "tiny"), "partial", num_blocks=3)


def test_partial_refuses_none():
    with pytest.raises(ValueError, match=r"partial.num_blocks must be greater than 0"):
        partial.Config(num_blocks=0)
