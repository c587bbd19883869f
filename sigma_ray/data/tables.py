"""Sample tables: one Arrow IPC file per split, one row per sample, read through a memory map without copies.

A column is a fixed-shape tensor stored as fixed-size binary; its dtype and shape stand in the schema's
metadata. The files of a data set lie in one folder with a `meta.json`. The folder appears by one rename when
everything in it is complete, so a reader sees all of it or nothing.
"""

import itertools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import numpy as np
import platformdirs
import pyarrow as pa

from sigma_ray.data._info import Info

FORMAT = 1
"""Part of every `meta.json`. Raise it when the layout of the files changes; older tables are built again."""

_COLUMNS = b"sigma_ray.columns"
_log = logging.getLogger(__name__)

Batches = Iterable[dict[str, np.ndarray]]


class Table:
    """Samples of one split; `take` copies rows out of the mapped file.

    Attributes:
        path: the Arrow file.
        shapes: shape of one sample, by column.
        dtypes: numpy dtype, by column.
    """

    def __init__(self, path: Path, views: dict[str, list[np.ndarray]]) -> None:
        """Hold the views; use `Table.open`."""
        self.path = path
        self.shapes = {name: chunks[0].shape[1:] for name, chunks in views.items()}
        self.dtypes = {name: chunks[0].dtype for name, chunks in views.items()}
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
            columns = json.loads((reader.schema.metadata or {})[_COLUMNS])
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            reason = "it is not there" if isinstance(error, FileNotFoundError) else "it is cut short or no table"
            raise ValueError(
                f"Cannot open the table {path}: {reason}; delete {path.parent} to build it again."
            ) from None
        if not batches:
            raise ValueError(f"The table {path} has no rows; delete {path.parent} to build it again.")
        views = {name: [_view(batch.column(name), **spec) for batch in batches] for name, spec in columns.items()}
        return cls(path, views)

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._ends[-1])

    def take(self, indices: np.ndarray | Iterable[int], columns: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Copies of the samples `indices`, in that order, stacked: (len(indices), *shape) per column, by default all.

        Raises:
            IndexError: an index outside 0 .. len - 1.
        """
        rows = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"indices must lie in 0 .. {len(self) - 1}, but got {rows.min()} .. {rows.max()}.")
        chunks = np.searchsorted(self._ends, rows, side="right")
        starts = np.concatenate([[0], self._ends])
        names = self._views if columns is None else columns
        result = {name: np.empty((len(rows), *self.shapes[name]), self.dtypes[name]) for name in names}
        for chunk in np.unique(chunks):
            chosen = np.nonzero(chunks == chunk)[0]
            for name in result:
                result[name][chosen] = self._views[name][chunk][rows[chosen] - starts[chunk]]
        return result


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What `meta.json` says of a folder of tables.

    Attributes:
        info: labels and geometry.
        fingerprint: content hash of the data set.
        rows: number of samples, by split.
        bytes: size of the Arrow file, by split.
        format: layout of the files.
    """

    info: Info
    fingerprint: str
    rows: dict[str, int]
    bytes: dict[str, int]
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
        batches: samples of a split, dicts of arrays with a leading batch axis; shapes and dtypes must not
        vary.
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
        labels = plain.pop("info")
        names, size = tuple(labels.pop("class_names")), tuple(labels.pop("image_size"))
        meta = Meta(info=Info(class_names=names, image_size=size, **labels), **plain)
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
    rows = {split: _write(folder / f"{split}.arrow", iter(batches(split))) for split in splits}
    size = {split: (folder / f"{split}.arrow").stat().st_size for split in rows}
    # After the samples, which find unusable files and say so better than a hash of their bytes would.
    meta = Meta(info=labels, fingerprint=fingerprint(), rows=rows, bytes=size)
    with open(folder / "meta.json", "w", encoding="utf-8") as file:
        json.dump(asdict(meta), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    return meta


def _write(path: Path, batches: Iterator[dict[str, np.ndarray]]) -> int:
    """Write one split and return its number of rows."""
    first = next(batches, None)
    if first is None:
        raise ValueError(f"Split {path.stem!r} must have at least one sample, but got none; check the data folder.")
    specs = {name: {"dtype": array.dtype.str, "shape": list(array.shape[1:])} for name, array in first.items()}
    fields = [pa.field(name, pa.binary(array[:1].nbytes)) for name, array in first.items()]
    schema = pa.schema(fields, metadata={_COLUMNS: json.dumps(specs).encode()})
    rows = 0
    with open(path, "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            for batch in itertools.chain([first], batches):
                found = {name: {"dtype": a.dtype.str, "shape": list(a.shape[1:])} for name, a in batch.items()}
                if found != specs:
                    raise ValueError(f"Samples of {path.stem!r} must all be like {specs}, but got {found}.")
                writer.write_batch(pa.record_batch([_column(batch[f.name]) for f in fields], schema=schema))
                rows += len(next(iter(batch.values())))
        file.flush()
        os.fsync(file.fileno())
    return rows


def _column(array: np.ndarray) -> pa.Array:
    data = pa.py_buffer(np.ascontiguousarray(array))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(array[:1].nbytes), len(array), [None, data])


def _view(column: pa.Array, dtype: str, shape: list[int]) -> np.ndarray:
    """Numpy view (rows, *shape) on a column of the mapped file."""
    width, buffer = column.type.byte_width, column.buffers()[1]
    flat = np.frombuffer(buffer, dtype=np.uint8, count=len(column) * width, offset=column.offset * width)
    return flat.view(dtype).reshape(len(column), *shape)
