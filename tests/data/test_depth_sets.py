"""NYUv2 and folders of RGB-D pictures: both layouts, metres, holding out by scenes, wrong files."""

from pathlib import Path
from typing import Any

import numpy as np
import photo_sets
import pytest
from PIL import Image

from sigma_ray import data
from sigma_ray.data import Draws, nyuv2, rgbd

SIZE = {"image_size": (24, 32)}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGMA_RAY_CACHE", str(tmp_path / "cache"))


def opened(name: str, cfg: Any) -> data.Data:
    return data.open_data(name, cfg, "depth", ["depth"])


def refused(name: str, cfg: Any) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        opened(name, cfg)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def scenes(split: Any) -> list[str]:
    """The scene of every sample of an NYUv2 split."""
    rows = split._rows(np.arange(len(split)))
    return [nyuv2._scene(nyuv2.Pair(row["image"], row["target"])) for row in rows]


@pytest.mark.parametrize("make", [photo_sets.nyu_bts, photo_sets.nyu_mmseg])
@pytest.mark.parametrize("inner", ["", "train_test_inputs"])
def test_nyu_holds_out_whole_scenes(tmp_path: Path, make: Any, inner: str) -> None:
    root = make(tmp_path / "nyu", inner) if make is photo_sets.nyu_bts else make(tmp_path / "nyu")
    found = opened("nyuv2", nyuv2.Config(root=str(root), **SIZE))
    assert [len(found.split(split)) for split in data.SPLITS] == [4, 2, 2]
    by_split = {split: scenes(found.split(split)) for split in data.SPLITS}
    assert len(set(by_split["val"])) == 1
    assert not set(by_split["train"]) & set(by_split["val"])
    assert (found.info.depth_crop, found.info.max_depth, found.info.num_classes) == ("eigen", 10.0, 0)
    others = {
        scenes(opened("nyuv2", nyuv2.Config(root=str(root), split_seed=seed, **SIZE)).split("val"))[0]
        for seed in range(8)
    }
    assert len(others) > 1


def test_depth_is_in_metres_and_unscaled_where_sizes_agree(tmp_path: Path) -> None:
    root = photo_sets.nyu_bts(tmp_path / "nyu")
    split = opened("nyuv2", nyuv2.Config(root=str(root), **SIZE)).split("train")
    expected = np.repeat([0, 1, 2.5, 9], 8).astype(np.float32)
    batch = split.take(np.array([0]), ["depth"])
    np.testing.assert_array_equal(batch["depth"][0], np.tile(expected, (24, 1)))
    draws = Draws(mirrored=np.array([False, True]), seeds=np.zeros(2, np.uint64))
    trained = split.augmented(np.array([0, 0]), ["depth"], draws)
    np.testing.assert_array_equal(trained["depth"][0], np.tile(expected, (24, 1)))
    np.testing.assert_array_equal(trained["depth"][1], np.tile(expected[::-1], (24, 1)))
    np.testing.assert_array_equal(trained["image"][1], trained["image"][0][..., ::-1])
    assert batch["image"].shape == (1, 3, 24, 32)


def test_training_crops_keep_depth_and_testing_sees_all(tmp_path: Path) -> None:
    root = photo_sets.nyu_bts(tmp_path / "nyu")
    cfg = nyuv2.Config(root=str(root), crop_size=(16, 20), colour_jitter=False, **SIZE)
    split = opened("nyuv2", cfg).split("train")
    whole = split.take(np.array([0]), ["depth"])
    seeds = np.arange(12, dtype=np.uint64)
    batch = split.augmented(np.zeros(12, int), ["depth"], Draws(mirrored=seeds > 20, seeds=seeds))
    assert batch["image"].shape == (12, 3, 16, 20)
    places = set()
    for image, depth in zip(batch["image"], batch["depth"], strict=True):
        matches = [
            (top, left)
            for top in range(9)
            for left in range(13)
            if np.array_equal(whole["image"][0][:, top : top + 16, left : left + 20], image)
        ]
        ((top, left),) = matches
        np.testing.assert_array_equal(whole["depth"][0][top : top + 16, left : left + 20], depth)
        places.add((top, left))
    assert len(places) > 6


def test_pictures_of_another_size_are_scaled_and_their_depth_stays(tmp_path: Path) -> None:
    root = photo_sets.rgbd(tmp_path / "set")
    found = opened("rgbd", rgbd.Config(root=str(root), image_size=(10, 15)))
    batch = found.split("val").take(np.arange(2), ["depth"])
    assert batch["image"].shape == (2, 3, 10, 15)
    assert [depth.shape for depth in batch["depth"]] == [(20, 30)] * 2
    trained = found.split("train").augmented(
        np.arange(1), ["depth"], Draws(mirrored=np.zeros(1, bool), seeds=np.zeros(1, np.uint64))
    )
    np.testing.assert_array_equal(trained["depth"][0, 0], np.repeat([0, 2, 4], 5).astype(np.float32))


def test_rgbd_reads_lists_or_folders_alike(tmp_path: Path) -> None:
    lists, folders = photo_sets.rgbd(tmp_path / "a"), photo_sets.rgbd(tmp_path / "b", lists=False)
    batches = [
        opened("rgbd", rgbd.Config(root=str(root), **SIZE)).split("test").take(np.arange(2), ["depth"])
        for root in (lists, folders)
    ]
    for one, other in zip(batches[0]["depth"], batches[1]["depth"], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"])


def test_rgbd_tests_on_the_list_that_is_named(tmp_path: Path) -> None:
    root = photo_sets.rgbd(tmp_path / "set")
    (root / "splits" / "test.txt").rename(root / "splits" / "test_unseen.txt")
    found = opened("rgbd", rgbd.Config(root=str(root), test_list="test_unseen", depth_scale=500.0, **SIZE))
    depth = found.split("test").take(np.arange(1), ["depth"])["depth"][0]
    assert depth.max() == 8
    message = refused("rgbd", rgbd.Config(root=str(root), **SIZE))
    assert "of different scenes" in message, "train is one scene, and val becomes the test"


def test_wrong_depth_files_are_named(tmp_path: Path) -> None:
    root = photo_sets.nyu_bts(tmp_path / "nyu")
    folder = root / "official_splits" / "test" / "kitchen"
    photo_sets.mask(folder / "sync_depth_00000.png", (24, 32), [0, 9], np.uint8)
    photo_sets.mask(folder / "sync_depth_00001.png", (24, 32), [0, 60000], np.uint16)
    message = refused("nyuv2", nyuv2.Config(root=str(root), **SIZE))
    assert "sync_depth_00000.png has mode L, but one 16-bit channel of depth is needed" in message
    assert "sync_depth_00001.png has no pixel between 0.001 and 10 m at 1000 units a metre" in message
    photo_sets.mask(folder / "sync_depth_00000.png", (24, 30), [0, 900], np.uint16)
    (folder / "sync_depth_00001.png").unlink()
    message = refused("nyuv2", nyuv2.Config(root=str(root), **SIZE))
    assert "sync_depth_00000.png is 30x24, but its image is 32x24" in message
    assert "sync_depth_00001.png is missing" in message


def test_wrong_lists_are_named(tmp_path: Path) -> None:
    root = photo_sets.nyu_bts(tmp_path / "nyu")
    listing = root / "nyudepthv2_test_files_with_gt.txt"
    listing.write_text("one.jpg\n")
    assert f"{listing} must hold lines of two paths" in refused("nyuv2", nyuv2.Config(root=str(root), **SIZE))
    listing.write_text("\n")
    assert f"{listing} must list the samples, but it is empty" in refused("nyuv2", nyuv2.Config(root=str(root)))


@pytest.mark.real
def test_real_rgbd_pictures_are_read(shared: Path) -> None:
    cfg = rgbd.Config(root=str(shared / "data" / "rgbd_indoor"), test_list="test_unseen", image_size=(96, 128))
    found = opened("rgbd", cfg)
    assert [len(found.split(split)) for split in data.SPLITS] == [287, 85, 65]
    batch = found.split("test").take(np.arange(0, 65, 8), ["depth"])
    valid = np.concatenate([depth[depth > 0] for depth in batch["depth"]])
    assert 0.8 < np.median(valid) < 3
    seeds = np.arange(8, dtype=np.uint64)
    train = found.split("train").augmented(np.arange(0, 280, 35), ["depth"], Draws(mirrored=seeds > 3, seeds=seeds))
    assert train["depth"].shape == (8, 96, 128)


@pytest.mark.real
def test_a_real_file_in_mmsegmentations_layout_is_read(tmp_path: Path, shared: Path) -> None:
    source = shared / "data" / "openmmlab_pseudo" / "pseudo_nyu_dataset"
    for split, names in (("train", ("a_1_0", "b_2_0")), ("test", ("c_3_0",))):
        for name in names:
            for folder, suffix in (("images", ".jpg"), ("annotations", ".png")):
                target = tmp_path / "nyu" / folder / split / f"{name}{suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((source / folder / f"bookstore_0001d_00001{suffix}").read_bytes())
    found = opened("nyuv2", nyuv2.Config(root=str(tmp_path / "nyu")))
    batch = found.split("test").take(np.arange(1), ["depth"])
    raw = np.asarray(Image.open(source / "annotations" / "bookstore_0001d_00001.png"))
    np.testing.assert_allclose(batch["depth"][0], raw / 1000, rtol=1e-6)
    assert batch["image"].shape == (1, 3, 480, 640)
