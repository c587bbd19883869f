"""Photos with masks of class ids: reading and checking masks, and the recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from sigma_ray.data import _colour, _files, _geometry
from sigma_ray.data._geometry import View
from sigma_ray.data._info import Info
from sigma_ray.data._options import SegmentationOptions
from sigma_ray.data._recipe import FileRecipe, Row, channels_first

IGNORE = 255
NUM_TRIES = 10


def coding(labels: dict[int, int]) -> np.ndarray:
    """What ids in mask files mean: (256,) int16, label or `IGNORE` by id, -1 for an id that may not occur."""
    table = np.full(256, -1, dtype=np.int16)
    table[IGNORE] = IGNORE
    for stored, label in labels.items():
        table[stored] = label
    return table


def zero_is_ignored(num_classes: int) -> np.ndarray:
    """Ids 1 .. `num_classes` are labels 0 .. `num_classes` - 1, and 0 is no label ("reduce zero label")."""
    return coding({0: IGNORE, **{label + 1: label for label in range(num_classes)}})


def read_mask(path: Path, meaning: np.ndarray) -> np.ndarray:
    """Labels (h, w) uint8 of a mask file, by its `coding`.

    Raises:
        ValueError: the file is missing, damaged or no 8-bit mask, or holds an id that may not occur.
    """
    stored = _files.decode(path)
    ids = np.asarray(stored)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ValueError(f"{path} has mode {stored.mode}, but one 8-bit channel of class numbers is needed")
    labels = meaning[ids]
    if labels.min(initial=0) < 0:
        allowed = np.nonzero(meaning[:IGNORE] >= 0)[0]
        raise ValueError(
            f"{path} holds the id {ids[labels < 0][0]}, but ids must lie in {allowed[0]} .. {allowed[-1]} or equal "
            f"{IGNORE}"
        )
    return labels.astype(np.uint8)


def info(cfg: SegmentationOptions, names: tuple[str, ...]) -> Info:
    """Labels and geometry."""
    return Info(
        image_size=cfg.image_size,
        num_classes=len(names),
        class_names=names,
        ignore_index=IGNORE,
        window_stride=cfg.window_stride,
    )


@dataclass(frozen=True)
class Recipe(FileRecipe):
    """Scale, crop, mirror and distort (`SegmentationOptions`); `codings` by the end of a mask's name, "" for all."""

    cfg: SegmentationOptions
    codings: dict[str, np.ndarray]
    column: ClassVar[str] = "mask"
    one_size: ClassVar[bool] = False

    def target(self, path: Path) -> np.ndarray:
        """See `FileRecipe`; labels uint8."""
        return read_mask(path, next(table for end, table in self.codings.items() if path.name.endswith(end)))

    def view(self, size: tuple[int, int]) -> View:
        """See `Recipe`; scaled with its aspect kept."""
        longer, shorter = self._base()
        if self.cfg.test_short_side is not None:
            longer, shorter = longer * self.cfg.test_short_side / shorter, self.cfg.test_short_side
        scaled = _geometry.fit(size, longer, shorter)
        return View(scaled, (0, 0), scaled)

    def training(
        self, image: Image.Image, row: Row, columns: Sequence[str], mirrored: bool, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """See `Recipe`."""
        cfg, mask = self.cfg, self.target(row["target"])
        longer, shorter = self._base()
        ratio = generator.uniform(*cfg.ratio_range)
        scaled = _geometry.fit((image.height, image.width), longer * ratio, shorter * ratio)
        view = crop(mask, scaled, cfg.image_size, mirrored, cfg.cat_max_ratio, generator)
        pixels = _geometry.picture(image, view)
        if cfg.photometric:  # padding keeps its colour, as in evaluation
            part, pixels = np.s_[: view.seen[0], : view.seen[1]], pixels.copy()
            pixels[part] = _colour.distort(np.ascontiguousarray(pixels[part]), generator)
        return {"image": channels_first(pixels), "mask": _geometry.nearest(mask, view, IGNORE)}

    def _base(self) -> tuple[float, float]:
        if self.cfg.base_size is not None:
            return self.cfg.base_size
        return 4 * min(self.cfg.image_size), min(self.cfg.image_size)


def crop(
    mask: np.ndarray,
    scaled: tuple[int, int],
    size: tuple[int, int],
    mirrored: bool,
    cat_max_ratio: float,
    generator: np.random.Generator,
) -> View:
    """A random window in which no class covers more than `cat_max_ratio` of the labelled pixels; the last of ten tries.

    A window with one class alone counts as covered by it (MMSegmentation's `RandomCrop`).
    """
    for _ in range(NUM_TRIES):
        view = View(scaled, _geometry.random_corner(scaled, size, generator), size, mirrored)
        if cat_max_ratio == 1:
            break
        labels = _geometry.nearest(mask, view, IGNORE)
        counts = np.bincount(labels.ravel(), minlength=256)[:IGNORE]
        if np.count_nonzero(counts) > 1 and counts.max() < cat_max_ratio * counts.sum():
            break
    return view
