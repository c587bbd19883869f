"""Image folders laid out like ADE20K: `images/<split>/<stem>.jpg` beside `annotations/<split>/<stem>.png`.

The splits on disk are `training`, `validation` and `test`. With all three they are used as they are. With
only one of the last two (ADE20K publishes no test labels) that one becomes "test", which no choice may look
at, and "val" is a share `val_fraction` of the training images: those whose names hash lowest together with
`split_seed`.

Every pair is decoded once, when the tables are built, and resized to `image_size` by plain scaling of both
axes: images bilinear with antialiasing, masks nearest. Whatever is wrong with a file is found then, before
any trial starts.
"""

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from sigma_ray.checks import fraction, non_negative, one_of, positive
from sigma_ray.data import _files, _pairs
from sigma_ray.data._info import Info
from sigma_ray.data._needs import Needs, of_splits

VERSION = 1  # part of fingerprint and cache key: raise it whenever a pixel of a table changes
FOLDERS = {"train": "training", "val": "validation", "test": "test"}
NEEDS = Needs(
    title="pictures with masks of class numbers",
    size="your own",
    page="see sigma_ray/data/folder.py for the layout",
    parts=of_splits(("images", "annotations"), (("training", "pairs to train on"), ("validation", "pairs to test on"))),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which folder, and how to read its masks.

    `<root>/classes.json` (`{"classes": [...], "ignore_index": 255, "reduce_zero_label": false}`) supplies
    `num_classes`, `ignore_index` and `reduce_zero_label` where they are None here; without it the latter two
    are 255 and False.

    Attributes:
        root: the folder that holds `images` and `annotations`.
        image_size: (height, width) of the samples, in pixels.
        num_classes: masks hold 0 .. num_classes - 1 (after `reduce_zero_label`) and `ignore_index`.
        ignore_index: mask value that is not counted.
        reduce_zero_label: mask value 0 means "ignore", and k + 1 means class k (ADE20K).
        val_fraction: share of the training images held out as "val", where a split is missing.
        split_seed: another seed holds out others.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    root: str | None = None
    image_size: tuple[int, int] = (512, 512)
    num_classes: int | None = None
    ignore_index: int | None = None
    reduce_zero_label: bool | None = None
    val_fraction: float = 0.1
    split_seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked without looking at the folder."""
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(
                f"data.image_size must be height,width, both at least 1, but got {self.image_size!r}; use 512,512."
            )
        if self.num_classes is not None and not 2 <= self.num_classes <= 255:
            raise ValueError(f"data.num_classes must lie in 2 .. 255, but got {self.num_classes}; masks are 8-bit.")
        if self.ignore_index is not None and not 0 <= self.ignore_index <= 255:
            raise ValueError(f"data.ignore_index must lie in 0 .. 255, but got {self.ignore_index}; use 255.")
        positive("data.val_fraction", self.val_fraction)
        fraction("data.val_fraction", self.val_fraction)
        non_negative("data.split_seed", self.split_seed)


def info(cfg: Config, task: str) -> Info:
    """Labels and geometry, from the configuration and `classes.json`.

    Raises:
        ValueError: the number of classes is unknown, or `classes.json` is not as described.
    """
    return _resolve(cfg)[0]


def cache_key(cfg: Config, task: str) -> str:
    """Hash of the settings and of the names, sizes and modification times of the files: quick, and local."""
    return _files.quick_hash(_settings(cfg), _root(cfg), _paths(cfg))


def fingerprint(cfg: Config, task: str) -> str:
    """Hash of the settings and of every file's relative name and bytes, by split; reads all files."""
    return _files.content_hash(_settings(cfg), _root(cfg), _paths(cfg))


def batches(cfg: Config, task: str, split: str) -> Generator[dict[str, np.ndarray], None, list[str]]:
    """Yield "image" uint8 (B, 3, H, W) and "mask" uint8 (B, H, W) of "train", "val" or "test".

    Raises:
        ValueError: files that cannot be used; all are looked at first, the message counts them and names
        three.
    """
    one_of("split", split, ("train", "val", "test"))
    labels, reduce_zero_label = _resolve(cfg)

    def read(pair: _files.Pair) -> dict[str, np.ndarray]:
        return _pairs.read(pair, labels, reduce_zero_label)

    among = f"pairs in split {split!r} of {cfg.root}"
    return (yield from _files.checked(_splits(cfg)[split], read, among=among, ragged=False))


def needs(cfg: Config) -> list[str]:
    """What has to lie below `cfg.root`, and what of it is missing."""
    return NEEDS.lines(cfg.root)


def _root(cfg: Config) -> Path:
    return _files.existing_root(cfg.root, "images/ and annotations/")


def _resolve(cfg: Config) -> tuple[Info, bool]:
    """Labels, and whether 0 means "ignore": first the configuration, then `classes.json`, then defaults."""
    path = _root(cfg) / "classes.json"
    stored = _pairs.read_classes(path) if path.exists() else {}
    names = stored.get("classes")
    if names is None and cfg.num_classes is None:
        raise ValueError(f"data.num_classes must be set, because there is no {path}; set it or write that file.")
    if names is not None and cfg.num_classes not in (None, len(names)):
        raise ValueError(
            f"data.num_classes must equal the {len(names)} classes in {path}, but got {cfg.num_classes}; leave it none."
        )
    names = tuple(names or (f"class_{i}" for i in range(cfg.num_classes or 0)))
    ignore = stored.get("ignore_index", 255) if cfg.ignore_index is None else cfg.ignore_index
    reduce = stored.get("reduce_zero_label", False) if cfg.reduce_zero_label is None else cfg.reduce_zero_label
    labels = Info(num_classes=len(names), class_names=names, image_size=cfg.image_size, ignore_index=ignore)
    return labels, reduce


def _settings(cfg: Config) -> list[object]:
    """What decides the tables besides the files."""
    labels, reduce = _resolve(cfg)
    return [VERSION, labels.class_names, labels.image_size, labels.ignore_index, reduce]


def _paths(cfg: Config) -> dict[str, list[Path]]:
    return {split: [path for pair in pairs for path in pair] for split, pairs in _splits(cfg).items()}


def _splits(cfg: Config) -> dict[str, list[_files.Pair]]:
    """The pairs of "train", "val" and "test"."""
    root = _root(cfg)
    found = {
        split: _files.pairs_in(root / "images" / name, root / "annotations" / name, both=False)
        for split, name in FOLDERS.items()
        if (root / "images" / name).is_dir()
    }
    missing = [str(root / "images" / FOLDERS[split]) for split in ("train", "val") if split not in found]
    if "train" not in found or len(found) < 2:
        raise ValueError(f"{root} must have images/training and images/validation, but {missing[0]} is missing.")
    where = str(root / "images" / "training")
    return _files.three_splits(found, lambda pair: pair.image.name, cfg.val_fraction, cfg.split_seed, where)
