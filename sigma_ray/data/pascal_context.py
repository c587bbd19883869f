"""PASCAL Context: the photos of VOC 2010 with 59 classes of things and stuff.

The layout of MMSegmentation's converter, below `VOCdevkit/VOC2010` or any root: `JPEGImages/*.jpg`,
`SegmentationClassContext/*.png` (0 background, 1 .. 59 the classes), `ImageSets/SegmentationContext/{train,val}.txt`.
The background is ignored. "test" is the published validation split, and "val" is held out of the training pictures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sigma_ray.data import _files, _segmentation
from sigma_ray.data._class_names import PASCAL_CONTEXT
from sigma_ray.data._files import Pair
from sigma_ray.data._info import Info
from sigma_ray.data._needs import Needs, Part
from sigma_ray.data._options import SegmentationOptions
from sigma_ray.data._photos import PairSet
from sigma_ray.paths import inside

LISTS = "ImageSets/SegmentationContext"
INNER = "VOCdevkit/VOC2010"
CODINGS = {"": _segmentation.zero_is_ignored(len(PASCAL_CONTEXT))}
NEEDS = Needs(
    title="PASCAL Context (VOC 2010 and its masks, converted with MMSegmentation's tools/dataset_converters)",
    size="about 1.4 GB",
    page="http://host.robots.ox.ac.uk/pascal/VOC/voc2010/ and https://cs.stanford.edu/~roozbeh/pascal-context/",
    parts=tuple(
        Part((path, f"{INNER}/{path}"), what)
        for path, what in (
            ("JPEGImages", "pictures"),
            ("SegmentationClassContext", "10,103 masks"),
            (f"{LISTS}/train.txt", "about 5,000 names"),
            (f"{LISTS}/val.txt", "about 5,100 names"),
        )
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config(SegmentationOptions):
    """PASCAL Context with 59 classes."""

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    image_size: tuple[int, int] = (480, 480)
    base_size: tuple[int, int] | None = (520, 520)


def needs(cfg: Config) -> list[str]:
    """What has to lie below `cfg.root`, and what of it is missing."""
    return NEEDS.lines(cfg.root)


def info(cfg: Config, task: str) -> Info:
    """Labels and geometry."""
    return _segmentation.info(cfg, PASCAL_CONTEXT)


def _find(cfg: Config, root: Path) -> dict[str, list[Pair]]:
    base = root / INNER if (root / INNER).is_dir() else root
    found = {split: _pairs(base, name) for split, name in (("train", "train"), ("test", "val"))}
    where = str(base / LISTS / "train.txt")
    return _files.three_splits(found, lambda p: p.image.name, cfg.val_fraction, cfg.split_seed, where)


def _pairs(base: Path, split: str) -> list[Pair]:
    listing, pictures, masks = base / LISTS / f"{split}.txt", base / "JPEGImages", base / "SegmentationClassContext"
    names = [line.split()[0] for line in _files.lines_of(listing)]
    return [Pair(inside(pictures, f"{n}.jpg", listing), inside(masks, f"{n}.png", listing)) for n in names]


SET = PairSet(
    version=1,
    holds="JPEGImages/, SegmentationClassContext/ and ImageSets/",
    find=_find,
    recipe=lambda cfg: _segmentation.Recipe(cfg, CODINGS),
)
cache_key, fingerprint, batches = SET.cache_key, SET.fingerprint, SET.batches
open_split, recipe = SET.open_split, SET.recipe
