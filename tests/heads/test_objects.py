"""Geometry that detection heads share."""

import torch

from sigma_ray.heads._objects import halving


def test_levels_are_padded_to_exact_halves():
    levels = [torch.ones(1, 2, rows, columns) for rows, columns in ((74, 50), (37, 25), (18, 12))]
    padded, extent = halving(levels, (518, 350))
    assert [tuple(level.shape[-2:]) for level in padded] == [(76, 52), (38, 26), (19, 13)]
    assert extent == (76 * 7, 52 * 7)
    assert all(level.sum() == before.numel() for level, before in zip(padded, levels, strict=True))
    even = [torch.ones(1, 2, 8, 4), torch.ones(1, 2, 4, 2)]
    assert halving(even, (64, 32)) == (even, (64, 32))
