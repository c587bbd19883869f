"""Levels that heads are given."""

import pytest
import torch
from torch.nn import functional as F

from sigma_ray.heads._pyramid import four_levels, pyramid

WIDTHS, STRIDES = (8, 16, 24, 32), (4, 8, 16, 32)


def stages(sizes=((16, 12), (8, 6), (4, 3), (2, 2))):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, d, *size, generator=generator) for d, size in zip(WIDTHS, sizes, strict=True)]


def test_one_map_has_four_scales():
    module = pyramid((32,), (8,), 16)
    levels = module([torch.randn(2, 32, 6, 8)])
    assert [tuple(level.shape) for level in levels] == [(2, 16, 6 * 4 // s, 8 * 4 // s) for s in (1, 2, 4, 8)]
    assert module.strides == (2, 4, 8, 16) and module.channels == (16,) * 4


@pytest.mark.parametrize("scales", [(4, 2, 1, 0.5), (2, 1, 0.5, 0.25)])
@pytest.mark.parametrize("channels", [256, 32])
def test_the_simple_pyramids_count_is_vitdets(scales, channels):
    d = 768
    lateral = lambda width: width * channels + 9 * channels**2 + 4 * channels  # noqa: E731
    once = 4 * d * (d // 2) + d // 2
    extra = {4: once + d + 4 * (d // 2) * (d // 4) + d // 4, 2: once}
    width = {4: d // 4, 2: d // 2}
    wanted = sum(extra.get(scale, 0) + lateral(width.get(scale, d)) for scale in scales)
    with torch.device("meta"):
        assert sum(p.numel() for p in pyramid((d,), (16,), channels, scales).parameters()) == wanted


def test_true_strides_with_patch_14():
    assert pyramid((32,), (14,), 16, (2, 1, 0.5, 0.25)).strides == (7, 14, 28, 56)
    assert pyramid((32,), (14,), 16).strides == (3.5, 7, 14, 28)


def test_on_stages_it_is_a_feature_pyramid_network():
    torch.manual_seed(0)
    module, maps = pyramid(WIDTHS, STRIDES, 16), stages()
    for norm in module.stages.norms:
        torch.nn.init.normal_(norm.weight)
    inner = []
    for norm, conv, x in zip(module.stages.norms, module.network.inner_blocks, maps, strict=True):
        y = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + norm.eps).sqrt()
        inner.append(conv(y * norm.weight[:, None, None] + norm.bias[:, None, None]))
    for fine in (2, 1, 0):
        inner[fine] = inner[fine] + F.interpolate(inner[fine + 1], size=inner[fine].shape[-2:], mode="nearest")
    wanted = [conv(x) for conv, x in zip(module.network.layer_blocks, inner, strict=True)]
    levels = module(maps)
    assert module.strides == STRIDES and [level.shape[1] for level in levels] == [16] * 4
    for ours, theirs in zip(levels, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_coarser_levels_are_pooled_and_finer_stages_left_out():
    module = pyramid(WIDTHS, STRIDES, 16, (2, 1, 0.5, 0.25, 0.125))
    levels = module(stages())
    assert module.strides == (8, 16, 32, 64, 128) and module.channels == (16,) * 5
    assert [tuple(level.shape[-2:]) for level in levels] == [(8, 6), (4, 3), (2, 2), (1, 1), (1, 1)]
    assert torch.equal(levels[3], levels[2][..., ::2, ::2])
    sum(level.sum() for level in levels).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("scales", [(8, 4, 2), (2, 1, 1), (1, 2), (3, 1), (0.25, 0.125), (4, 1, 0.3)])
def test_scales_that_stages_do_not_have_are_refused(scales):
    with pytest.raises(ValueError, match=r"maps' scales \(4, 2, 1, 0\.5\)"):
        pyramid(WIDTHS, STRIDES, 16, scales)


def test_four_levels_are_the_normed_stages_or_a_simple_pyramid():
    module = four_levels(WIDTHS, STRIDES)
    levels = module(stages())
    assert module.channels == WIDTHS and module.strides == STRIDES
    for level, stage in zip(levels, stages(), strict=True):
        torch.testing.assert_close(level, F.layer_norm(stage.movedim(1, -1), stage.shape[1:2], eps=1e-6).movedim(-1, 1))
    assert four_levels((32,), (16,), 8).strides == (4, 8, 16, 32)


def test_neither_one_nor_four_maps_are_refused():
    with pytest.raises(ValueError, match="1 or 4 maps, but got 2"):
        four_levels((8, 16), (4, 8))


@pytest.mark.parametrize("scales", [(4, 2), (2, 1), (2, 1, 0.5, 0.25)])
def test_every_parameter_gets_a_gradient_whatever_levels_are_asked_for(scales):
    module = pyramid(WIDTHS, STRIDES, 16, scales)
    sum(level.sum() for level in module(stages())).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []
