"""ADE20K, Cityscapes and PASCAL Context: labels, holding out, augmentation, wrong masks; against MMSegmentation."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import photo_sets
import pytest
from PIL import Image

from sigma_ray import data
from sigma_ray.data import Draws, _segmentation, ade20k, cityscapes, pascal_context

SIZE = {"image_size": (16, 24)}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path / "cache"))


def opened(name: str, cfg: Any) -> data.Data:
    return data.open_data(name, cfg, "segmentation", ["mask"])


def refused(name: str, cfg: Any) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        opened(name, cfg)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ade20k_ignores_other_and_counts_from_one(tmp_path: Path) -> None:
    root = photo_sets.ade20k(tmp_path / "ADEChallengeData2016")
    found = opened("ade20k", ade20k.Config(root=str(root), val_fraction=0.25, **SIZE))
    assert [len(found.split(split)) for split in data.SPLITS] == [6, 2, 3]
    batch = found.split("test").take(np.arange(3), ["mask"])
    for row, (height, width) in enumerate(photo_sets.SIZES):
        stored = np.asarray(Image.open(root / "annotations" / "validation" / f"ADE_val_{row + 1:08}.png")).astype(int)
        np.testing.assert_array_equal(batch["mask"][row], np.where(stored == 0, 255, stored - 1))
        assert batch["image"][row].shape == (3, *_fitted(height, width, 16))
    assert (found.info.num_classes, found.info.class_names[0], found.info.class_names[149]) == (150, "wall", "flag")
    above = ade20k.Config(root=str(tmp_path), val_fraction=0.25, **SIZE)
    assert opened("ade20k", above).info == found.info


def _fitted(height: int, width: int, short: int) -> tuple[int, int]:
    factor = short / min(height, width)
    return round(height * factor), round(width * factor)


def test_test_pictures_follow_the_short_side_and_windows(tmp_path: Path) -> None:
    root = photo_sets.ade20k(tmp_path / "set")
    cfg = ade20k.Config(root=str(root), test_short_side=10, window_stride=(8, 8), **SIZE)
    found = opened("ade20k", cfg)
    assert found.info.window_stride == (8, 8)
    images = found.split("test").take(np.arange(3), [])["image"]
    assert [image.shape[1:] for image in images] == [_fitted(h, w, 10) for h, w in photo_sets.SIZES]


@pytest.mark.parametrize("ends", [("labelIds",), ("labelTrainIds",), ("labelIds", "labelTrainIds")])
def test_cityscapes_reads_either_kind_of_mask(tmp_path: Path, ends: tuple[str, ...]) -> None:
    root = photo_sets.cityscapes(tmp_path / "set", ends)
    found = opened("cityscapes", cityscapes.Config(root=str(root), **SIZE))
    for split, total in (("train", 4), ("val", 2), ("test", 2)):
        assert len(found.split(split)) == total
        (mask,) = found.split(split).take(np.array([0]), ["mask"])["mask"]
        np.testing.assert_array_equal(mask[0], np.repeat([255, 0, 13, 18], 8))
    table = found.split("val")
    cities = {row["image"].parent.name for row in table._rows(np.arange(2))}  # type: ignore[attr-defined]
    assert len(cities) == 1, "frames of a city stay together"


def test_pascal_context_ignores_the_background(tmp_path: Path) -> None:
    root = photo_sets.pascal_context(tmp_path / "set")
    found = opened("pascal_context", pascal_context.Config(root=str(root), **SIZE))
    (mask,) = found.split("test").take(np.array([0]), ["mask"])["mask"]
    np.testing.assert_array_equal(mask[0], np.repeat([255, 0, 58], 12))
    inner = pascal_context.Config(root=str(root / "VOCdevkit" / "VOC2010"), **SIZE)
    assert len(opened("pascal_context", inner).split("train")) == 4


def test_classes_are_those_of_mmsegmentation() -> None:
    from sigma_ray.heads._mmcv_ops import install

    install()
    from mmseg.datasets import ADE20KDataset, CityscapesDataset, PascalContextDataset59

    for module, official in (
        (ade20k, ADE20KDataset),
        (cityscapes, CityscapesDataset),
        (pascal_context, PascalContextDataset59),
    ):
        names = module.info(module.Config(), "segmentation").class_names
        assert names == tuple(name.strip() for name in official.METAINFO["classes"])


def test_training_samples_show_the_picture_and_its_mask_alike(tmp_path: Path) -> None:
    """A picture painted from its mask matches it after scaling, cropping, mirroring and padding, but for edges."""
    root = photo_sets.ade20k(tmp_path / "set")
    painted = np.zeros((40, 60), np.uint8)
    painted[10:30, 15:40] = 1
    for folder in ("images", "annotations"):
        for path in (root / folder / "training").iterdir():
            path.unlink()
    for i in range(2):
        Image.fromarray(np.stack([painted * 200] * 3, axis=-1)).save(root / f"images/training/{i}.png")
        Image.fromarray(painted + 1).save(root / f"annotations/training/{i}.png")
    cfg = ade20k.Config(root=str(root), image_size=(32, 48), photometric=False, cat_max_ratio=1.0)
    split = opened("ade20k", cfg).split("train")
    seeds = np.arange(40, dtype=np.uint64)
    batch = split.augmented(np.zeros(40, int), ["mask"], Draws(mirrored=seeds % 2 == 1, seeds=seeds))
    inside, outside = batch["mask"] == 1, batch["mask"] == 0
    bright = batch["image"][:, 0] > 100
    assert (bright & outside).sum() + (~bright & inside).sum() < 0.03 * outside.sum()
    padded = batch["mask"] == 255
    assert 0.02 < padded.mean() < 0.5
    assert (batch["image"].transpose(0, 2, 3, 1)[padded] == (124, 116, 104)).all()
    assert len({mask.tobytes() for mask in batch["mask"]}) > 25


@pytest.mark.parametrize("photometric", [False, True])
def test_mirrored_pictures_stay_in_the_upper_left(tmp_path: Path, photometric: bool) -> None:
    """A picture smaller than the frame is turned and distorted, its padding is neither."""
    root = photo_sets.ade20k(tmp_path / "set")
    cfg = ade20k.Config(root=str(root), image_size=(24, 40), ratio_range=(0.5, 0.5), photometric=photometric)
    split = opened("ade20k", cfg).split("train")
    plain, turned = (
        split.augmented(np.arange(3), ["mask"], Draws(mirrored=np.full(3, on), seeds=np.arange(3, dtype=np.uint64)))
        for on in (False, True)
    )
    sizes = split.take(np.arange(3), [])["size"]
    for row, size in enumerate(sizes.tolist()):
        height, width = _fitted(*size, short=12)
        for name, padding in (("image", np.array([124, 116, 104])[:, None]), ("mask", 255)):
            seen, other = plain[name][row][..., :height, :width], turned[name][row][..., :height, :width]
            assert photometric or np.array_equal(other, seen[..., ::-1])
            assert (turned[name][row][..., height:, 0] == padding).all()
            assert (turned[name][row][..., 0, width:] == padding).all()


def test_crops_avoid_a_single_class() -> None:
    """Half of the picture is one class; with the limit its windows nearly always show more than that class."""
    mask = np.zeros((100, 100), np.uint8)
    mask[:, 50:] = np.arange(100)[:, None] // 10 + 1
    shares = {}
    for limit in (1.0, 0.75):
        largest = []
        for seed in range(100):
            view = _segmentation.crop(mask, (100, 100), (20, 20), False, limit, np.random.default_rng(seed))
            window = mask[view.corner[0] :, view.corner[1] :][:20, :20]
            largest.append(np.bincount(window.ravel()).max() / 400)
        shares[limit] = np.mean(np.array(largest) >= 0.75)
    assert shares[1.0] > 0.3
    assert shares[0.75] < 0.02


@pytest.mark.parametrize(
    ("ids", "dtype", "message"),
    [
        ([0, 151], np.uint8, "holds the id 151, but ids must lie in 0 .. 150 or equal 255"),
        ([0, 3], np.uint16, "has mode I;16, but one 8-bit channel of class numbers is needed"),
    ],
)
def test_wrong_masks_are_named(tmp_path: Path, ids: list[int], dtype: Any, message: str) -> None:
    root = photo_sets.ade20k(tmp_path / "set")
    path = root / "annotations" / "validation" / "ADE_val_00000002.png"
    photo_sets.mask(path, photo_sets.SIZES[1], ids, dtype)
    assert f"1 of the 3 pairs in split 'test' of {root} cannot be used: {path} {message}" in refused(
        "ade20k", ade20k.Config(root=str(root), **SIZE)
    )


def test_masks_that_are_missing_coloured_or_of_another_size_are_named(tmp_path: Path) -> None:
    root = photo_sets.ade20k(tmp_path / "set")
    folder = root / "annotations" / "validation"
    (folder / "ADE_val_00000001.png").unlink()
    Image.new("RGB", (20, 30)).save(folder / "ADE_val_00000002.png")
    photo_sets.mask(folder / "ADE_val_00000003.png", (5, 7), [1])
    message = refused("ade20k", ade20k.Config(root=str(root), **SIZE))
    assert "3 of the 3 pairs in split 'test'" in message
    assert "ADE_val_00000001.png is missing" in message
    assert "ADE_val_00000002.png has mode RGB" in message
    assert "ADE_val_00000003.png is 7x5, but its image is 48x16" in message


def test_a_cityscapes_id_out_of_range_is_named(tmp_path: Path) -> None:
    root = photo_sets.cityscapes(tmp_path / "set")
    path = root / "gtFine/val/frankfurt/frankfurt_000000_000001_gtFine_labelIds.png"
    photo_sets.mask(path, (16, 32), [7, 40])
    message = refused("cityscapes", cityscapes.Config(root=str(root), **SIZE))
    assert f"{path} holds the id 40, but ids must lie in 0 .. 33 or equal 255" in message


@pytest.mark.real
def test_real_ade20k_and_cityscapes_files_are_read(tmp_path: Path, shared: Path) -> None:
    """Three validation pictures of ADE20K serve as training pictures too; ids 1, 2, 3 are wall, building, sky."""
    source, root = shared / "data" / "ade20k_sample", tmp_path / "ade"
    for folder in ("images", "annotations"):
        for split in ("training", "validation"):
            shutil.copytree(source / folder / "validation", root / folder / split)
    found = opened("ade20k", ade20k.Config(root=str(root), image_size=(128, 128)))
    batch = found.split("test").take(np.arange(3), ["mask"])
    raw = np.asarray(Image.open(source / "annotations" / "validation" / "ADE_val_00000001.png"))
    assert set(np.unique(raw)) == {0, 1, 2, 3, 5, 7, 10, 18}
    assert set(np.unique(batch["mask"][0])) == {255, 0, 1, 2, 4, 6, 9, 17}
    assert min(batch["image"][0].shape[1:]) == 128
    seeds = np.arange(4, dtype=np.uint64)
    train = found.split("train").augmented(np.array([0, 1, 0, 1]), ["mask"], Draws(mirrored=seeds > 1, seeds=seeds))
    assert train["image"].shape == (4, 3, 128, 128)
    assert set(np.unique(train["mask"])) <= {*range(150), 255}

    source = shared / "data" / "openmmlab_pseudo" / "pseudo_cityscapes_dataset"
    masks = source / "gtFine" / "val" / "frankfurt"
    by_id = _segmentation.read_mask(next(masks.glob("*_labelIds.png")), cityscapes.CODINGS["labelIds.png"])
    by_train = _segmentation.read_mask(next(masks.glob("*_labelTrainIds.png")), cityscapes.CODINGS["labelTrainIds.png"])
    assert np.mean(by_id == by_train) > 0.995, "that sample's two files were scaled down apart"
    assert len(np.unique(by_id)) > 5
