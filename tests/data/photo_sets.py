"""Tiny data sets in their official layouts, written to disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZES = ((24, 36), (30, 20), (16, 48))


def picture(path: Path, size: tuple[int, int], seed: int) -> None:
    """A smooth colourful picture of `size` (h, w)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path)


def mask(path: Path, size: tuple[int, int], ids: list[int], dtype: Any = np.uint8) -> np.ndarray:
    """A mask of `size` (h, w) with `ids` in vertical bands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(ids, dtype)[np.arange(size[1]) * len(ids) // size[1]]
    values = np.tile(values, (size[0], 1))
    Image.fromarray(values).save(path)
    return values


def ade20k(root: Path, train: int = 8, test: int = 3) -> Path:
    """ADEChallengeData2016 with ids 0, 1, 4 and 150."""
    for name, total in (("training", train), ("validation", test)):
        for i in range(total):
            stem = f"ADE_{'train' if name == 'training' else 'val'}_{i + 1:08}"
            picture(root / "images" / name / f"{stem}.jpg", SIZES[i % 3], i)
            mask(root / "annotations" / name / f"{stem}.png", SIZES[i % 3], [0, 1, 4, 150])
    return root


def cityscapes(root: Path, ends: tuple[str, ...] = ("labelIds",)) -> Path:
    """Three training cities of two frames and one validation city."""
    ids = {"labelIds": [0, 7, 26, 33], "labelTrainIds": [255, 0, 13, 18]}
    for split, cities in (("train", ("aachen", "bochum", "ulm")), ("val", ("frankfurt",))):
        for city in cities:
            for frame in range(2):
                stem = f"{city}_000000_{frame:06}"
                picture(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", (16, 32), frame)
                for end in ends:
                    mask(root / "gtFine" / split / city / f"{stem}_gtFine_{end}.png", (16, 32), ids[end])
    return root


def pascal_context(root: Path) -> Path:
    """Five training and two validation pictures below VOCdevkit/VOC2010."""
    base = root / "VOCdevkit" / "VOC2010"
    lists = base / "ImageSets" / "SegmentationContext"
    lists.mkdir(parents=True)
    for name, total in (("train", 5), ("val", 2)):
        stems = [f"2008_{name}{i}" for i in range(total)]
        (lists / f"{name}.txt").write_text("\n".join(stems) + "\n")
        for i, stem in enumerate(stems):
            picture(base / "JPEGImages" / f"{stem}.jpg", SIZES[i % 3], i)
            mask(base / "SegmentationClassContext" / f"{stem}.png", SIZES[i % 3], [0, 1, 59])
    return root


def nyu_bts(root: Path, lists: str = "") -> Path:
    """The BTS layout: three scenes of two frames, one test scene of two; split files in folder `lists`."""
    for split, base, scenes in (
        ("train", "sync", ("kitchen_0001", "bedroom_0002", "office_0003")),
        ("test", "official_splits/test", ("kitchen",)),
    ):
        rows = []
        for scene in scenes:
            for i in range(2):
                picture(root / base / scene / f"rgb_{i:05}.jpg", (24, 32), i)
                mask(root / base / scene / f"sync_depth_{i:05}.png", (24, 32), [0, 1000, 2500, 9000], np.uint16)
                rows.append(f"/{scene}/rgb_{i:05}.jpg /{scene}/sync_depth_{i:05}.png 518.8579")
        folder = root / lists
        folder.mkdir(exist_ok=True)
        (folder / f"nyudepthv2_{split}_files_with_gt.txt").write_text("\n".join(rows) + "\n")
    return root


def nyu_mmseg(root: Path) -> Path:
    """The layout of MMSegmentation: three scenes of two frames for training, one for test."""
    for split, scenes in (("train", ("a_1", "b_2", "c_3")), ("test", ("d_4",))):
        for scene in scenes:
            for i in range(2):
                picture(root / "images" / split / f"{scene}_{i:05}.jpg", (24, 32), i)
                mask(root / "annotations" / split / f"{scene}_{i:05}.png", (24, 32), [0, 1500, 10000], np.uint16)
    return root


def rgbd(root: Path, lists: bool = True) -> Path:
    """Scenes of two frames each: one a split."""
    if lists:
        (root / "splits").mkdir(parents=True)
    for split in ("train", "val", "test"):
        names = [f"{split}/{i:03}" for i in range(2)]
        for i, name in enumerate(names):
            picture(root / "rgb" / f"{name}.jpg", (20, 30), i)
            mask(root / "depth" / f"{name}.png", (20, 30), [0, 2000, 4000], np.uint16)
        if lists:
            rows = [f"rgb/{name}.jpg depth/{name}.png" for name in names]
            (root / "splits" / f"{split}.txt").write_text("\n".join(rows) + "\n")
    return root


def coco(root: Path, splits: dict[str, int], folder: str = "images", **changes: Any) -> Path:
    """Pictures with two boxes (one a polygon's, one a crowd) and one without any; categories 3, 7 and 90.

    `changes` replace entries of every annotation file.
    """
    for name, total in splits.items():
        images, annotations = [], []
        for i in range(total):
            height, width = SIZES[i % 3]
            picture(root / folder / name / f"{i:012}.jpg", (height, width), i)
            images.append({"id": i * 10 + 1, "file_name": f"{i:012}.jpg", "height": height, "width": width})
            if i == total - 1:
                continue
            annotations.append(_polygon(i, len(annotations) + 1))
            counts = [0, height * 4, height * (width - 4)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i * 10 + 1,
                    "category_id": 90,
                    "bbox": [0, 0, 4, height],
                    "area": 4 * height,
                    "iscrowd": 1,
                    "segmentation": {"size": [height, width], "counts": counts},
                }
            )
        categories = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 7, "name": "train"}]
        content = {"images": images, "annotations": annotations, "categories": categories, **changes}
        path = root / "annotations" / f"instances_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return root


def _polygon(picture: int, number: int) -> dict[str, Any]:
    """A rectangle of 10 x 8 pixels whose upper left corner moves with the picture."""
    x, y = 4 + picture % 4, 3 + picture % 3
    outline = [x, y, x + 10, y, x + 10, y + 8, x, y + 8]
    return {
        "id": number,
        "image_id": picture * 10 + 1,
        "category_id": (3, 7)[picture % 2],
        "bbox": [x, y, 10, 8],
        "area": 80.0,
        "iscrowd": 0,
        "segmentation": [outline],
    }
