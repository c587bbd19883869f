"""What a task makes of a photo and its labels: the interface that the tasks' recipes share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sigma_ray.data.tables import Table

Row = dict[str, Any]
"""A sample's row in the table: `image` and perhaps `target` (paths), `size` (2,) height and width, and labels."""


class Recipe(ABC):
    """Augmentation for training, and scaling for evaluation. `columns` are the targets wanted, out of `offers`."""

    one_size = True
    """Whether evaluation images all have the same size, so that they are stacked."""

    @abstractmethod
    def offers(self, table: Table) -> tuple[str, ...]:
        """Targets that samples of `table` have."""

    @abstractmethod
    def training(
        self, image: Image.Image, row: Row, columns: Sequence[str], mirrored: bool, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """One augmented sample: `image` uint8 (3, H, W), and `columns`."""

    @abstractmethod
    def evaluation(self, image: Image.Image, row: Row, columns: Sequence[str]) -> dict[str, Any]:
        """One evaluation sample: `image` uint8 (3, h, w), and `columns` at the original size."""

    def collate(self, samples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Training samples stacked."""
        return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


class FileRecipe(Recipe):
    """The recipe of a task whose target is a file, under the name `column`."""

    column: str

    @abstractmethod
    def target(self, path: Path) -> np.ndarray:
        """The checked target (h, w) in a file; ValueError where it is none."""

    @abstractmethod
    def shown(self, image: Image.Image) -> np.ndarray:
        """The evaluation image: uint8 (h, w, 3)."""

    def offers(self, table: Table) -> tuple[str, ...]:
        """See `Recipe`."""
        return (self.column,)

    def evaluation(self, image: Image.Image, row: Row, columns: Sequence[str]) -> dict[str, Any]:
        """See `Recipe`."""
        sample = {"image": channels_first(self.shown(image))}
        return sample | {column: self.target(row["target"]) for column in columns}


def channels_first(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) as (3, h, w)."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
