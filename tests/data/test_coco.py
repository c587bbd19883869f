"""COCO's format: boxes, crowds, masks and ids against pycocotools; what augmentation does to them; wrong files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import photo_sets
import pytest
from PIL import Image
from pycocotools.coco import COCO

from sigma_ray import data
from sigma_ray.data import Draws, coco
from sigma_ray.data._detection import enclosing

SPLITS = {"train2017": 10, "val2017": 4}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return photo_sets.coco(tmp_path / "set", SPLITS)


def config(root: Path, **options: Any) -> coco.Config:
    return coco.Config(**{"root": str(root), "image_size": (32, 32), "val_fraction": 0.2, **options})


def opened(cfg: coco.Config, *extra: str) -> data.Data:
    return data.open_data("coco", cfg, "detection", ["boxes", "labels", *extra])


def refused(cfg: coco.Config, *extra: str) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        opened(cfg, *extra)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def annotations(root: Path, name: str = "val2017") -> tuple[Path, dict[str, Any]]:
    path = root / "annotations" / f"instances_{name}.json"
    return path, json.loads(path.read_text())


def draws(total: int, mirrored: bool = False) -> Draws:
    return Draws(mirrored=np.full(total, mirrored), seeds=np.arange(total, dtype=np.uint64))


@pytest.mark.parametrize("folder", ["images", "."])
def test_evaluation_targets_are_those_of_pycocotools(tmp_path: Path, folder: str) -> None:
    root = photo_sets.coco(tmp_path / "set", SPLITS, folder)
    found = opened(config(root), "masks")
    split, official = found.split("test"), COCO(str(annotations(root)[0]))
    assert found.info.category_ids == (3, 7, 90)
    assert found.info.class_names == ("car", "train", "toothbrush")
    batch = split.take(np.arange(4), ["boxes", "labels", "masks"])
    for row, number in enumerate(sorted(official.imgs)):
        objects = official.loadAnns(official.getAnnIds(number))
        expected = np.array([o["bbox"] for o in objects], np.float32).reshape(-1, 4)
        expected[:, 2:] += expected[:, :2]
        np.testing.assert_array_equal(batch["boxes"][row], expected)
        ids = [found.info.category_ids[label] for label in batch["labels"][row]]
        assert ids == [o["category_id"] for o in objects]
        assert batch["crowd"][row].tolist() == [bool(o["iscrowd"]) for o in objects]
        assert batch["area"][row].tolist() == [o["area"] for o in objects]
        height, width = batch["size"][row]
        masks = np.array([official.annToMask(o) for o in objects], bool).reshape(-1, height, width)
        np.testing.assert_array_equal(batch["masks"][row], masks)
    assert len(batch["boxes"][3]) == 0, "a picture without an object is evaluated"


def test_evaluation_pictures_are_scaled_to_fit(root: Path) -> None:
    batch = opened(config(root)).split("test").take(np.arange(3), ["boxes"])
    for image, scale, size in zip(batch["image"], batch["scale"], batch["size"], strict=True):
        shown = np.round(size[::-1] * scale).astype(int)
        assert max(shown) == 32
        assert (image[:, shown[1] :] == np.array([124, 116, 104])[:, None, None]).all()
        assert (image[:, :, shown[0] :] == np.array([124, 116, 104])[:, None, None]).all()
        assert scale.dtype == np.float64


def test_training_leaves_out_pictures_without_objects_and_says_so(root: Path) -> None:
    found = opened(config(root))
    assert [len(found.split(split)) for split in data.SPLITS] in ([7, 2, 4], [8, 2, 4])
    every = opened(config(root, val_fraction=0.1, split_seed=3))
    total = sum(len(every.split(split)) for split in ("train", "val"))
    assert (total == 9) == ("train" in every.notes)
    if total == 9:
        assert "1 of 9 pictures show no object and are not trained on" in every.notes["train"][0]


def test_crowds_are_trained_on_only_where_asked_for(root: Path) -> None:
    split = opened(config(root, scale_range=(1.0, 1.0))).split("train")
    plain = split.augmented(np.arange(2), ["boxes", "labels"], draws(2))
    assert plain["labels"].shape == (2, 1)
    assert (plain["labels"] < 2).all(), "the crowds are toothbrushes, label 2"
    asked = split.augmented(np.arange(2), ["boxes", "labels", "crowd"], draws(2))
    assert asked["labels"].shape == (2, 2)
    np.testing.assert_array_equal(asked["labels"] == 2, asked["crowd"])


def test_boxes_enclose_what_the_crop_leaves_of_a_mask(root: Path) -> None:
    """Reference: the polygons are rectangles, so a clipped box and the clipped mask's extent agree to a pixel."""
    split = opened(config(root, scale_range=(0.5, 3.0)), "masks").split("train")
    total = len(split)
    seen = 0
    for mirrored in (False, True):
        with_masks = split.augmented(np.arange(total), ["boxes", "labels", "masks"], draws(total, mirrored))
        without = split.augmented(np.arange(total), ["boxes", "labels"], draws(total, mirrored))
        np.testing.assert_array_equal(with_masks["image"], without["image"])
        for row in range(total):
            kept = with_masks["labels"][row] >= 0
            boxes, masks = with_masks["boxes"][row][kept], with_masks["masks"][row][kept]
            np.testing.assert_array_equal(boxes, enclosing(masks))
            assert not with_masks["boxes"][row][~kept].any()
            if kept.any() and (without["labels"][row] >= 0).any():
                np.testing.assert_allclose(boxes, without["boxes"][row][:1], atol=1.51)
                seen += 1
    assert seen > total


def test_large_scale_jitter_covers_its_range(root: Path) -> None:
    """The share of the frame that a picture fills follows the factor drawn."""
    split = opened(config(root, scale_range=(0.1, 2.0))).split("train")
    seeds = np.arange(200, dtype=np.uint64)
    batch = split.augmented(np.zeros(200, int), ["boxes", "labels"], Draws(mirrored=np.zeros(200, bool), seeds=seeds))
    padding = (batch["image"] == np.array([124, 116, 104])[:, None, None]).all(axis=1)
    longest = np.maximum((~padding).any(axis=1).sum(axis=1), (~padding).any(axis=2).sum(axis=1))
    factors = np.array([np.random.default_rng(seed).uniform(0.1, 2.0) for seed in seeds])
    np.testing.assert_array_equal(longest, np.minimum(32, np.round(32 * factors)))
    boxes, kept = batch["boxes"], batch["labels"] >= 0
    assert (boxes[kept] >= 0).all()
    assert (boxes[kept] <= 32).all()
    assert ((boxes[kept][:, 2:] - boxes[kept][:, :2]) >= 1).all(), "smaller ones are dropped"
    assert (~kept).any()


def test_padding_rows_fill_pictures_with_fewer_objects(tmp_path: Path) -> None:
    root = photo_sets.coco(tmp_path / "set", {"train": 5, "val": 3, "test": 3})
    found = opened(config(root))
    assert [len(found.split(split)) for split in data.SPLITS] == [4, 3, 3]
    path, content = annotations(root, "train")
    extra = [dict(content["annotations"][0], id=100 + i, bbox=[i, 0, 9, 9]) for i in range(4)]
    path.write_text(json.dumps(content | {"annotations": content["annotations"] + extra}))
    batch = (
        opened(config(root, scale_range=(1.0, 1.0)))
        .split("train")
        .augmented(np.arange(4), ["boxes", "labels"], draws(4))
    )
    assert (batch["labels"] >= 0).sum(axis=1).tolist() == [5, 1, 1, 1]


def test_masks_are_offered_only_where_every_object_has_one(root: Path) -> None:
    path, content = annotations(root)
    for one in content["annotations"]:
        one["segmentation"] = []
    path.write_text(json.dumps(content))
    assert "masks" not in opened(config(root)).split("test").columns
    assert "must offer masks in split 'test' for detection" in refused(config(root), "masks")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": None}, "must hold images, annotations and categories as COCO defines them"),
        ({"images": [{"id": 1}]}, "as COCO defines them, but 'file_name' is missing or wrong"),
        ({"categories": [{"id": 1, "name": "x"}]}, "but 6 annotations do, the first with image_id 1 and category_id 3"),
        ({"images": []}, "but 6 annotations do"),
    ],
)
def test_wrong_annotations_are_refused(root: Path, changes: dict[str, Any], message: str) -> None:
    path, content = annotations(root)
    path.write_text(json.dumps(content | changes))
    found = refused(config(root))
    assert message in found
    assert str(path) in found
    path.write_text("{")
    assert "must be JSON" in refused(config(root))


def test_categories_must_agree_between_the_files(root: Path) -> None:
    path, content = annotations(root, "train2017")
    path.write_text(json.dumps(content | {"categories": [*content["categories"], {"id": 4, "name": "x"}]}))
    assert "the categories of train must be those of the test annotations" in refused(config(root))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, -3, 4]}, "annotation 1: [1, 2, -3, 4] is no bbox [x, y, w, h]"),
        ({"bbox": [1, 2]}, "annotation 1: [1, 2] is no bbox"),
        ({"segmentation": [[1.0, 2.0]]}, "annotation 1: its segmentation cannot be drawn"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "annotation 1: its segmentation cannot be drawn"),
    ],
)
def test_wrong_objects_are_named(root: Path, change: dict[str, Any], message: str) -> None:
    path, content = annotations(root)
    content["annotations"][0] |= change
    path.write_text(json.dumps(content))
    found = refused(config(root))
    assert found.startswith("1 of the 4 pictures in split 'test'")
    assert message in found


def test_sizes_that_disagree_are_named(root: Path) -> None:
    picture = root / "images" / "val2017" / f"{1:012}.jpg"
    Image.new("RGB", (7, 5)).save(picture)
    assert f"{picture} is 7x5, but its annotations say 20x30" in refused(config(root))


def test_missing_parts_are_named(root: Path) -> None:
    shutil.rmtree(root / "images" / "val2017")
    assert f"needs the folder {root / 'val2017'} or {root / 'images' / 'val2017'}" in refused(config(root))
    annotations(root)[0].unlink()
    assert "the file for val is missing" in refused(config(root))


@pytest.mark.real
def test_real_coco_pictures_agree_with_pycocotools(shared: Path) -> None:
    root = shared / "data" / "coco64"
    found = opened(config(root, image_size=(128, 128), val_fraction=0.1))
    assert [len(found.split(split)) for split in data.SPLITS] == [57, 6, 64]
    assert (found.info.num_classes, found.info.category_ids[-1], found.info.class_names[-1]) == (80, 90, "toothbrush")
    official = COCO(str(root / "annotations" / "instances_train2017.json"))
    split = found.split("train")
    batch = split.take(np.arange(57), ["boxes", "labels", "masks"])
    numbers = split._table.take(np.arange(57), ["image_id"])["image_id"]  # type: ignore[attr-defined]
    for row in range(0, 57, 5):
        objects = official.loadAnns(official.getAnnIds(int(numbers[row])))
        np.testing.assert_allclose(batch["boxes"][row][:, 0], [o["bbox"][0] for o in objects], rtol=1e-6)
        for mask, one in zip(batch["masks"][row], objects, strict=True):
            np.testing.assert_array_equal(mask, official.annToMask(one).astype(bool))
    trained = split.augmented(np.arange(16), ["boxes", "labels", "masks"], draws(16))
    assert (trained["labels"] >= 0).any(axis=1).mean() > 0.5


@pytest.mark.real
def test_real_blood_cells_have_three_published_splits(shared: Path) -> None:
    found = opened(config(shared / "data" / "bccd", image_size=(120, 160)))
    assert [len(found.split(split)) for split in data.SPLITS] == [205, 87, 72]
    assert found.info.class_names == ("RBC", "WBC", "Platelets")
    assert "must offer masks in split 'train'" in refused(
        config(shared / "data" / "bccd", image_size=(120, 160)), "masks"
    )
