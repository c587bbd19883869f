"""Columns of a table: tensors of one shape, or ragged ones whose first axis varies from row to row.

A fixed column is fixed-size binary, a ragged one large binary; dtype and shape stand in the schema's metadata, with
None for the axis that varies. Either is read as views on the mapped file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

Values = np.ndarray | list[np.ndarray]
"""Rows of a column: an array with a leading batch axis, or for a ragged column a list with one array a row."""

_COLUMNS = b"sigma_ray.columns"


def specs(batch: Mapping[str, Values]) -> dict[str, dict[str, Any]]:
    """Dtype and shape of one row, by column."""
    result = {}
    for name, values in batch.items():
        ragged = isinstance(values, list)
        first = values[0]
        shape = [None, *first.shape[1:]] if ragged else list(first.shape)
        result[name] = {"dtype": first.dtype.str, "shape": shape}
    return result


def schema(specs: dict[str, dict[str, Any]]) -> pa.Schema:
    """The Arrow schema that says how the columns are read."""
    fields = [pa.field(name, _type(**spec)) for name, spec in specs.items()]
    return pa.schema(fields, metadata={_COLUMNS: json.dumps(specs).encode()})


def stored_specs(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What `schema` wrote.

    Raises:
        KeyError: the file is no table of ours.
    """
    return json.loads((schema.metadata or {})[_COLUMNS])


def encode(values: Values) -> pa.Array:
    """One column of a record batch."""
    if isinstance(values, list):
        offsets = np.cumsum([0, *(row.nbytes for row in values)], dtype=np.int64)
        data = b"".join(np.ascontiguousarray(row).tobytes() for row in values)
        return pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        )
    kind = pa.binary(values[:1].nbytes)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def text(value: str) -> np.ndarray:
    """A string as a row of a ragged column."""
    return np.frombuffer(value.encode(), dtype=np.uint8)


def untext(row: np.ndarray) -> str:
    """The string that `text` encoded."""
    return row.tobytes().decode()


@dataclass(frozen=True)
class Ragged:
    """A ragged column of one record batch; `column[rows]` is a list of copies."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offsets: np.ndarray
    data: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: np.ndarray) -> list[np.ndarray]:
        cut = (self.data[self.offsets[row] : self.offsets[row + 1]].copy() for row in rows)
        return [part.view(self.dtype).reshape(-1, *self.shape) for part in cut]


def view(column: pa.Array, dtype: str, shape: Sequence[int | None]) -> np.ndarray | Ragged:
    """A column of the mapped file without copies: an array (rows, *shape), or a `Ragged`."""
    if shape[:1] == [None]:
        offsets = np.frombuffer(column.buffers()[1], np.int64, count=len(column) + 1, offset=column.offset * 8)
        data = column.buffers()[2]
        flat = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
        return Ragged(np.dtype(dtype), tuple(int(n or 0) for n in shape[1:]), offsets, flat)
    width, buffer = column.type.byte_width, column.buffers()[1]
    flat = np.frombuffer(buffer, dtype=np.uint8, count=len(column) * width, offset=column.offset * width)
    return flat.view(dtype).reshape(len(column), *(int(n or 0) for n in shape))


def _type(dtype: str, shape: Sequence[int | None]) -> pa.DataType:
    if shape[:1] == [None]:
        return pa.large_binary()
    return pa.binary(int(np.prod([n or 0 for n in shape], dtype=np.int64)) * np.dtype(dtype).itemsize)
