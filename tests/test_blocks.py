"""The sites of a block: each receives and replaces what its name says."""

import pytest
import torch
from timm.models.vision_transformer import Block as TimmBlock
from torch import nn

from sigma_ray.blocks import SITES, Block

GRID = (2, 3)


class Record(nn.Module):
    """Remember the input and return a fixed multiple of it."""

    def forward(self, x, grid):
        assert grid == GRID
        self.seen = x
        return 0.5 * x


def make_block():
    torch.manual_seed(0)
    block = Block(TimmBlock(8, 2, init_values=0.7))
    return block.double().eval(), torch.randn(2, 7, 8, dtype=torch.float64)


def expected(block, x, site):
    """The output and the site's input, from the equations."""
    seen = x if site == "input" else None
    x = 0.5 * x if site == "input" else x
    for side, norm, layer, scale in (
        ("attn", block.norm1, block.attn, block.ls1),
        ("ffn", block.norm2, block.mlp, block.ls2),
    ):
        v = norm(x)
        y = scale(layer(0.5 * v if site == f"{side}_pre" else v))
        out = x + (0.5 * y if site == f"{side}_out" else y)
        out = out + {f"{side}_parallel": 0.5 * v, f"{side}_parallel_stream": 0.5 * x}.get(site, 0)
        inputs = {"pre": v, "parallel": v, "parallel_stream": x, "out": y, "post": out}
        if site.startswith(side):
            seen = inputs[site.partition("_")[2]]
        x = 0.5 * out if site == f"{side}_post" else out
    return x, seen


@pytest.mark.parametrize("site", SITES)
def test_each_site(site):
    block, x = make_block()
    output, seen = expected(block, x, site)
    block.add_site(site, Record())
    torch.testing.assert_close(block(x, GRID), output)
    torch.testing.assert_close(block.sites[site].seen, seen)


def test_without_sites_it_is_timms_block():
    torch.manual_seed(0)
    base = TimmBlock(8, 2, init_values=0.7)
    x = torch.randn(2, 7, 8)
    assert torch.equal(Block(base)(x, GRID), base(x))


def test_unknown_and_taken_sites_are_refused():
    block, _ = make_block()
    block.add_site("ffn_post", Record())
    with pytest.raises(ValueError, match="must be free, but holds Record"):
        block.add_site("ffn_post", Record())
    with pytest.raises(ValueError, match="site must be one of input"):
        block.add_site("middle", Record())
