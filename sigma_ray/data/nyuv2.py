"""NYU Depth V2: indoor pictures with depth from a Kinect, in either of the two layouts in use.

- BTS and AdaBins: `nyudepthv2_{train,test}_files_with_gt.txt` (below the root or its `train_test_inputs/`), with lines
  "<picture> <depth> <focal length>" relative to `sync/` and `official_splits/test/` (or to the root).
- MMSegmentation: `images/{train,test}/<scene>_<number>.jpg` beside `annotations/{train,test}/*.png`.

Depth files are 16-bit PNG in millimetres. The 654 test pictures are "test"; "val" is held out of the training pictures
by whole scenes. Depth is measured inside Eigen's crop (Eigen et al. 2014), up to 10 m.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sigma_ray.data import _depth, _files
from sigma_ray.data._files import Pair
from sigma_ray.data._info import Info
from sigma_ray.data._needs import Needs, Part
from sigma_ray.data._options import DepthOptions
from sigma_ray.data._photos import PairSet

LIST = "nyudepthv2_{split}_files_with_gt.txt"
BASES = {"train": ("sync", ""), "test": ("official_splits/test", "")}
NEEDS = Needs(
    title="NYU Depth V2, pre-processed (BTS: 24,231 training pairs)",
    size="about 4 GB",
    page="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html, prepared as in https://github.com/cleinc/bts",
    parts=tuple(
        Part(
            (LIST.format(split=split), f"train_test_inputs/{LIST.format(split=split)}", f"images/{split}"),
            f"{what}; the lists need {base}/, images/ needs annotations/",
        )
        for split, what, base in (
            ("train", "training pairs", "sync"),
            ("test", "654 test pairs", "official_splits/test"),
        )
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config(DepthOptions):
    """NYU Depth V2 in one of its layouts."""

    tasks: ClassVar[tuple[str, ...]] = ("depth",)


def needs(cfg: Config) -> list[str]:
    """What has to lie below `cfg.root`, and what of it is missing."""
    return NEEDS.lines(cfg.root)


def info(cfg: Config, task: str) -> Info:
    """Geometry and range."""
    return _depth.info(cfg, crop="eigen")


def _find(cfg: Config, root: Path) -> dict[str, list[Pair]]:
    found = {}
    for split, bases in BASES.items():
        name = LIST.format(split=split)
        lists = [path for path in (root / name, root / "train_test_inputs" / name) if path.is_file()]
        folder = root / "images" / split
        if lists:
            found[split] = _files.listed_pairs(lists[0], [root / base for base in bases])
        elif folder.is_dir():
            found[split] = _files.pairs_in(folder, root / "annotations" / split)
        else:
            raise ValueError(f"{root} must have {name} (BTS) or images/{split} (MMSegmentation), but it has neither.")
    where = f"the training pairs of {root}"
    return _files.three_splits(found, _scene, cfg.val_fraction, cfg.split_seed, where)


def _scene(pair: Pair) -> str:
    """BTS keeps a scene in a folder, MMSegmentation writes it before the frame's number."""
    return pair.image.parent.name if pair.image.name.startswith("rgb_") else pair.image.stem.rpartition("_")[0]


SET = PairSet(version=1, holds="NYU Depth V2", find=_find, recipe=_depth.Recipe)
cache_key, fingerprint, batches, open_split = SET.cache_key, SET.fingerprint, SET.batches, SET.open_split
