"""Cityscapes: street scenes with the 19 classes that its benchmark counts.

`leftImg8bit/{train,val}/<city>/*_leftImg8bit.png` beside `gtFine/.../*_gtFine_labelTrainIds.png`, or where those are
not there `*_gtFine_labelIds.png`, whose 34 ids are mapped. Test labels are not published: "test" is the published
validation split, and "val" is held out of the training pictures by whole cities, because a city's frames are from a
few drives.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sigma_ray.data import _files, _segmentation
from sigma_ray.data._files import Pair
from sigma_ray.data._info import Info
from sigma_ray.data._needs import Needs, of_splits
from sigma_ray.data._options import SegmentationOptions
from sigma_ray.data._photos import PairSet

# By label: name and id in the labelIds files.
CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
NUM_IDS = 34
PICTURE = "_leftImg8bit.png"
CODINGS = {
    "labelTrainIds.png": _segmentation.coding({label: label for label in range(len(CLASSES))}),
    "labelIds.png": _segmentation.coding(
        dict.fromkeys(range(NUM_IDS), _segmentation.IGNORE) | {number: k for k, number in enumerate(CLASSES.values())}
    ),
}
NEEDS = Needs(
    title="Cityscapes (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip)",
    size="about 11 GB",
    page="https://www.cityscapes-dataset.com/downloads/ (account needed)",
    parts=of_splits(("leftImg8bit", "gtFine"), (("train", "2,975 pictures"), ("val", "500 pictures"))),
)


@dataclass(frozen=True, kw_only=True)
class Config(SegmentationOptions):
    """Cityscapes, fine annotations, cropped to 512x1024 in training."""

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    image_size: tuple[int, int] = (512, 1024)
    base_size: tuple[int, int] | None = (2048, 1024)


def needs(cfg: Config) -> list[str]:
    """What has to lie below `cfg.root`, and what of it is missing."""
    return NEEDS.lines(cfg.root)


def info(cfg: Config, task: str) -> Info:
    """Labels and geometry."""
    return _segmentation.info(cfg, tuple(CLASSES))


def _find(cfg: Config, root: Path) -> dict[str, list[Pair]]:
    published = {split: _pairs(root, split) for split in ("train", "val")}
    where = str(root / "leftImg8bit" / "train")
    found = {"train": published["train"], "test": published["val"]}
    return _files.three_splits(found, lambda p: p.image.parent.name, cfg.val_fraction, cfg.split_seed, where)


def _pairs(root: Path, split: str) -> list[Pair]:
    """Frames that have a picture or a mask: an incomplete download must come to light."""
    pictures, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    frames = {path.relative_to(pictures).as_posix().removesuffix(PICTURE) for path in pictures.glob(f"*/*{PICTURE}")}
    if not frames:
        raise ValueError(f"{pictures} must hold <city>/*{PICTURE}, but it has none; see data.root.")
    present = {path.relative_to(masks).as_posix() for path in masks.glob("*/*Ids.png")}
    for end in CODINGS:
        frames |= {name.removesuffix(f"_gtFine_{end}") for name in present if name.endswith(f"_gtFine_{end}")}
    pairs = []
    for frame in sorted(frames):
        names = [f"{frame}_gtFine_{end}" for end in CODINGS]
        pairs.append(Pair(pictures / f"{frame}{PICTURE}", masks / (names[0] if names[0] in present else names[1])))
    return pairs


SET = PairSet(
    version=1,
    holds="leftImg8bit/ and gtFine/",
    find=_find,
    recipe=lambda cfg: _segmentation.Recipe(cfg, CODINGS),
)
cache_key, fingerprint, batches, open_split = SET.cache_key, SET.fingerprint, SET.batches, SET.open_split
