"""Splits whose samples lie decoded in a table, all at one size; training turns them left to right and no more."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sigma_ray.data._split import Draws
from sigma_ray.data.tables import Table


class Decoded:
    """A table as a split.

    The table has `image` uint8 (3, H, W) and some of `mask` (H, W), `depth` (H, W), `boxes` (S, 4) with `labels`
    (S,) and `area` (S,), -1 marking an empty slot, and `instance` uint8 (H, W): slot + 1 of the object seen at a pixel,
    0 for none. The latter is offered as `masks` bool (S, H, W).
    """

    def __init__(self, table: Table) -> None:
        """Wrap `table`."""
        self._table = table
        stored = set(table.shapes) - {"image", "instance"}
        self.columns = tuple(sorted(stored | ({"masks"} if "instance" in table.shapes else set())))

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._table)

    def take(self, indices: np.ndarray, columns: Sequence[str]) -> dict[str, Any]:
        """See `Split.take`; all of it stacked."""
        images = self._table.take(indices, ["image"])["image"]
        extra = ["area"] if "boxes" in columns and "area" in self.columns else []
        return {
            "image": images,
            **self.targets(indices, [*columns, *extra]),
            "index": np.asarray(indices, dtype=np.int64),
            "size": np.tile(np.array(images.shape[2:], dtype=np.int64), (len(images), 1)),
        }

    def targets(self, indices: np.ndarray, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """The `columns` alone, for whoever has the images in another form."""
        sample = self._table.take(indices, ["instance" if name == "masks" else name for name in columns])
        if "masks" in columns:
            slots = np.arange(1, self._table.shapes["labels"][0] + 1, dtype=np.uint8)
            sample["masks"] = sample.pop("instance")[:, None] == slots[:, None, None]
        return sample

    def augmented(self, indices: np.ndarray, columns: Sequence[str], draws: Draws) -> dict[str, np.ndarray]:
        """See `Split.augmented`."""
        sample = self._table.take(indices, ["image"]) | self.targets(indices, columns)
        return mirror(sample, draws.mirrored, width=sample["image"].shape[-1])


def mirror(sample: dict[str, np.ndarray], mirrored: np.ndarray, *, width: int) -> dict[str, np.ndarray]:
    """Turn the samples where `mirrored` (B,) left to right, in place: pictures, maps and boxes; `width` in pixels."""
    for name, values in sample.items():
        if name in ("image", "mask", "depth", "masks"):
            values[mirrored] = values[mirrored][..., ::-1]
        elif name == "boxes":
            turned = values[mirrored]
            empty = ~turned.any(axis=-1, keepdims=True)  # a slot without an object stays all zero
            turned[..., [0, 2]] = width - turned[..., [2, 0]]
            values[mirrored] = np.where(empty, 0.0, turned)
    return sample
