"""Image folders laid out like ADE20K: `images/<split>/<stem>.jpg` beside `annotations/<split>/<stem>.png`.

The splits on disk are `training`, `validation` and `test`. With all three they are used as they are. With
only one of the last two (ADE20K publishes no test labels) that one becomes "test", which no choice may look
at, and "val" is a share `val_fraction` of the training images: those whose names hash lowest together with
`split_seed`.

Every pair is decoded once, when the tables are built, and resized to `image_size` by plain scaling of both
axes: images bilinear with antialiasing, masks nearest. Whatever is wrong with a file is found then, before
any trial starts.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from sigma_ray.checks import fraction, non_negative, one_of, positive
from sigma_ray.data import _pairs
from sigma_ray.data._info import Info

VERSION = 1  # part of fingerprint and cache key: raise it whenever a pixel of a table changes
BATCH = 32


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
    root, pairs = _root(cfg), _splits(cfg)
    stats = []
    for split, members in pairs.items():
        for path in (path for pair in members for path in pair):
            stat = path.stat()
            stats.append([split, path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns])
    text = json.dumps([_settings(cfg), str(root.resolve()), stats], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(cfg: Config, task: str) -> str:
    """Hash of the settings and of every file's relative name and bytes, by split; reads all files."""
    root, digest = _root(cfg), hashlib.sha256()
    digest.update(json.dumps(_settings(cfg), sort_keys=True).encode())
    for split, members in _splits(cfg).items():
        for path in (path for pair in members for path in pair):
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{split}\0{path.relative_to(root).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def batches(cfg: Config, task: str, split: str) -> Iterator[dict[str, np.ndarray]]:
    """Yield "image" uint8 (B, 3, H, W) and "mask" uint8 (B, H, W) of "train", "val" or "test".

    Raises:
        ValueError: files that cannot be used; all are looked at first, the message counts them and names
        three.
    """
    one_of("split", split, ("train", "val", "test"))
    labels, reduce_zero_label = _resolve(cfg)
    pairs = _splits(cfg)[split]
    problems: list[str] = []

    def read(pair: _pairs.Pair) -> tuple[np.ndarray, np.ndarray] | str:
        try:
            return _pairs.read(pair, labels, reduce_zero_label)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(pairs), BATCH):
            results = list(pool.map(read, pairs[start : start + BATCH]))
            problems += [result for result in results if isinstance(result, str)]
            samples = [result for result in results if not isinstance(result, str)]
            if not problems:
                yield {key: np.stack([s[i] for s in samples]) for i, key in enumerate(("image", "mask"))}
    _pairs.refuse(problems, f"{len(pairs)} pairs in split {split!r} of {cfg.root}")


def _root(cfg: Config) -> Path:
    if cfg.root is None:
        raise ValueError("data.root must be the folder that holds images/ and annotations/, but got None; set it.")
    root = Path(cfg.root).expanduser()
    if not root.is_dir():
        raise ValueError(f"data.root must be an existing folder, but got {cfg.root!r}; check the path.")
    return root


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


def _splits(cfg: Config) -> dict[str, list[_pairs.Pair]]:
    """The pairs of "train", "val" and "test"."""
    root = _root(cfg)
    found = {name: _pairs.find(root, name) for name in _pairs.FOLDERS if (root / "images" / name).is_dir()}
    missing = [str(root / "images" / name) for name in ("training", "validation") if name not in found]
    if "training" not in found or len(found) < 2:
        raise ValueError(f"{root} must have images/training and images/validation, but {missing[0]} is missing.")
    if len(found) == 3:
        return {"train": found["training"], "val": found["validation"], "test": found["test"]}
    test = found.get("validation") or found["test"]
    if len(found["training"]) < 2:
        raise ValueError(f"{root / 'images' / 'training'} must hold 2 images or more to split off val; add images.")
    ranked = sorted(found["training"], key=lambda pair: _rank(pair, cfg.split_seed))
    held_out = set(ranked[: min(max(1, round(cfg.val_fraction * len(ranked))), len(ranked) - 1)])
    train = [pair for pair in found["training"] if pair not in held_out]
    return {"train": train, "val": [pair for pair in found["training"] if pair in held_out], "test": test}


def _rank(pair: _pairs.Pair, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{pair.image.name}".encode()).hexdigest()
