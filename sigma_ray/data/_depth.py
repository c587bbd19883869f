"""Photos with depth maps: reading and checking 16-bit depth, and the recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from sigma_ray.data import _colour, _files, _geometry
from sigma_ray.data._geometry import View
from sigma_ray.data._info import Info
from sigma_ray.data._options import DepthOptions
from sigma_ray.data._recipe import FileRecipe, Row, channels_first


def info(cfg: DepthOptions, crop: str = "none") -> Info:
    """Geometry and range."""
    return Info(image_size=cfg.image_size, min_depth=cfg.min_depth, max_depth=cfg.max_depth, depth_crop=crop)


@dataclass(frozen=True)
class Recipe(FileRecipe):
    """Scale, crop, mirror and jitter (`DepthOptions`)."""

    cfg: DepthOptions
    column: ClassVar[str] = "depth"

    def target(self, path: Path) -> np.ndarray:
        """Depth (h, w) float32 in metres, 0 where nothing was measured.

        Raises:
            ValueError: the file is missing, damaged or has no 16-bit channel, or nothing in it lies in the range.
        """
        stored = _files.decode(path)
        if not stored.mode.startswith("I"):
            raise ValueError(f"{path} has mode {stored.mode}, but one 16-bit channel of depth is needed")
        depth = np.asarray(stored).astype(np.float32) / np.float32(self.cfg.depth_scale)
        if not ((depth >= self.cfg.min_depth) & (depth <= self.cfg.max_depth)).any():
            raise ValueError(
                f"{path} has no pixel between {self.cfg.min_depth:g} and {self.cfg.max_depth:g} m at "
                f"{self.cfg.depth_scale:g} units a metre (see data.depth_scale, data.max_depth)"
            )
        return depth

    def shown(self, image: Image.Image) -> np.ndarray:
        """See `FileRecipe`; both axes scaled to `image_size`."""
        return _geometry.picture(image, View(self.cfg.image_size, (0, 0), self.cfg.image_size))

    def training(
        self, image: Image.Image, row: Row, columns: Sequence[str], mirrored: bool, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """See `Recipe`."""
        size = self.cfg.crop_size or self.cfg.image_size
        corner = _geometry.random_corner(self.cfg.image_size, size, generator)
        view = View(self.cfg.image_size, corner, size, mirrored)
        pixels = _geometry.picture(image, view)
        if self.cfg.colour_jitter:
            pixels = _colour.jitter(pixels, generator)
        depth = _geometry.nearest(self.target(row["target"]), view, 0)
        return {"image": channels_first(pixels), "depth": depth}
