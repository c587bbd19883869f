"""Adapter against its formula."""

import pytest
import torch
from torch.nn import functional as F

from sigma_ray import adapters
from sigma_ray import backbone as backbones
from sigma_ray.adapters.adapter import Bottleneck, Config
from sigma_ray.backbone import wrap


def randomised_block(tiny_vit):
    torch.manual_seed(0)
    backbone = adapters.attach(wrap(tiny_vit("registers_layerscale", depth=1), "tiny"), "adapter")
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad or "gamma" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return backbone.double().blocks[0]


def test_it_follows_layerscale_and_precedes_the_residual_add(tiny_vit):
    block = randomised_block(tiny_vit)
    x = torch.randn(2, 17, 24, dtype=torch.float64)
    expected = x
    for site, norm, layer, scale in (
        ("attn_out", block.norm1, block.attn, block.ls1),
        ("ffn_out", block.norm2, block.mlp, block.ls2),
    ):
        module = block.sites[site]
        y = layer(norm(expected)) * scale.gamma
        z = F.gelu(y @ module.down.weight.T + module.down.bias)
        expected = expected + y + z @ module.up.weight.T + module.up.bias
    torch.testing.assert_close(block(x, (3, 4)), expected)


def test_dropout_acts_in_training_only():
    module = Bottleneck(8, 64, dropout=0.5)
    torch.nn.init.ones_(module.up.weight)
    y = torch.randn(1, 4, 8)
    assert not torch.equal(module.train()(y, (2, 2)), module(y, (2, 2)))
    assert torch.equal(module.eval()(y, (2, 2)), module(y, (2, 2)))


def test_published_count_on_dinov2_base():
    with torch.device("meta"):
        backbone = adapters.attach(backbones.load("dinov2_base", weights=None), "adapter")
    assert adapters.trainable_parameters(backbone) == 2_379_264


@pytest.mark.parametrize("options", [{"bottleneck_dim": 0}, {"dropout": 1.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="adapter"):
        Config(**options)
