"""Photos with boxes, and perhaps instance masks: the recipe.

Rows hold, ragged over a picture's N objects: `boxes` (N, 4) float32 x0 y0 x1 y1 in original pixels, `labels` (N,),
`crowd` (N,), `area` (N,), and `segments`, the JSON list of their run-length codes (COCO's compressed form).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sigma_ray.data import _columns, _geometry, _recipe
from sigma_ray.data._geometry import View
from sigma_ray.data._options import DetectionOptions
from sigma_ray.data._recipe import Row, channels_first
from sigma_ray.data.tables import Table


@dataclass(frozen=True)
class Recipe(_recipe.Recipe):
    """Large-scale jitter (`DetectionOptions`)."""

    cfg: DetectionOptions

    def offers(self, table: Table) -> tuple[str, ...]:
        """See `Recipe`."""
        return ("boxes", "labels", "crowd", "area", *(("masks",) if "segments" in table.shapes else ()))

    def training(
        self, image: Image.Image, row: Row, columns: Sequence[str], mirrored: bool, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """See `Recipe`. Objects of which less than `min_box` pixels are left are dropped, crowds unless asked for.

        With masks the boxes enclose what is left of them.
        """
        height, width = self.cfg.image_size
        factor = min(height / image.height, width / image.width) * generator.uniform(*self.cfg.scale_range)
        scaled = _geometry.scale((image.height, image.width), factor)
        view = View(
            scaled, _geometry.random_corner(scaled, self.cfg.image_size, generator), self.cfg.image_size, mirrored
        )
        boxes = _geometry.boxes(row["boxes"], view, (image.height, image.width))
        objects = {name: row[name] for name in ("labels", "crowd", "area")}
        if "masks" in columns:
            objects["masks"] = _geometry.nearest(masks_of(row), view, False)
            boxes = enclosing(objects["masks"])
        objects["boxes"] = boxes
        kept = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= max(self.cfg.min_box, 1e-6)
        if "crowd" not in columns:
            kept &= ~row["crowd"]
        objects = {name: objects[name][kept] for name in columns}
        return {"image": channels_first(_geometry.picture(image, view)), **objects}

    def evaluation(self, image: Image.Image, row: Row, columns: Sequence[str]) -> dict[str, Any]:
        """See `Recipe`. Scaled to fit into `image_size`, padded on the right and below; every object is kept."""
        height, width = self.cfg.image_size
        scaled = _geometry.scale((image.height, image.width), min(height / image.height, width / image.width))
        sample: dict[str, Any] = {
            "image": channels_first(_geometry.picture(image, View(scaled, (0, 0), self.cfg.image_size)))
        }
        if "boxes" in columns:
            scale = np.array([scaled[1] / image.width, scaled[0] / image.height])
            sample |= {"scale": scale, "area": row["area"], "crowd": row["crowd"]}
        return sample | {name: masks_of(row) if name == "masks" else row[name] for name in columns}

    def collate(self, samples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """See `Recipe`. Pictures with fewer objects get rows of zeros, labelled -1; there is at least one row."""
        batch = {"image": np.stack([sample["image"] for sample in samples])}
        for name in samples[0].keys() - {"image"}:
            rows = max(1, *(len(sample[name]) for sample in samples))
            first = samples[0][name]
            empty = -1 if name == "labels" else 0
            batch[name] = np.full((len(samples), rows, *first.shape[1:]), empty, first.dtype)
            for values, sample in zip(batch[name], samples, strict=True):
                values[: len(sample[name])] = sample[name]
        return batch


def masks_of(row: Row) -> np.ndarray:
    """Instance masks bool (N, h, w) at the picture's own size."""
    from pycocotools import mask

    height, width = (int(side) for side in row["size"])
    codes: Any = [{"size": [height, width], "counts": code} for code in json.loads(_columns.untext(row["segments"]))]
    if not codes:
        return np.zeros((0, height, width), dtype=bool)
    return mask.decode(codes).transpose(2, 0, 1).astype(bool)


def enclosing(masks: np.ndarray) -> np.ndarray:
    """Edges (N, 4) float32 of masks (N, H, W); zeros for an empty one."""
    rows, columns = np.any(masks, axis=2), np.any(masks, axis=1)
    edges = [
        columns.argmax(axis=1),
        rows.argmax(axis=1),
        columns.shape[1] - columns[:, ::-1].argmax(axis=1),
        rows.shape[1] - rows[:, ::-1].argmax(axis=1),
    ]
    return np.where(rows.any(axis=1)[:, None], np.stack(edges, axis=1), 0).astype(np.float32)
