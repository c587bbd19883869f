"""What holds for every data set of photos: same samples whatever the batch, errors by name, thresholds, needs."""

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photo_sets
import pytest
from PIL import Image

from sigma_ray import components, data, profiles, tasks
from sigma_ray.config import override_all
from sigma_ray.data import Draws, loader
from trainables.predictor import _prepare

MAKERS: dict[str, Callable[[Path], Path]] = {
    "ade20k": photo_sets.ade20k,
    "cityscapes": photo_sets.cityscapes,
    "pascal_context": photo_sets.pascal_context,
    "nyuv2": photo_sets.nyu_bts,
    "rgbd": photo_sets.rgbd,
    "coco": lambda root: photo_sets.coco(root, {"train2017": 6, "val2017": 3}),
}
OPTIONS: dict[str, dict[str, Any]] = {"coco": {"val_fraction": 0.3}}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def cfg(name: str, tmp_path: Path) -> Any:
    """A configuration of the data set at a tiny size, and its files."""
    root = MAKERS[name](tmp_path / "set")
    return components.config_class("data", name)(root=str(root), image_size=(16, 24), **OPTIONS.get(name, {}))


def opened(cfg: Any) -> data.Data:
    (task,) = cfg.tasks
    return data.open_data(components.name_of(cfg), cfg, task, tasks.get(task).columns)


def refused(cfg: Any) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        opened(cfg)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(cfg: Any, split: str) -> list[Path]:
    """The picture files of a split."""
    table = opened(cfg).split(split)
    return [row["image"] for row in table._rows(np.arange(len(table)))]  # type: ignore[attr-defined]


def draws(seeds: np.ndarray) -> Draws:
    return Draws(mirrored=seeds % 2 == 1, seeds=seeds.astype(np.uint64))


def test_splits_are_disjoint_and_val_is_held_out_of_training(cfg: Any) -> None:
    found = {split: {path.as_posix() for path in files(cfg, split)} for split in data.SPLITS}
    assert all(found.values())
    assert not found["train"] & found["val"]
    assert not (found["train"] | found["val"]) & found["test"]


def test_a_training_sample_depends_on_its_seed_alone(cfg: Any) -> None:
    split = opened(cfg).split("train")
    indices, seeds = np.array([0, 1, 0, 1]), np.array([5, 2**62 + 1, 6, 5])
    whole = split.augmented(indices, split.columns, draws(seeds))
    assert set(whole) == {"image", *split.columns}
    assert whole["image"].shape[1:] == (3, 16, 24)
    loader.set_num_threads(5)
    order = np.array([3, 0, 2, 1])
    turned = split.augmented(indices[order], split.columns, draws(seeds[order]))
    for name, values in whole.items():
        np.testing.assert_array_equal(turned[name], values[order], err_msg=name)
    for row in range(4):
        alone = split.augmented(indices[[row]], split.columns[:1], draws(seeds[[row]]))
        np.testing.assert_array_equal(alone["image"][0], whole["image"][row])
    assert not np.array_equal(whole["image"][0], whole["image"][2]), "another seed, another picture"


def test_evaluation_samples_have_original_targets(cfg: Any) -> None:
    (task,) = cfg.tasks
    split = opened(cfg).split("test")
    batch = split.take(np.array([1, 0]), tasks.get(task).columns)
    assert batch["index"].tolist() == [1, 0]
    for row, size in enumerate(batch["size"].tolist()):
        if task != "detection":
            assert list(batch[tasks.get(task).columns[0]][row].shape) == size
        assert batch["image"][row].dtype == np.uint8
    alone = split.take(np.array([0]), ())
    assert set(alone) == {"image", "index", "size"}
    np.testing.assert_array_equal(alone["image"][0], batch["image"][1])


def test_a_finished_trial_sees_new_pictures_as_it_saw_test_pictures(name: str, cfg: Any) -> None:
    if name == "ade20k":
        cfg = dataclasses.replace(cfg, base_size=(40, 32), test_short_side=20)
    path, found = files(cfg, "test")[0], opened(cfg)
    seen = found.split("test").take(np.array([0]), tasks.get(cfg.tasks[0]).columns)
    trial = override_all(profiles.load("paper", cfg.tasks[0]), [("data", name)])
    with Image.open(path) as image:
        pixels, scale = _prepare(image.convert("RGB"), dataclasses.replace(trial, data=cfg), found.info)
    np.testing.assert_array_equal(pixels.numpy(), seen["image"][0])
    if "scale" in seen:
        assert scale == pytest.approx(tuple(seen["scale"][0]))


def test_opening_again_reads_no_picture(cfg: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(cfg)
    module = data.load(components.name_of(cfg))
    monkeypatch.setattr(module, "batches", lambda *_: pytest.fail("checked the files again"))
    monkeypatch.setattr(module, "fingerprint", lambda *_: pytest.fail("read the files again"))
    again = opened(cfg)
    assert (again.info, again.fingerprint) == (first.info, first.fingerprint)


def test_labels_and_geometry_are_those_of_the_options_and_not_of_the_first_opening(cfg: Any) -> None:
    assert opened(cfg).info.image_size == (16, 24)
    other = dataclasses.replace(cfg, image_size=(32, 40))
    if cfg.tasks == ("segmentation",):
        other = dataclasses.replace(other, window_stride=(8, 8))
    (task,) = cfg.tasks
    assert opened(other).info == data.load(components.name_of(cfg)).info(other, task)
    assert opened(other).info.image_size == (32, 40)


def test_the_fingerprint_follows_content_and_not_place(cfg: Any, tmp_path: Path) -> None:
    first = opened(cfg)
    copied = shutil.copytree(cfg.root, tmp_path / "elsewhere")
    assert opened(dataclasses.replace(cfg, root=str(copied))).fingerprint == first.fingerprint
    path = files(cfg, "train")[0]
    with Image.open(path) as image:
        size = image.height, image.width
    photo_sets.picture(path, size, seed=99)
    assert opened(cfg).fingerprint != first.fingerprint


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_picture_is_named_or_left_out(
    cfg: Any, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = files(cfg, "test")[0]
    total = len(opened(cfg).split("test"))
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    words = "is missing" if damage == "gone" else "cannot be decoded"
    message = refused(cfg)
    assert f"1 of the {total} p" in message
    assert f"{path} {words}" in message
    tolerant = dataclasses.replace(cfg, max_unusable=0.5)
    with caplog.at_level(logging.WARNING):
        found = opened(tolerant)
    assert len(found.split("test")) == total - 1
    assert f"{path} {words}" in found.notes["test"][-1]
    assert "and are left out" in caplog.text
    assert opened(tolerant).notes == found.notes


def test_a_picture_that_vanishes_later_is_an_os_error(cfg: Any) -> None:
    split = opened(cfg).split("train")
    files(cfg, "train")[0].unlink()
    with pytest.raises(OSError, match="is missing, but it could be read before"):
        split.take(np.array([0]), ())


# COCO's targets lie in the table, not in files of their own.
@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"coco"}), indirect=True)
def test_a_target_that_vanishes_later_is_an_os_error(cfg: Any) -> None:
    split = opened(cfg).split("train")
    split._rows(np.array([0]))[0]["target"].unlink()  # type: ignore[attr-defined]
    columns = tasks.get(cfg.tasks[0]).columns
    with pytest.raises(OSError, match="is missing, but it could be read before"):
        split.take(np.array([0]), columns)
    with pytest.raises(OSError, match="is missing, but it could be read before"):
        split.augmented(np.array([0]), columns, draws(np.array([0])))


def test_an_exchanged_picture_is_an_os_error(cfg: Any) -> None:
    split = opened(cfg).split("train")
    photo_sets.picture(files(cfg, "train")[0], (9, 9), seed=0)
    with pytest.raises(OSError, match="has another size than before"):
        split.take(np.array([0]), ())


def test_needs_are_told_without_the_data(name: str, cfg: Any, tmp_path: Path) -> None:
    module = data.load(name)
    empty = type(cfg)()
    lines = module.needs(empty)
    assert "data.root, which is NOT SET" in lines[0]
    assert all(line.endswith(": MISSING") for line in lines[1:])
    assert len(lines) > 1
    assert all(line.endswith(": here") for line in module.needs(cfg)[1:])
    assert "None" not in "".join(lines)


def test_another_layout_is_refused(name: str, cfg: Any, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert str(tmp_path / "other") in refused(dataclasses.replace(cfg, root=str(tmp_path / "other")))
    assert "data.root must be an existing folder" in refused(dataclasses.replace(cfg, root=str(tmp_path / "no")))
    assert "but got None; set it." in refused(dataclasses.replace(cfg, root=None))


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("ade20k", {"image_size": (0, 4)}, "data.image_size must be two sides"),
        ("ade20k", {"max_unusable": 1.0}, "data.max_unusable must lie in"),
        ("ade20k", {"val_fraction": 0.0}, "data.val_fraction must be greater than 0"),
        ("ade20k", {"split_seed": -1}, "data.split_seed must be 0 or greater"),
        ("ade20k", {"base_size": (4, 0)}, "data.base_size must be two sides"),
        ("ade20k", {"ratio_range": (2.0, 0.5)}, "data.ratio_range must be two positive numbers"),
        ("ade20k", {"cat_max_ratio": 0.0}, r"data.cat_max_ratio must lie in \(0, 1\]"),
        ("ade20k", {"test_short_side": 0}, "data.test_short_side must be greater than 0"),
        ("ade20k", {"window_stride": (513, 1)}, "data.window_stride must lie in 1 .. image_size"),
        ("coco", {"scale_range": (0.0, 2.0)}, "data.scale_range must be two positive numbers"),
        ("coco", {"min_box": -1.0}, "data.min_box must be 0 or greater"),
        ("nyuv2", {"crop_size": (481, 1)}, "data.crop_size must fit into image_size"),
        ("nyuv2", {"crop_size": (0, 1)}, "data.crop_size must be two sides"),
        ("nyuv2", {"depth_scale": 0.0}, "data.depth_scale must be greater than 0"),
        ("rgbd", {"test_list": "val"}, "data.test_list must name a list of its own"),
        ("rgbd", {"max_depth": 1e-4}, "data.max_depth must exceed min_depth"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        components.config_class("data", name)(**options)
    assert "\n" not in str(caught.value)
