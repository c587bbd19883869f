"""Models on backbones of every family: the head fits the backbone's maps, the method its blocks."""

import dataclasses

import pytest
import torch

from sigma_ray import model as models
from sigma_ray import profiles
from sigma_ray.config import BackboneConfig, component
from sigma_ray.data import Info

INFO = Info(num_classes=3, class_names=("a", "b", "c"), image_size=(64, 96))


@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [("scenes_tiny", 96, 8), ("sam_base", 256, 16), ("swin_tiny_patch4_window7_224", 768, 32)],
)
@pytest.mark.parametrize("adapter", ["sigma", "full", "lora"])
def test_head_fits_the_maps(name, channels, stride, adapter):
    config = dataclasses.replace(
        profiles.demo(), backbone=BackboneConfig(name=name, weights=None), adapter=component("adapter", adapter)
    )
    with torch.device("meta"):  # shapes alone: the larger of these take seconds to initialise
        model = models.build(config, INFO)
        images = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
        assert model.backbone(images.float())[-1].shape == (2, channels, 64 // stride, 96 // stride)
        assert model(images).shape == (2, 3, 64, 96)
