"""Photos as a split: files in their original places, decoded and augmented when they are asked for.

The tables hold where a sample's files lie and how large the picture is, not its bytes. A copy of the bytes in the
tables is no faster to train from (`benchmarks/data_loading.py`) and would double the space on disk.
Everything random about a training sample comes from `Draws`: whether it is mirrored, and one generator a sample.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sigma_ray.data import _columns, _files
from sigma_ray.data._files import Pair
from sigma_ray.data._recipe import FileRecipe, Recipe, Row
from sigma_ray.data._split import Draws
from sigma_ray.data.loader import parallel
from sigma_ray.data.tables import Table


class Photos:
    """A table of files as a split."""

    def __init__(self, table: Table, root: Path, recipe: Recipe) -> None:
        """Read the files of `table` below `root` as `recipe` says."""
        self._table, self._root, self._recipe = table, root, recipe
        self.columns = recipe.offers(table)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._table)

    def take(self, indices: np.ndarray, columns: Sequence[str]) -> dict[str, Any]:
        """See `Split.take`; targets are lists, and so is `image` where sizes may differ."""

        def make(row: Row) -> dict[str, Any]:
            with _as_checked():
                return self._recipe.evaluation(self._open(row), row, columns)

        rows = self._rows(indices)
        samples = list(parallel(make, rows))
        batch: dict[str, Any] = {name: [sample[name] for sample in samples] for name in samples[0]} if samples else {}
        for name in {"scale", *(("image",) if self._recipe.one_size else ())} & set(batch):
            batch[name] = np.stack(batch[name])
        sizes = np.array([row["size"] for row in rows], dtype=np.int64).reshape(-1, 2)
        return batch | {"index": np.asarray(indices, dtype=np.int64), "size": sizes}

    def augmented(self, indices: np.ndarray, columns: Sequence[str], draws: Draws) -> dict[str, np.ndarray]:
        """See `Split.augmented`."""

        def make(drawn: tuple[Row, bool, int]) -> dict[str, np.ndarray]:
            row, mirrored, seed = drawn
            generator = np.random.default_rng(seed)
            with _as_checked():
                return self._recipe.training(self._open(row), row, columns, mirrored, generator)

        drawn = zip(self._rows(indices), draws.mirrored.tolist(), draws.seeds.tolist(), strict=True)
        return self._recipe.collate(list(parallel(make, drawn)))

    def _rows(self, indices: np.ndarray) -> list[Row]:
        taken = self._table.take(indices)
        rows = [{name: values[i] for name, values in taken.items()} for i in range(len(indices))]
        for row in rows:
            for name in {"image", "target"} & set(row):
                row[name] = self._root / _columns.untext(row[name])
        return rows

    def _open(self, row: Row) -> Image.Image:
        """The decoded picture.

        Raises:
            ValueError: the file is gone or damaged.
            OSError: it is not the one that was checked.
        """
        image = _files.decode_rgb(row["image"])
        if (image.height, image.width) != tuple(row["size"]):
            raise OSError(f"{row['image']} has another size than before; restart, so that the files are checked again")
        return image


@contextlib.contextmanager
def _as_checked() -> Iterator[None]:
    """Turn what a file is refused for into OSError: all files were read once, so this one has changed since."""
    try:
        yield
    except ValueError as error:
        raise OSError(f"{error}, but it could be read before") from None


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """The functions of a data-set module (`sigma_ray.data`) for pairs of files.

    Attributes:
        version: raised whenever a target changes.
        holds: what `data.root` must hold, for messages.
        find: pairs by split, complete or not; raises ValueError where the layout is another.
        recipe: of a configuration.
    """

    version: int
    holds: str
    find: Callable[[Any, Path], Mapping[str, Sequence[Pair]]]
    recipe: Callable[[Any], FileRecipe]

    def cache_key(self, cfg: Any, task: str) -> str:
        """See `sigma_ray.data`."""
        root = _files.existing_root(cfg.root, self.holds)
        return _files.quick_hash([self.version, cfg.max_unusable, *self._settings(cfg)], root, self._paths(cfg, root))

    def fingerprint(self, cfg: Any, task: str) -> str:
        """See `sigma_ray.data`."""
        root = _files.existing_root(cfg.root, self.holds)
        return _files.content_hash([self.version], root, self._paths(cfg, root))

    def batches(self, cfg: Any, task: str, split: str) -> Generator[dict[str, Any], None, list[str]]:
        """See `sigma_ray.data`."""
        root = _files.existing_root(cfg.root, self.holds)
        recipe = self.recipe(cfg)

        def read(pair: Pair) -> dict[str, np.ndarray]:
            image, target = _files.decode_rgb(pair.image), recipe.target(pair.target)
            if target.shape != (image.height, image.width):
                height, width = target.shape
                raise ValueError(f"{pair.target} is {width}x{height}, but its image is {image.width}x{image.height}")
            names = {name: path.relative_to(root).as_posix() for name, path in pair._asdict().items()}
            size = np.array([image.height, image.width], dtype=np.int64)
            return {name: _columns.text(path) for name, path in names.items()} | {"size": size}

        pairs = self.find(cfg, root)[split]
        among = f"pairs in split {split!r} of {cfg.root}"
        return (yield from _files.checked(pairs, read, max_unusable=cfg.max_unusable, among=among))

    def open_split(self, cfg: Any, task: str, table: Table) -> Photos:
        """See `sigma_ray.data`."""
        return Photos(table, _files.existing_root(cfg.root, self.holds), self.recipe(cfg))

    def _settings(self, cfg: Any) -> list[Any]:
        """Options that decide whether a target is usable."""
        return [getattr(cfg, name, None) for name in ("depth_scale", "min_depth", "max_depth")]

    def _paths(self, cfg: Any, root: Path) -> dict[str, list[Path]]:
        return {split: [path for pair in pairs for path in pair] for split, pairs in self.find(cfg, root).items()}
