"""Levels that heads are given."""

import pytest
import torch

from sigma_ray.heads._pyramid import four_levels, pyramid


def test_one_map_has_four_scales():
    module = pyramid((32,), (8,), 16)
    levels = module([torch.randn(2, 32, 6, 8)])
    assert [tuple(level.shape) for level in levels] == [(2, 16, 6 * 4 // s, 8 * 4 // s) for s in (1, 2, 4, 8)]
    assert module.strides == (2, 4, 8, 16) and module.channels == (16,) * 4


def test_neither_one_nor_four_maps_are_refused():
    with pytest.raises(ValueError, match="1 or 4 maps, but got 2"):
        four_levels((8, 16), (4, 8))
