"""Cached features: the same numbers as without, computed once, refused where they do not fit."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from sigma_ray import data, feature_cache, train
from sigma_ray import model as models
from sigma_ray.config import BackboneConfig, TrainConfig, TrialConfig, component, override_all
from sigma_ray.data import Draws

DATA = component("data", "scenes", num_train=32, num_val=8, num_test=8, image_size=(48, 64))
CONFIG = TrialConfig(
    backbone=BackboneConfig(name="scenes_tiny", weights="bundled"),
    adapter=component("adapter", "fixed"),
    head=component("head", "deconv", channels=32),
    data=DATA,
    train=TrainConfig(num_steps=12, batch_size=8, learning_rate=5e-3, eval_interval=6, precision="float32"),
)
KEEPS = ["fixed", "partial", "vit_split"]


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path))
    return data.open_for(CONFIG)


def fit(scenes, adapter, cache, **changes):
    settings = [("adapter", adapter), ("train.cache_features", cache), *changes.items()]
    config, points = override_all(CONFIG, settings), []
    model = models.build(config, scenes.info)
    return train.fit(config, model, scenes, report=points.extend), model, points


@pytest.mark.parametrize("adapter", KEEPS)
def test_training_is_the_same_with_and_without(scenes, adapter):
    plain, model, points = fit(scenes, adapter, False)
    kept, other, again = fit(scenes, adapter, True)
    for name, value in model.trained_state().items():
        torch.testing.assert_close(other.trained_state()[name], value, rtol=1e-3, atol=1e-4)
    for one, two in zip(points, again, strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=2e-3)
    assert kept["test/miou"] == pytest.approx(plain["test/miou"], abs=2e-3)


def test_features_are_computed_once_for_all_trials(scenes, monkeypatch):
    calls, features = [], models.Model.features

    def counted(self, images):
        calls.append(len(images))
        return features(self, images)

    monkeypatch.setattr(models.Model, "features", counted)
    fit(scenes, "fixed", True)
    assert sum(calls) == 1 + 2 * 32 + 8 + 8  # one to learn their size, training images twice
    fit(scenes, "fixed", True, seed=1)
    assert sum(calls) == 81
    fit(scenes, "partial", True)
    assert sum(calls) == 2 * 81


@pytest.mark.parametrize("adapter", ["sigma", "bitfit", "full", "vpt", "lora"])
def test_methods_that_change_early_blocks_keep_nothing(scenes, tmp_path, adapter):
    config = override_all(CONFIG, [("adapter", adapter)])
    model = models.build(config, scenes.info)
    assert model.backbone.cacheable_blocks() == 0
    context = torch.autocast("cpu", enabled=False)
    assert feature_cache.cached(model, scenes, mirror=True, autocast=context, precision="float32") is scenes
    assert not list(tmp_path.glob("features-*"))


def test_random_weights_are_told_apart(scenes, tmp_path):
    for seed in (0, 1, 0):
        fit(scenes, "fixed", True, **{"backbone.weights": None, "seed": seed})
    assert len(list(tmp_path.glob("features-*/meta.json"))) == 2


def test_mirrored_rows_are_those_of_mirrored_images(scenes):
    config = override_all(CONFIG, [("train.cache_features", True)])
    model = models.build(config, scenes.info)
    context = torch.autocast("cpu", enabled=False)
    kept = feature_cache.cached(model, scenes, mirror=True, autocast=context, precision="float32")
    indices, mirrored = np.array([3, 5, 7]), np.array([True, False, True])
    draws = Draws(mirrored=mirrored, seeds=np.zeros(3, np.uint64))
    found = kept.split("train").augmented(indices, ("mask",), draws)
    images, masks = (scenes.split("train").take(indices, ("mask",))[name] for name in ("image", "mask"))
    images[mirrored], masks[mirrored] = images[mirrored][..., ::-1], masks[mirrored][..., ::-1]
    with torch.no_grad():
        wanted = model.features(torch.from_numpy(np.ascontiguousarray(images)))
    torch.testing.assert_close(torch.from_numpy(found["image"]), wanted, rtol=1e-4, atol=1e-4)
    assert np.array_equal(found["mask"], masks)
    with pytest.raises(ValueError, match="only training images have mirrored features"):
        kept.split("val").augmented(indices, ("mask",), draws)


def test_a_disk_that_is_too_small_is_refused(scenes, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(ValueError, match=r"train.cache_features needs 0\.\d+ GB, but .* has 1e-05 GB"):
        fit(scenes, "fixed", True)
    assert not list(tmp_path.glob("features-*/meta.json"))


def test_what_is_there_already_needs_no_space(scenes):
    model = models.build(override_all(CONFIG, [("train.cache_features", True)]), scenes.info)
    assert sum(feature_cache.needed_bytes(model, scenes, mirror=True, precision="float32").values()) > 0
    fit(scenes, "fixed", True)
    assert feature_cache.needed_bytes(model, scenes, mirror=True, precision="float32") == {}
    assert feature_cache.needed_bytes(model, scenes, mirror=True, precision="bfloat16") != {}


def test_the_options_are_part_of_the_configuration():
    assert dataclasses.asdict(CONFIG.train)["cache_features"] is False
