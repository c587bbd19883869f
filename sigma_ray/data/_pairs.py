"""Reading a pair of image and mask of a folder data set, and its `classes.json`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sigma_ray.data import _files
from sigma_ray.data._files import Pair
from sigma_ray.data._info import Info


def read(pair: Pair, labels: Info, reduce_zero_label: bool) -> dict[str, np.ndarray]:
    """`image` uint8 (3, H, W) and `mask` uint8 (H, W) of one pair, resized to `labels.image_size`.

    Raises:
        ValueError: a file cannot be decoded, the sizes differ, or the mask holds a value that is no label.
    """
    image, mask = _files.decode_rgb(pair.image), _files.decode(pair.target)
    if image.size != mask.size:
        raise ValueError(f"{pair.target} is {mask.width}x{mask.height}, but its image is {image.width}x{image.height}")
    ids = np.asarray(mask)
    if ids.ndim != 2 or ids.dtype.kind not in "uib":
        raise ValueError(f"{pair.target} has mode {mask.mode}, but one channel of class numbers is needed")
    size = (labels.image_size[1], labels.image_size[0])
    picture = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    coded = Image.fromarray(_encode(ids.astype(np.int64), pair.target, labels, reduce_zero_label))
    mask = np.asarray(coded.resize(size, Image.Resampling.NEAREST))
    return {"image": np.ascontiguousarray(picture.transpose(2, 0, 1)), "mask": mask}


def _encode(ids: np.ndarray, path: Path, labels: Info, reduce_zero_label: bool) -> np.ndarray:
    """Class numbers as they are trained on: uint8 (H, W), ignored pixels set to `labels.ignore_index`."""
    ignored = ids == labels.ignore_index
    if reduce_zero_label:
        ignored |= ids == 0
        ids = ids - 1
    ids = np.where(ignored, labels.ignore_index, ids)
    wrong = ids[~ignored & ((ids < 0) | (ids >= labels.num_classes))]
    if wrong.size:
        value = int(wrong[0]) + int(reduce_zero_label)
        low, high = int(reduce_zero_label), labels.num_classes - 1 + int(reduce_zero_label)
        raise ValueError(
            f"{path} holds the id {value}, but ids must lie in {low} .. {high} or equal the ignore index "
            f"{labels.ignore_index} (set data.num_classes, data.ignore_index or data.reduce_zero_label)"
        )
    return ids.astype(np.uint8)


def read_classes(path: Path) -> dict[str, Any]:
    """The checked content of a `classes.json`.

    Raises:
        ValueError: it is no JSON object with a list of names under "classes".
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, but it is not ({error}); correct it.") from None
    names = stored.get("classes") if isinstance(stored, dict) else None
    if not isinstance(names, list) or not 2 <= len(names) <= 255 or not all(isinstance(n, str) for n in names):
        raise ValueError(f'{path} must hold 2 to 255 names under "classes", but got {names!r}; correct it.')
    index, reduce = stored.get("ignore_index", 255), stored.get("reduce_zero_label", False)
    if type(index) is not int or not 0 <= index <= 255 or type(reduce) is not bool:
        raise ValueError(
            f"{path} must have ignore_index in 0 .. 255 and reduce_zero_label true or false, but got "
            f"{index!r} and {reduce!r}; correct it."
        )
    return stored
