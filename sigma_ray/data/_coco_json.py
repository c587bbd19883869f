"""Reading and checking annotations in COCO's format."""

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sigma_ray.data import _columns
from sigma_ray.paths import inside


@dataclass(frozen=True)
class Annotations:
    """One annotation file.

    Attributes:
        path: the file.
        categories: name by category id, in the order of the ids.
        pictures: its `images`.
    """

    path: Path
    categories: dict[int, str]
    pictures: list[dict[str, Any]]
    _objects: dict[int, list[dict[str, Any]]]

    def of(self, picture: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The objects of a picture."""
        return self._objects.get(picture["id"], [])

    def objects(self) -> Iterable[dict[str, Any]]:
        """All objects."""
        return (one for objects in self._objects.values() for one in objects)


def read(path: Path) -> Annotations:
    """The annotations in a file, checked.

    Raises:
        ValueError: it is no JSON in COCO's format, or objects refer to pictures or categories that it does not have.
    """
    stat = path.stat()
    return _read(path, stat.st_size, stat.st_mtime_ns)


def forget() -> None:
    """Free the files read so far: COCO's take 4 GB of memory."""
    _read.cache_clear()


# Three files at the most belong to a data set; parsing COCO's largest takes many seconds.
@functools.lru_cache(maxsize=3)
def _read(path: Path, size: int, modified: int) -> Annotations:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, but it is not ({error}); download it again.") from None
    try:
        categories = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        pictures = [{key: p[key] for key in ("id", "file_name", "height", "width")} for p in content["images"]]
        for picture in pictures:
            inside(path.parent, picture["file_name"], path)
        objects: dict[int, list[dict[str, Any]]] = {p["id"]: [] for p in pictures}
        problems = [
            o for o in content["annotations"] if o["image_id"] not in objects or o["category_id"] not in categories
        ]
        if not problems:
            for one in content["annotations"]:
                objects[one["image_id"]].append(one)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} must hold images, annotations and categories as COCO defines them, but {error} is missing or "
            "wrong; correct it."
        ) from None
    if problems:
        raise ValueError(
            f"{path} must not refer to images or categories that it does not list, but {len(problems)} annotations "
            f"do, the first with image_id {problems[0]['image_id']} and category_id {problems[0]['category_id']}; "
            "correct it."
        )
    if len(objects) < len(pictures):
        raise ValueError(f"{path} must give every image an id of its own, but some share one; correct it.")
    return Annotations(path, dict(sorted(categories.items())), pictures, objects)


def row(
    picture: Mapping[str, Any], objects: list[dict[str, Any]], labels: Mapping[int, int], with_masks: bool
) -> dict[str, np.ndarray]:
    """The labels of one picture as `_detection` describes them.

    Raises:
        ValueError: a box is no box, or an outline cannot be drawn.
    """
    boxes = np.zeros((len(objects), 4), np.float64)
    for i, one in enumerate(objects):
        box = one.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(math.isfinite(v) for v in box) or min(box[2:]) < 0:
            raise ValueError(f"{picture['file_name']}, annotation {one.get('id')}: {box!r} is no bbox [x, y, w, h]")
        boxes[i] = box
    boxes[:, 2:] += boxes[:, :2]
    areas = [one.get("area", (b[2] - b[0]) * (b[3] - b[1])) for one, b in zip(objects, boxes, strict=True)]
    found = {
        "size": np.array([picture["height"], picture["width"]], dtype=np.int64),
        "image_id": np.array(picture["id"], dtype=np.int64),
        "boxes": boxes.astype(np.float32),
        "labels": np.array([labels[one["category_id"]] for one in objects], dtype=np.int64),
        "crowd": np.array([bool(one.get("iscrowd")) for one in objects], dtype=bool),
        "area": np.array(areas, dtype=np.float64),
    }
    if with_masks:
        codes = [_run_lengths(one, picture) for one in objects]
        found["segments"] = _columns.text(json.dumps(codes))
    return found


def _run_lengths(one: Mapping[str, Any], picture: Mapping[str, Any]) -> str:
    """Compressed run-length code of an object's polygons or of its uncompressed code."""
    from pycocotools import mask

    outline, height, width = one["segmentation"], picture["height"], picture["width"]
    try:
        if isinstance(outline, list):
            code = mask.merge(mask.frPyObjects(outline, height, width))
        elif isinstance(outline["counts"], list):
            code = mask.frPyObjects(outline, height, width)
        else:
            code = outline
        if list(code["size"]) != [height, width]:
            raise ValueError(f"its size is {code['size']}")
        counts = code["counts"]
    except Exception as error:  # pycocotools raises whatever its C code runs into, bare Exception included
        raise ValueError(
            f"{picture['file_name']}, annotation {one.get('id')}: its segmentation cannot be drawn ({error})"
        ) from None
    return counts.decode() if isinstance(counts, bytes) else counts
