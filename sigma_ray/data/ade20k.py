"""ADE20K's scene parsing benchmark, `ADEChallengeData2016`: 150 classes of things and stuff.

`images/{training,validation}/*.jpg` beside `annotations/{training,validation}/*.png`, whose 0 ("other") is ignored and
whose 1 .. 150 are the classes. Test labels are not published: "test" is the published validation split, and "val" is
held out of the training pictures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sigma_ray.data import _files, _segmentation
from sigma_ray.data._class_names import ADE20K
from sigma_ray.data._files import Pair
from sigma_ray.data._info import Info
from sigma_ray.data._needs import Needs, of_splits
from sigma_ray.data._options import SegmentationOptions
from sigma_ray.data._photos import PairSet

INNER = "ADEChallengeData2016"
CODINGS = {"": _segmentation.zero_is_ignored(len(ADE20K))}
NEEDS = Needs(
    title="ADE20K scene parsing (ADEChallengeData2016.zip)",
    size="about 0.9 GB",
    page="http://sceneparsing.csail.mit.edu",
    parts=of_splits(
        ("images", "annotations"), (("training", "20,210 files"), ("validation", "2,000 files")), inner=INNER
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config(SegmentationOptions):
    """ADE20K with 150 classes, in MMSegmentation's recipe."""

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)


def needs(cfg: Config) -> list[str]:
    """What has to lie below `cfg.root`, and what of it is missing."""
    return NEEDS.lines(cfg.root)


def info(cfg: Config, task: str) -> Info:
    """Labels and geometry."""
    return _segmentation.info(cfg, ADE20K)


def _find(cfg: Config, root: Path) -> dict[str, list[Pair]]:
    base = root / INNER if (root / INNER).is_dir() else root
    found = {
        split: _files.pairs_in(base / "images" / name, base / "annotations" / name)
        for split, name in (("train", "training"), ("test", "validation"))
    }
    where = str(base / "images" / "training")
    return _files.three_splits(found, lambda p: p.image.name, cfg.val_fraction, cfg.split_seed, where)


SET = PairSet(
    version=1,
    holds="images/ and annotations/",
    find=_find,
    recipe=lambda cfg: _segmentation.Recipe(cfg, CODINGS),
)
cache_key, fingerprint, batches, open_split = SET.cache_key, SET.fingerprint, SET.batches, SET.open_split
