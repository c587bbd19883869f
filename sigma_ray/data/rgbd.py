"""Any folder of pictures with depth: 16-bit PNG files, `depth_scale` units a metre, 0 where nothing was measured.

Either `splits/{train,val,test}.txt` list the pairs, a line "<picture> <depth>" each, below the root; or the pictures
lie in `rgb/{train,val,test}/` and the depths, of the same names, in `depth/{train,val,test}/`. With two of the splits
the one beside train is "test", and "val" is held out of the training pictures, whole folders (scenes) at a time:
neighbouring frames look alike.
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
from sigma_ray.paths import inside

NEEDS = Needs(
    title="pictures with 16-bit depth",
    size="your own",
    page="see sigma_ray/data/rgbd.py for the layout",
    parts=(
        Part(("splits/train.txt", "rgb/train"), "training pairs"),
        Part(("splits/test.txt", "rgb/test", "splits/val.txt", "rgb/val"), "pairs to test on"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config(DepthOptions):
    """A folder of pictures with depth.

    Attributes:
        test_list: the list in `splits/` (or the folder in `rgb/` and `depth/`) that is "test".
    """

    tasks: ClassVar[tuple[str, ...]] = ("depth",)

    test_list: str = "test"

    def __post_init__(self) -> None:
        """Check that no choice can look at test pictures."""
        super().__post_init__()
        if self.test_list in ("train", "val"):
            raise ValueError(
                f"data.test_list must name a list of its own, but got {self.test_list!r}; where there is no other one "
                "beside train, val is the test already."
            )


def needs(cfg: Config) -> list[str]:
    """What has to lie below `cfg.root`, and what of it is missing."""
    return NEEDS.lines(cfg.root)


def info(cfg: Config, task: str) -> Info:
    """Geometry and range."""
    return _depth.info(cfg)


def _find(cfg: Config, root: Path) -> dict[str, list[Pair]]:
    names = {"train": "train", "val": "val", "test": cfg.test_list}
    lists = {split: inside(root / "splits", f"{name}.txt", "data.test_list") for split, name in names.items()}
    folders = {split: root / "rgb" / name for split, name in names.items()}
    if any(path.is_file() for path in lists.values()):
        found = {split: _files.listed_pairs(path, [root]) for split, path in lists.items() if path.is_file()}
    else:
        found = {
            split: _files.pairs_in(folder, root / "depth" / folder.name)
            for split, folder in folders.items()
            if folder.is_dir()
        }
    if "train" not in found or len(found) < 2:
        raise ValueError(
            f"{root} must have splits/train.txt and splits/{cfg.test_list}.txt, or the folders rgb/train and "
            f"rgb/{cfg.test_list} beside depth/, but it has {', '.join(found) or 'none of them'}."
        )
    where = f"the training pairs of {root}"
    return _files.three_splits(found, lambda p: p.image.parent.as_posix(), cfg.val_fraction, cfg.split_seed, where)


SET = PairSet(version=1, holds="splits/, rgb/ and depth/", find=_find, recipe=_depth.Recipe)
cache_key, fingerprint, batches = SET.cache_key, SET.fingerprint, SET.batches
open_split, recipe = SET.open_split, SET.recipe
