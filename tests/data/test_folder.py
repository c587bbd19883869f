"""Folders: splits, decoding, label rules, fingerprints, and an error for everything that can be wrong."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sigma_ray import data
from sigma_ray.data import folder

CAMVID = Path(__file__).parents[2].parent / "shared" / "data" / "camvid"
NUM_CLASSES = 4
SIZE = (12, 16)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path / "cache"))


def make(root: Path, suffix: str = ".png", **totals: int) -> Path:
    """A folder with the given number of pairs per split; every mask holds ids 0 .. 3 in four bands."""
    rng = np.random.default_rng(0)
    for split, total in totals.items():
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(total):
            image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            mask = np.tile(np.arange(16, dtype=np.uint8) // 4, (12, 1))
            Image.fromarray(image).save(root / "images" / split / f"{split}_{i:03}{suffix}")
            Image.fromarray(mask).save(root / "annotations" / split / f"{split}_{i:03}.png")
    return root


def config(root: Path, **options: Any) -> folder.Config:
    """A config for folders made by `make`."""
    return replace(folder.Config(root=str(root), image_size=SIZE, num_classes=NUM_CLASSES), **options)


def opened_as(cfg: folder.Config) -> data.Data:
    """The folder that `cfg` describes."""
    return data.open_data("folder", cfg, "segmentation", ["mask"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three splits of 3, 2 and 1 pairs."""
    return make(tmp_path / "set", training=3, validation=2, test=1)


def refused(cfg: folder.Config) -> str:
    """The message with which `open_data` refuses `cfg`, on one line."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        opened_as(cfg)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_samples_equal_the_files(root: Path) -> None:
    opened = opened_as(config(root))
    assert [len(opened.split(split)) for split in data.SPLITS] == [3, 2, 1]
    got = opened.split("train").take(range(3), ["mask"])
    for i in range(3):
        with Image.open(root / "images" / "training" / f"training_{i:03}.png") as stored:
            image = np.asarray(stored)
        np.testing.assert_array_equal(got["image"][i], image.transpose(2, 0, 1))
        np.testing.assert_array_equal(got["mask"][i], np.tile(np.arange(16) // 4, (12, 1)))
    assert opened.info.class_names == ("class_0", "class_1", "class_2", "class_3")
    assert opened.info.ignore_index == 255


def test_image_and_mask_are_scaled_alike(tmp_path: Path) -> None:
    """A mask drawn from the picture still matches it after scaling to another shape."""
    root = make(tmp_path / "set", training=1, validation=1, test=1)
    mask = np.zeros((120, 160), np.uint8)
    mask[30:90, 40:100] = 1
    Image.fromarray(np.stack([mask * 200] * 3, axis=-1)).save(root / "images/training/training_000.png")
    Image.fromarray(mask).save(root / "annotations/training/training_000.png")
    got = opened_as(config(root, image_size=(40, 32))).split("train").take([0], ["mask"])
    assert got["image"].shape == (1, 3, 40, 32)
    np.testing.assert_array_equal(got["mask"][0] == 1, got["image"][0, 0] > 100)
    assert set(np.unique(got["mask"])) == {0, 1}
    assert (got["mask"][0, 10:30, 8:20] == 1).all()
    assert got["mask"].sum() == 20 * 12


def test_scaling_invents_no_labels(tmp_path: Path) -> None:
    """Edges between ids 0 and 3 that fall inside a new pixel give 0 or 3, nothing between."""
    root = make(tmp_path / "set", training=1, validation=1, test=1)
    mask = np.where(np.add.outer(np.arange(12), np.arange(16)) % 5 < 2, 3, 0).astype(np.uint8)
    Image.fromarray(mask).save(root / "annotations/training/training_000.png")
    got = opened_as(config(root, image_size=(7, 9))).split("train").take([0], ["mask"])["mask"]
    assert set(np.unique(got)) == {0, 3}


@pytest.mark.parametrize("absent", ["test", "validation"])
def test_a_missing_split_is_held_out_of_training(tmp_path: Path, absent: str) -> None:
    official = "validation" if absent == "test" else "test"
    root = make(tmp_path / "set", training=20, validation=2)
    if official == "test":
        for kind in ("images", "annotations"):
            (root / kind / "validation").rename(root / kind / "test")
    splits = {seed: folder._splits(config(root, val_fraction=0.2, split_seed=seed)) for seed in (0, 1)}
    for members in splits.values():
        assert [len(members[split]) for split in data.SPLITS] == [16, 4, 2]
        assert not set(members["train"]) & set(members["val"])
        assert {pair.image.parent.name for pair in members["test"]} == {official}
    assert splits[0]["val"] != splits[1]["val"]
    moved = Path(shutil.copytree(root, tmp_path / "elsewhere"))
    again = folder._splits(config(moved, val_fraction=0.2))
    assert [p.image.name for p in again["val"]] == [p.image.name for p in splits[0]["val"]]


def test_classes_json_supplies_what_the_config_leaves_open(root: Path) -> None:
    names = ["sky", "road", "tree"]
    stored = {"classes": names, "ignore_index": 9, "reduce_zero_label": True}
    (root / "classes.json").write_text(json.dumps(stored))
    opened = opened_as(config(root, num_classes=None))
    assert (opened.info.class_names, opened.info.ignore_index) == (tuple(names), 9)
    bands = np.array([9, 0, 1, 2])
    np.testing.assert_array_equal(opened.split("train").take([0], ["mask"])["mask"][0, 0], np.repeat(bands, 4))
    explicit = config(root, num_classes=None, ignore_index=3, reduce_zero_label=False)
    assert folder.info(explicit, "segmentation").ignore_index == 3
    mask = opened_as(explicit).split("train").take([0], ["mask"])["mask"]
    np.testing.assert_array_equal(mask[0, 0], np.repeat(np.arange(4), 4))


def test_reduce_zero_label_follows_ade20k(root: Path) -> None:
    """0 becomes 255, k becomes k - 1, and 255 stays what it is."""
    mask = np.tile(np.repeat(np.array([0, 1, 3, 255], np.uint8), 4), (12, 1))
    Image.fromarray(mask).save(root / "annotations/training/training_000.png")
    opened = opened_as(config(root, num_classes=3, reduce_zero_label=True))
    got = opened.split("train").take([0], ["mask"])["mask"][0, 0]
    np.testing.assert_array_equal(got, np.repeat([255, 0, 2, 255], 4))


def test_palette_masks_and_grey_or_jpeg_images_are_read(root: Path) -> None:
    path = root / "annotations/training/training_000.png"
    mask = Image.fromarray(np.tile(np.arange(16, dtype=np.uint8) // 4, (12, 1)))
    mask.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 90, 90, 90])
    mask.save(path)
    with Image.open(path) as stored:
        assert stored.mode == "P"
    grey = Image.fromarray(np.full(SIZE, 77, np.uint8))
    (root / "images/training/training_000.png").unlink()
    grey.save(root / "images/training/training_000.JPG")
    got = opened_as(config(root)).split("train").take([0], ["mask"])
    np.testing.assert_array_equal(got["mask"][0, 0], np.repeat(np.arange(4), 4))
    assert np.abs(got["image"].astype(int) - 77).max() <= 1


def test_the_fingerprint_is_of_content_and_the_cache_notices_changes(root: Path, tmp_path: Path) -> None:
    cfg = config(root)
    first = opened_as(cfg).fingerprint
    copied = config(Path(shutil.copytree(root, tmp_path / "copy")))
    for path in Path(copied.root or "").rglob("*.png"):
        os.utime(path, (1, 1))
    assert opened_as(copied).fingerprint == first
    assert folder.cache_key(copied, "segmentation") != folder.cache_key(cfg, "segmentation")
    for other in ({"image_size": (6, 8)}, {"num_classes": 5}, {"ignore_index": 254}):
        assert folder.fingerprint(config(root, **other), "segmentation") != first
    assert folder.fingerprint(config(root, split_seed=7), "segmentation") == first, "unused: the three splits are given"
    Image.new("RGB", (SIZE[1], SIZE[0])).save(root / "images/validation/validation_000.png")
    changed = opened_as(cfg)
    assert changed.fingerprint != first
    assert not changed.split("val").take([0], ["mask"])["image"].any()


def test_an_opened_folder_is_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_as(config(root))
    monkeypatch.setattr(folder, "fingerprint", lambda *_: pytest.fail("read the files again"))
    monkeypatch.setattr(folder, "batches", lambda *_: pytest.fail("decoded the files again"))
    assert len(opened_as(config(root)).split("train")) == 3


def test_a_missing_root_or_folder_is_named(root: Path, tmp_path: Path) -> None:
    assert "data.root must be the folder that holds images/ and annotations/, but got None" in refused(folder.Config())
    assert f"but got '{tmp_path / 'no'}'" in refused(config(tmp_path / "no"))
    shutil.rmtree(root / "annotations" / "test")
    assert f"{root / 'annotations' / 'test'} is missing" in refused(config(root))
    shutil.rmtree(root / "images" / "test")
    shutil.rmtree(root / "images" / "validation")
    assert f"{root / 'images' / 'validation'} is missing" in refused(config(root))
    shutil.rmtree(root / "images" / "training")
    assert f"{root / 'images' / 'training'} is missing" in refused(config(root))


def test_an_empty_folder_is_named(root: Path) -> None:
    for path in (root / "images" / "validation").iterdir():
        path.unlink()
    assert f"{root / 'images' / 'validation'} must hold .jpg or .png images" in refused(config(root))


def test_missing_annotations_are_counted_and_three_are_named(tmp_path: Path) -> None:
    root = make(tmp_path / "set", training=6, validation=1, test=1)
    for i in range(5):
        (root / "annotations" / "training" / f"training_{i:03}.png").unlink()
    message = refused(config(root))
    assert message.startswith("5 of the 6 pairs in split 'train' of ")
    assert "and 2 more" in message
    assert [f"training_{i:03}.png is missing" in message for i in range(5)] == [True] * 3 + [False] * 2


def test_masks_of_other_size_are_named(root: Path) -> None:
    Image.new("L", (5, 7)).save(root / "annotations/validation/validation_001.png")
    message = refused(config(root))
    assert "1 of the 2 pairs in split 'val'" in message
    assert "validation_001.png is 5x7, but its image is 16x12" in message


@pytest.mark.parametrize("kind", ["images", "annotations"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_truncated_files_are_named(tmp_path: Path, kind: str, keep: float) -> None:
    root = make(tmp_path / "set", ".jpg", training=2, validation=1, test=1)
    path = next((root / kind / "training").glob("training_001.*"))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert f"{path} cannot be decoded (" in refused(config(root))


def test_ids_that_are_no_label_are_named(root: Path) -> None:
    message = refused(config(root, num_classes=2))
    assert message.startswith("3 of the 3 pairs in split 'train'")
    assert "training_000.png holds the id 2, but ids must lie in 0 .. 1 or equal the ignore index 255" in message
    reduced = refused(config(root, num_classes=2, reduce_zero_label=True))
    assert "holds the id 3, but ids must lie in 1 .. 2" in reduced


def test_masks_and_images_of_other_kinds_are_named(root: Path) -> None:
    Image.new("RGB", (SIZE[1], SIZE[0])).save(root / "annotations/training/training_000.png")
    Image.fromarray(np.zeros(SIZE, np.uint16)).save(root / "images/training/training_001.png")
    message = refused(config(root))
    assert "training_000.png has mode RGB, but one channel" in message
    assert "training_001.png has pixels of mode I" in message


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("{", "must be JSON"),
        ("[]", 'names under "classes"'),
        ('{"classes": ["a", 1]}', 'names under "classes"'),
        ('{"classes": ["a", "b"], "ignore_index": 300}', "ignore_index in 0 .. 255"),
        ('{"classes": ["a", "b"], "reduce_zero_label": 1}', "reduce_zero_label true or false"),
        ('{"classes": ["a", "b"]}', "must equal the 2 classes"),
    ],
)
def test_a_wrong_classes_json_is_refused(root: Path, content: str, rule: str) -> None:
    (root / "classes.json").write_text(content)
    message = refused(config(root))
    assert rule in message
    assert "classes.json" in message


def test_the_number_of_classes_is_needed_without_classes_json(root: Path) -> None:
    assert "data.num_classes must be set" in refused(config(root, num_classes=None))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"image_size": (0, 4)}, "data.image_size must be height,width"),
        ({"num_classes": 1}, "data.num_classes must lie in 2 .. 255"),
        ({"ignore_index": 256}, "data.ignore_index must lie in 0 .. 255"),
        ({"val_fraction": 0.0}, "data.val_fraction must be greater than 0"),
        ({"val_fraction": 1.0}, "data.val_fraction must lie in"),
        ({"split_seed": -1}, "data.split_seed must be 0 or greater"),
    ],
)
def test_wrong_values_are_refused(options: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule) as caught:
        folder.Config(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.real
@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"CamVid is not at {CAMVID}")
def test_camvid_is_read_as_published() -> None:
    """The published split sizes and classes; small samples, so that this takes seconds."""
    opened = opened_as(folder.Config(root=str(CAMVID), image_size=(24, 32)))
    assert [len(opened.split(split)) for split in data.SPLITS] == [367, 101, 233]
    assert opened.info.num_classes == 11
    assert opened.info.class_names[0] == "sky"
    mask = opened.split("val").take(range(101), ["mask"])["mask"]
    assert set(np.unique(mask)) <= {*range(11), 255}
    share = np.bincount(mask.ravel(), minlength=256) / mask.size
    assert share[[0, 1, 3, 5]].min() > 0.05, "sky, building, road and tree are the large classes"
