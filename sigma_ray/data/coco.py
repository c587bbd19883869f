"""COCO, and any detection data set in its format: pictures and `annotations/instances_<name>.json`.

The names are `train2017`, `val2017` and `test2017`, or `train`, `val` and `test`; the pictures lie in `<name>/` or
`images/<name>/`. With labels for all three they are used as they are. COCO publishes no test labels: there the
published validation pictures are "test", as in its papers, and "val" is held out of the training pictures. Pictures
without an object are kept where AP is measured and left out of training.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sigma_ray.checks import one_of
from sigma_ray.data import _coco_json, _columns, _detection, _files
from sigma_ray.data._info import Info
from sigma_ray.data._needs import Needs, Part
from sigma_ray.data._options import DetectionOptions
from sigma_ray.data._photos import Photos
from sigma_ray.data.tables import Table

VERSION = 1  # raised whenever a label changes
HOLDS = "annotations/ and the folders of pictures"
NEEDS = Needs(
    title="COCO 2017",
    size="about 19 GB",
    page="https://cocodataset.org/#download",
    parts=(
        Part(("annotations/instances_train2017.json", "annotations/instances_train.json"), "241 MB zip for all"),
        Part(("annotations/instances_val2017.json", "annotations/instances_val.json"), "in the same zip"),
        Part(("train2017", "images/train2017", "images/train"), "118,287 pictures, 18 GB"),
        Part(("val2017", "images/val2017", "images/val"), "5,000 pictures, 1 GB"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config(DetectionOptions):
    """COCO in its official layout. About 5000 of its 118,287 training pictures are held out, as many as are tested."""

    tasks: ClassVar[tuple[str, ...]] = ("detection",)

    val_fraction: float = 0.04


def needs(cfg: Config) -> list[str]:
    """What has to lie below `cfg.root`, and what of it is missing."""
    return NEEDS.lines(cfg.root)


def info(cfg: Config, task: str) -> Info:
    """Labels 0 .. in the order of the category ids.

    Raises:
        ValueError: the annotations are not in COCO's format.
    """
    one_of("task", task, cfg.tasks)
    categories = _annotations(cfg)["test"].categories
    return Info(
        image_size=cfg.image_size,
        num_classes=len(categories),
        class_names=tuple(categories.values()),
        category_ids=tuple(categories),
    )


def cache_key(cfg: Config, task: str) -> str:
    """See `sigma_ray.data`; looks at the files' dates and not into them."""
    root = _root(cfg)
    settings = [VERSION, cfg.max_unusable, cfg.val_fraction, cfg.split_seed]
    return _files.quick_hash(settings, root, _paths(root))


def fingerprint(cfg: Config, task: str) -> str:
    """See `sigma_ray.data`."""
    root = _root(cfg)
    return _files.content_hash([VERSION, cfg.val_fraction, cfg.split_seed], root, _paths(root))


def batches(cfg: Config, task: str, split: str) -> Generator[dict[str, Any], None, list[str]]:
    """See `sigma_ray.data`; the rows that `_detection` describes, with `image_id`."""
    one_of("split", split, ("train", "val", "test"))
    root, published = _root(cfg), _annotations(cfg)
    categories = published["test"].categories
    labels = {number: label for label, number in enumerate(categories)}
    for name, annotations in published.items():
        if annotations.categories != categories:
            raise ValueError(f"the categories of {name} must be those of the test annotations; correct the files.")
    source = published.get(split, published["train"])
    with_masks = all(o.get("segmentation") for o in source.objects())
    pictures = _three_splits(cfg, published)[split]
    notes = []
    if split == "train":
        total = len(pictures)
        pictures = [p for p in pictures if any(not o.get("iscrowd") for o in source.of(p))]
        if len(pictures) < total:
            notes = [f"{total - len(pictures)} of {total} pictures show no object and are not trained on"]
    folder = _pictures(root, source.path)

    def read(picture: dict[str, Any]) -> dict[str, np.ndarray]:
        path = folder / picture["file_name"]
        image = _files.decode_rgb(path)
        if (image.height, image.width) != (picture["height"], picture["width"]):
            size = f"{picture['width']}x{picture['height']}"
            raise ValueError(f"{path} is {image.width}x{image.height}, but its annotations say {size}")
        row = _coco_json.row(picture, source.of(picture), labels, with_masks)
        return {"image": _columns.text(path.relative_to(root).as_posix()), **row}

    among = f"pictures in split {split!r} of {cfg.root}"
    return notes + (yield from _files.checked(pictures, read, max_unusable=cfg.max_unusable, among=among))


def open_split(cfg: Config, task: str, table: Table) -> Photos:
    """See `sigma_ray.data`."""
    return Photos(table, _root(cfg), _detection.Recipe(cfg))


def _root(cfg: Config) -> Path:
    return _files.existing_root(cfg.root, HOLDS)


def _published(root: Path) -> dict[str, Path]:
    """Annotation files by split."""
    folder = root / "annotations"
    candidates = {split: (f"{split}2017", split) for split in ("train", "val", "test")}
    found = {
        split: path
        for split, names in candidates.items()
        for path in [folder / f"instances_{name}.json" for name in reversed(names)]
        if path.is_file()
    }
    if "train" not in found or len(found) < 2:
        missing = "train" if "train" not in found else "val"
        raise ValueError(
            f"{root} must have annotations/instances_train2017.json and annotations/instances_val2017.json (or "
            f"..._train.json and ..._val.json), but the file for {missing} is missing."
        )
    return found


def _pictures(root: Path, annotations: Path) -> Path:
    """The folder of the pictures that an annotation file speaks of."""
    name = annotations.stem.removeprefix("instances_")
    folders = (root / name, root / "images" / name)
    for folder in folders:
        if folder.is_dir():
            return folder
    raise ValueError(f"{annotations} needs the folder {folders[0]} or {folders[1]}, but there is neither.")


def _annotations(cfg: Config) -> dict[str, _coco_json.Annotations]:
    """The annotations by what they are used for: "test" is the published validation where there are two files."""
    files = _published(_root(cfg))
    if "test" not in files:
        files = {"train": files["train"], "test": files["val"]}
    elif "val" not in files:
        files = {"train": files["train"], "test": files["test"]}
    return {split: _coco_json.read(path) for split, path in files.items()}


def _three_splits(cfg: Config, published: dict[str, _coco_json.Annotations]) -> dict[str, list[dict[str, Any]]]:
    pictures = {split: annotations.pictures for split, annotations in published.items()}
    where = f"the training annotations of {cfg.root}"
    return _files.three_splits(pictures, lambda p: p["file_name"], cfg.val_fraction, cfg.split_seed, where)


def _paths(root: Path) -> dict[str, list[Path]]:
    """The annotation files and everything in the folders of pictures."""
    return {
        split: [path, *sorted(p for p in _pictures(root, path).iterdir() if p.is_file())]
        for split, path in _published(root).items()
    }
