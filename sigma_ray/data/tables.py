"""Sample tables: one Arrow IPC file per split, one row per sample, read through a memory map without copies.

Columns hold tensors of one shape, or ragged ones (`_columns`). The files of a data set lie in one folder with a
`meta.json`. The folder appears by one rename when everything in it is complete, so a reader sees all of it or nothing.
"""

import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import platformdirs
import pyarrow as pa

from sigma_ray.data import _columns
from sigma_ray.data._columns import Values
from sigma_ray.data._info import Info

FORMAT = 2
"""Part of every `meta.json`. Raise it when the layout of the files changes; older tables are built again."""

_log = logging.getLogger(__name__)

Batches = Iterable[Mapping[str, Values]]
"""Samples of a split, some dozens at a time. A generator may return notes: what it left out, and why."""


class Table:
    """Samples of one split; `take` copies rows out of the mapped file.

    Attributes:
        path: the Arrow file.
        shapes: shape of one sample, by column; a ragged column's begins with None.
        dtypes: numpy dtype, by column.
    """

    def __init__(
        self, path: Path, specs: dict[str, dict[str, Any]], views: dict[str, list[np.ndarray | _columns.Ragged]]
    ) -> None:
        """Hold the views; use `Table.open`."""
        self.path = path
        self.shapes = {name: tuple(spec["shape"]) for name, spec in specs.items()}
        self.dtypes = {name: np.dtype(spec["dtype"]) for name, spec in specs.items()}
        self._views = views
        self._ends = np.cumsum([len(chunk) for chunk in next(iter(views.values()))])

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Table":
        """Map the file at `path`; its arrays are views and cost no memory until they are read.

        Raises:
            ValueError: no such file, or not a complete table.
        """
        path = Path(path)
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            specs = _columns.stored_specs(reader.schema)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            reason = "it is not there" if isinstance(error, FileNotFoundError) else "it is cut short or no table"
            raise ValueError(
                f"Cannot open the table {path}: {reason}; delete {path.parent} to build it again."
            ) from None
        if not batches:
            raise ValueError(f"The table {path} has no rows; delete {path.parent} to build it again.")
        views = {name: [_columns.view(batch.column(name), **spec) for batch in batches] for name, spec in specs.items()}
        return cls(path, specs, views)

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._ends[-1])

    def take(self, indices: np.ndarray | Iterable[int], columns: Iterable[str] | None = None) -> dict[str, Any]:
        """Copies of the samples `indices`, in that order, by default of all columns.

        Stacked arrays (len(indices), *shape); a list of arrays for a ragged column.

        Raises:
            IndexError: an index outside 0 .. len - 1.
        """
        rows = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"indices must lie in 0 .. {len(self) - 1}, but got {rows.min()} .. {rows.max()}.")
        names = self._views if columns is None else columns
        return {name: self._rows(name, rows) for name in names}

    def _rows(self, name: str, rows: np.ndarray) -> Any:
        shape, views = self.shapes[name], self._views[name]
        ragged = shape[:1] == (None,)
        result: Any = np.empty(len(rows), object) if ragged else np.empty((len(rows), *shape), self.dtypes[name])
        chunks = np.searchsorted(self._ends, rows, side="right")
        starts = np.concatenate([[0], self._ends])
        for chunk in np.unique(chunks):
            chosen = np.nonzero(chunks == chunk)[0]
            found = views[chunk][rows[chosen] - starts[chunk]]
            if ragged:
                for position, row in zip(chosen, found, strict=True):
                    result[position] = row
            else:
                result[chosen] = found
        return list(result) if ragged else result


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What `meta.json` says of a folder of tables.

    Attributes:
        info: labels and geometry when the tables were built; options that leave the tables as they are may differ now.
        fingerprint: content hash of the data set.
        rows: number of samples, by split.
        bytes: size of the Arrow file, by split.
        notes: what was left out of a split and why, by split; only splits that something was left out of.
        format: layout of the files.
    """

    info: Info
    fingerprint: str
    rows: dict[str, int]
    bytes: dict[str, int]
    notes: dict[str, list[str]] = field(default_factory=dict)
    format: int = FORMAT


def cache_root() -> Path:
    """The folder of all cached tables: `$SIGMA_RAY_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("SIGMA_RAY_CACHE") or platformdirs.user_cache_dir("sigma_ray")).absolute()


def build(
    folder: Path,
    *,
    info: Callable[[], Info],
    fingerprint: Callable[[], str],
    batches: Callable[[str], Batches],
    splits: Iterable[str],
) -> Meta:
    """Make sure that `folder` holds complete tables, and return their description.

    Args:
        folder: the tables' place; written beside it first and then renamed.
        info: called when the tables are built.
        fingerprint: likewise.
        batches: samples of a split; shapes and dtypes must not vary, but for a ragged column's first axis.
        splits: names of the splits; each becomes `<split>.arrow`.

    Raises:
        ValueError: a split without samples, or samples of varying shape; or raised by the callables.
        OSError: `folder` cannot be written.
    """
    if (meta := read_meta(folder)) is not None:
        return meta
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.parent / f"{folder.name}.lock"):
            if (meta := read_meta(folder)) is not None:
                return meta
            _discard_leftovers(folder)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_prefix(folder)) as scratch:
                fresh = Path(scratch) / "tables"
                meta = _write_all(fresh, info, fingerprint, batches, splits)
                os.rename(fresh, folder)
    except OSError as error:
        raise OSError(
            f"Cannot write the data cache {folder.parent} ({error.strerror or error}); set SIGMA_RAY_CACHE to a folder "
            "with space that you may write."
        ) from error
    return meta


def read_meta(folder: Path) -> Meta | None:
    """The description of complete tables in `folder`, else None; a damaged folder is reported in the log."""
    if not folder.exists():
        return None
    try:
        plain = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if plain["format"] != FORMAT:
            raise ValueError(f"format {plain['format']}, expected {FORMAT}")
        meta = Meta(info=Info.from_plain(plain.pop("info")), **plain)
        for split, rows in meta.rows.items():
            path = folder / f"{split}.arrow"
            if path.stat().st_size != meta.bytes[split] or len(Table.open(path)) != rows:
                raise ValueError(f"{path.name} does not hold {rows} rows in {meta.bytes[split]} bytes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("The cached tables in %s are damaged (%s); they are built again.", folder, error)
        return None
    return meta


def _prefix(folder: Path) -> str:
    return f".{folder.name}."


def _discard_leftovers(folder: Path) -> None:
    """Remove what killed builders left, and a damaged folder; only the holder of the lock may do so."""
    for path in [*folder.parent.glob(f"{_prefix(folder)}*"), folder]:
        if path.is_dir():
            shutil.rmtree(path)


def _write_all(
    folder: Path,
    info: Callable[[], Info],
    fingerprint: Callable[[], str],
    batches: Callable[[str], Batches],
    splits: Iterable[str],
) -> Meta:
    labels = info()
    folder.mkdir()
    rows, notes = {}, {}
    for split in splits:
        rows[split], left_out = _write(folder / f"{split}.arrow", iter(batches(split)))
        if left_out:
            notes[split] = left_out
            _log.warning("Split %r: %s.", split, "; ".join(left_out))
    size = {split: (folder / f"{split}.arrow").stat().st_size for split in rows}
    # After the samples, which find unusable files and say so better than a hash of their bytes would.
    meta = Meta(
        info=labels, fingerprint=fingerprint(), rows=rows, bytes=size, notes={k: v for k, v in notes.items() if v}
    )
    with open(folder / "meta.json", "w", encoding="utf-8") as file:
        json.dump(asdict(meta), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    return meta


def _write(path: Path, batches: Iterator[Mapping[str, Values]]) -> tuple[int, list[str]]:
    """Write one split; its number of rows and its notes."""
    notes: list[str] = []
    samples = _noting(batches, notes)
    first = next(samples, None)
    if first is None:
        raise ValueError(f"Split {path.stem!r} must have at least one sample, but got none; check the data folder.")
    specs, rows = _columns.specs(first), 0
    schema = _columns.schema(specs)
    with open(path, "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            for batch in itertools.chain([first], samples):
                if (found := _columns.specs(batch)) != specs:
                    raise ValueError(f"Samples of {path.stem!r} must all be like {specs}, but got {found}.")
                writer.write_batch(pa.record_batch([_columns.encode(batch[name]) for name in specs], schema=schema))
                rows += len(next(iter(batch.values())))
        file.flush()
        os.fsync(file.fileno())
    return rows, notes


def _noting(batches: Iterator[Mapping[str, Values]], notes: list[str]) -> Iterator[Mapping[str, Values]]:
    """The same batches; what the generator returns at its end goes into `notes`."""
    notes += (yield from batches) or []
