"""The sites of a block: each receives and replaces what its name says."""

import copy

import pytest
import torch
from timm.models import swin_transformer, vision_transformer_sam
from timm.models.vision_transformer import Block as TimmBlock
from tiny_backbones import randomised
from torch import nn

from sigma_ray.blocks import SITES, Block
from sigma_ray.windows import SamBlock, SwinBlock

GRID = (2, 3)


class Record(nn.Module):
    """Remember the input and return a fixed multiple of it."""

    def forward(self, x, grid):
        assert grid == GRID
        self.seen = x
        return 0.5 * x


def timm_sam_block(window_size):
    return vision_transformer_sam.Block(
        8, 2, init_values=0.7, use_rel_pos=True, window_size=window_size, input_size=GRID
    )


def timm_swin_block(**options):
    return swin_transformer.SwinTransformerBlock(8, (6, 6), 2, **{"window_size": 2, "dynamic_mask": True} | options)


WINDOWED = {
    "sam_windows": lambda: (timm_sam_block(2), SamBlock),
    "sam_global": lambda: (timm_sam_block(0), SamBlock),
    "swin_windows": lambda: (timm_swin_block(), SwinBlock),
    "swin_shifted": lambda: (timm_swin_block(shift_size=1), SwinBlock),
    "swin_shifted_sideways": lambda: (timm_swin_block(shift_size=(0, 2), window_size=(2, 3)), SwinBlock),
}


def make_block(kind="plain"):
    """A block with random weights, and a stream for it: with a prefix token if it takes any."""
    torch.manual_seed(0)
    base, block = WINDOWED[kind]() if kind in WINDOWED else (TimmBlock(8, 2, init_values=0.7), Block)
    num_tokens = GRID[0] * GRID[1] + (kind == "plain")
    return block(randomised(base)).double().eval(), torch.randn(2, num_tokens, 8, dtype=torch.float64)


def expected(block, x, site):
    """The output and the site's input, from the equations."""
    seen = x if site == "input" else None
    x = 0.5 * x if site == "input" else x
    for side, norm, layer, scale in (
        ("attn", block.norm1, lambda v: block.attend(v, GRID), block.ls1),
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


@pytest.mark.parametrize("kind", ["plain", "sam_windows", "swin_shifted"])
@pytest.mark.parametrize("site", SITES)
def test_each_site(site, kind):
    block, x = make_block(kind)
    output, seen = expected(block, x, site)
    block.add_site(site, Record())
    torch.testing.assert_close(block(x, GRID), output)
    torch.testing.assert_close(block.sites[site].seen, seen)


def test_without_sites_it_is_timms_block():
    torch.manual_seed(0)
    base = TimmBlock(8, 2, init_values=0.7)
    x = torch.randn(2, 7, 8)
    assert torch.equal(Block(base)(x, GRID), base(x))


@pytest.mark.parametrize("kind", WINDOWED)
@pytest.mark.parametrize("grid", [(6, 6), (4, 6), (5, 7), (1, 2), (7, 3)])
def test_windowed_blocks_are_timms(kind, grid):
    torch.manual_seed(0)
    base, block = WINDOWED[kind]()
    base = randomised(base).eval()
    x = torch.randn(2, *grid, 8)
    torch.testing.assert_close(block(base)(x.flatten(1, 2), grid), base(x).flatten(1, 2))


@pytest.mark.parametrize("kind", ["plain", *WINDOWED])
def test_width_and_copies(kind):
    block, x = make_block(kind)
    twin = copy.deepcopy(block)
    assert (twin.dim, twin.attn.qkv.in_features, twin.attn.proj.out_features, twin.mlp.fc1.in_features) == (8, 8, 8, 8)
    assert torch.equal(twin(x, GRID), block(x, GRID))
    nn.init.zeros_(twin.mlp.fc2.weight)
    assert not torch.equal(twin(x, GRID), block(x, GRID))


def test_unknown_and_taken_sites_are_refused():
    block, _ = make_block()
    block.add_site("ffn_post", Record())
    with pytest.raises(ValueError, match="must be free, but holds Record"):
        block.add_site("ffn_post", Record())
    with pytest.raises(ValueError, match="site must be one of input"):
        block.add_site("middle", Record())
