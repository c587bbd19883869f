"""What training and evaluation ask of a split. Imports nothing heavy, because the command line reads this package."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random decisions of a training batch: pure functions of trial seed, step and position in the batch.

    Attributes:
        mirrored: (B,) bool, which samples are turned left to right.
        seeds: (B,) uint64, one generator seed a sample; everything else that is random follows from it.
    """

    mirrored: "np.ndarray"
    seeds: "np.ndarray"


class Split(Protocol):
    """The samples of "train", "val" or "test" for one task."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Targets that may be asked for."""
        ...

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def take(self, indices: "np.ndarray", columns: Sequence[str]) -> dict[str, Any]:
        """Evaluation samples: nothing random, and targets at their original size.

        Args:
            indices: (B,) positions in the split.
            columns: targets wanted beside `image`, out of `self.columns`.

        Returns:
            `image`, the model's input: uint8 (B, 3, H, W), or a list of (3, h, w) where sizes differ; the `columns`,
            one entry an image, stacked or a list; `index` int64 (B,) and `size` int64 (B, 2), original height and
            width. With boxes also what evaluation needs: `area` and, where the data set has them, `crowd` and `scale`.
        """
        ...

    def augmented(self, indices: "np.ndarray", columns: Sequence[str], draws: Draws) -> dict[str, "np.ndarray"]:
        """Training samples: `image` uint8 (B, 3, H, W) and `columns`, all stacked and at the model's input size.

        Sample i depends on `indices[i]` and the i-th draws alone, not on the batch, its order or the process.
        """
        ...
