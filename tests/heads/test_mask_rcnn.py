"""Anchors and pooling where torchvision takes strides for whole numbers and powers of two."""

import pytest
import torch

from sigma_ray import heads
from sigma_ray.data import Info


def test_strides_that_are_no_power_of_two_are_kept():
    module = heads.load("mask_rcnn")
    size = (518, 518)
    config = module.Config(channels=8, representation=8)
    head = module.build(config, in_channels=(4,), strides=(14.0,), info=Info(image_size=size, num_classes=2))
    sides = [148, 74, 37, 18, 9]
    strides = [3.5, 7.0, 14.0, 28.0, 56.0]
    levels = [torch.zeros(1, 8, side, side) for side in sides]
    images = type("Images", (), {"image_sizes": [size]})
    anchors = head.proposals.anchor_generator(images, levels)[0].split([3 * side**2 for side in sides])
    for level, side, stride in zip(anchors, sides, strides, strict=True):
        centres = (level[:, :2] + level[:, 2:]) / 2
        assert centres.max() == (side - 1) * stride
        assert (level[1, 2:] - level[1, :2]).tolist() == pytest.approx([8 * stride] * 2, abs=2)
    # Each level holds the x coordinate of its cells, so a pooled box gives its own, up to half a cell.
    maps = {}
    for i, (side, stride) in enumerate(zip(sides[:4], strides, strict=False)):
        maps[str(i)] = ((torch.arange(side) + 0.5) * stride).expand(1, 8, side, side)
    boxes = torch.tensor([[400.0, 300, 420, 330], [300, 20, 400, 130], [160, 160, 480, 480], [20.0, 0, 510, 518]])
    pooled = head.regions.box_roi_pool(maps, [boxes], [size]).mean((1, 2, 3))
    expected = (boxes[:, 0] + boxes[:, 2]) / 2
    fitting = torch.tensor([3.5, 7.0, 14.0, 28.0])
    assert ((pooled - expected).abs() <= fitting / 2 + 1e-3).all()
