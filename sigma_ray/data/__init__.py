"""Data sets: one file each, looked up by file name, opened as splits that training and evaluation sample.

A data-set file holds a `Config`, whose class variable `tasks` says what the data set has labels for, and functions
of that configuration and of a task out of them:

- `info(cfg, task)`: labels and geometry.
- `cache_key(cfg, task)`: a quick hash under which the tables are cached.
- `fingerprint(cfg, task)`: a hash by content, which enters the trial key.
- `batches(cfg, task, split)`: the rows of the table of "train", "val" or "test": dicts of arrays with a leading batch
  axis, or of lists for columns whose rows differ in length. Everything that may be wrong with a file is found here.
  A generator may return a list of notes on what it left out.
- `needs(cfg)`: lines that say what has to be downloaded, from where, and what of it is missing below `cfg.root`.
- `open_split(cfg, task, table)`, where the table does not hold decoded samples: the `Split` over it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sigma_ray import checks, components, tasks
from sigma_ray.data._info import Info
from sigma_ray.data._split import Draws, Split

if TYPE_CHECKING:
    from sigma_ray.config import TrialConfig

__all__ = ["SPLITS", "Data", "Draws", "Info", "Split", "load", "names", "open_data", "open_for"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Data:
    """An opened data set.

    Attributes:
        info: labels and geometry.
        fingerprint: hash of the content; the same on every machine.
        splits: by name.
        notes: what was left out of a split and why, by split.
    """

    info: Info
    fingerprint: str
    splits: dict[str, Split]
    notes: dict[str, list[str]]

    def split(self, name: str) -> Split:
        """The samples of "train", "val" or "test".

        Raises:
            ValueError: another name.
        """
        checks.one_of("split", name, self.splits)
        return self.splits[name]


def names() -> list[str]:
    """Names of the data sets: the files of this folder that hold a `Config`."""
    return components.names("data")


def load(name: str) -> ModuleType:
    """The module of data set `name`.

    Raises:
        ValueError: no such data set; the message lists those there are.
    """
    if name not in names():
        raise ValueError(f"Unknown data {name!r}; choose one of {', '.join(names())}.")
    return import_module(f"sigma_ray.data.{name}")


def open_for(config: "TrialConfig") -> Data:
    """What a trial trains on: its data set, opened for its task and its head; see `open_data`."""
    columns = tasks.columns(config.task, config.head)
    return open_data(components.name_of(config.data), config.data, config.task, columns)


def open_data(name: str, cfg: Any, task: str, columns: Sequence[str] = ()) -> Data:
    """Open data set `name` as `cfg` describes it, for `task`.

    The first call on a machine checks every file. Several processes may call this at once: one builds the tables, the
    others wait for it. The cache lies in `$SIGMA_RAY_CACHE`, else in the user's cache folder.

    Args:
        name: the data set.
        cfg: its `Config`.
        task: one of `cfg.tasks`.
        columns: targets that every split must offer.

    Raises:
        ValueError: unknown data set, a task or column it has no labels for, or files that cannot be used; the message
            names the first of them.
        OSError: the cache folder cannot be written.
    """
    # Here, because arrow is needed to open tables and not to build a model for an `Info`.
    from sigma_ray.data import tables
    from sigma_ray.data._decoded import Decoded

    module = load(name)
    if task not in cfg.tasks:
        raise ValueError(f"data {name!r} must have labels for {task}, but it has them for {', '.join(cfg.tasks)}.")
    folder = tables.cache_root() / f"{name}-{module.cache_key(cfg, task)[:16]}"
    meta = tables.build(
        folder,
        info=lambda: module.info(cfg, task),
        fingerprint=lambda: module.fingerprint(cfg, task),
        batches=lambda split: module.batches(cfg, task, split),
        splits=SPLITS,
    )
    opened = {split: tables.Table.open(folder / f"{split}.arrow") for split in SPLITS}
    wrap = getattr(module, "open_split", lambda _cfg, _task, table: Decoded(table))
    splits: dict[str, Split] = {split: wrap(cfg, task, table) for split, table in opened.items()}
    for split, samples in splits.items():
        if missing := [column for column in columns if column not in samples.columns]:
            raise ValueError(
                f"data {name!r} must offer {', '.join(missing)} in split {split!r} for {task}, but it has "
                f"{', '.join(samples.columns)}; choose another data set or a head that does not need it."
            )
    return Data(info=meta.info, fingerprint=meta.fingerprint, splits=splits, notes=meta.notes)
