"""Data sets: one file each, looked up by file name, opened as memory-mapped tables.

A data-set file holds, beside its `Config`, four functions: `info(cfg)` gives the labels and geometry;
`cache_key(cfg)` is a quick hash under which the tables are cached; `fingerprint(cfg)` a hash by content,
which enters the trial key; `batches(cfg, split)` yields the samples of "train", "val" or "test", a dict of
arrays with a leading batch axis.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sigma_ray import components
from sigma_ray.data._info import Info

if TYPE_CHECKING:
    from sigma_ray.data.tables import Table

__all__ = ["SPLITS", "Data", "Info", "load", "names", "open_data"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Data:
    """An opened data set.

    Attributes:
        info: labels and geometry.
        fingerprint: hash of the content; the same on every machine.
        tables: one table per split.
    """

    info: Info
    fingerprint: str
    tables: "dict[str, Table]"

    def split(self, name: str) -> "Table":
        """The table of split "train", "val" or "test".

        Raises:
            ValueError: another name.
        """
        if name not in self.tables:
            raise ValueError(f"split must be one of {', '.join(self.tables)}, but got {name!r}.")
        return self.tables[name]


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


def open_data(name: str, cfg: Any) -> Data:
    """Open data set `name` as `cfg` describes it.

    The first call on a machine checks and converts every sample. Several processes may call this at once: one
    builds the tables, the others wait for it. The cache lies in `$SIGMA_RAY_CACHE`, else in the user's cache
    folder.

    Raises:
        ValueError: unknown data set, or samples that cannot be used; the message names the first of them.
        OSError: the cache folder cannot be written.
    """
    # Here, because arrow is needed to open tables and not to build a model for an `Info`.
    from sigma_ray.data import tables

    module = load(name)
    folder = tables.cache_root() / f"{name}-{module.cache_key(cfg)[:16]}"
    meta = tables.build(
        folder,
        info=lambda: module.info(cfg),
        fingerprint=lambda: module.fingerprint(cfg),
        batches=lambda split: module.batches(cfg, split),
        splits=SPLITS,
    )
    opened = {split: tables.Table.open(folder / f"{split}.arrow") for split in SPLITS}
    return Data(info=meta.info, fingerprint=meta.fingerprint, tables=opened)
