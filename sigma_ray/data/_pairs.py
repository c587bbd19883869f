"""Image and mask files of a folder data set: finding the pairs, and reading one of them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from sigma_ray.data._info import Info

FOLDERS = ("training", "validation", "test")
SUFFIXES = {".jpg", ".jpeg", ".png"}
NUM_NAMED = 3


class Pair(NamedTuple):
    """An image file and its mask file."""

    image: Path
    mask: Path


def refuse(problems: list[str], among: str) -> None:
    """Raise one ValueError that counts the `problems` and names the first three; do nothing without any."""
    if problems:
        more = f"; and {len(problems) - NUM_NAMED} more" if len(problems) > NUM_NAMED else ""
        listed = "; ".join(problems[:NUM_NAMED])
        raise ValueError(
            f"{len(problems)} of the {among} cannot be used: {listed}{more}. Repair or remove these files."
        )


def find(root: Path, split: str) -> list[Pair]:
    """All pairs of folder `split`, sorted by name.

    Raises:
        ValueError: a folder is missing or has no images, or an image has no mask.
    """
    images, masks = root / "images" / split, root / "annotations" / split
    if not masks.is_dir():
        raise ValueError(
            f"Every folder of images needs one of masks, but {masks} is missing; add it or remove {images}."
        )
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{images} must hold .jpg or .png images, but it has none.")
    pairs = [Pair(path, masks / f"{path.stem}.png") for path in paths]
    present = {path.name for path in masks.iterdir()}
    problems = [f"{pair.image} has no annotation {pair.mask}" for pair in pairs if pair.mask.name not in present]
    refuse(problems, f"{len(pairs)} images in {images}")
    return pairs


def read(pair: Pair, labels: Info, reduce_zero_label: bool) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (3, H, W) and mask uint8 (H, W) of one pair, resized to `labels.image_size`.

    Raises:
        ValueError: a file cannot be decoded, the sizes differ, or the mask holds a value that is no label.
    """
    image, mask = _decode(pair.image), _decode(pair.mask)
    if image.size != mask.size:
        raise ValueError(f"{pair.mask} is {mask.width}x{mask.height}, but its image is {image.width}x{image.height}")
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{pair.image} has pixels of mode {image.mode}, but 8-bit grey or colour is needed")
    ids = np.asarray(mask)
    if ids.ndim != 2 or ids.dtype.kind not in "uib":
        raise ValueError(f"{pair.mask} has mode {mask.mode}, but one channel of class numbers is needed")
    size = (labels.image_size[1], labels.image_size[0])
    picture = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    coded = Image.fromarray(_encode(ids.astype(np.int64), pair.mask, labels, reduce_zero_label))
    return np.ascontiguousarray(picture.transpose(2, 0, 1)), np.asarray(coded.resize(size, Image.Resampling.NEAREST))


def _decode(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    # Pillow reports a broken PNG as SyntaxError.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be decoded ({str(error).splitlines()[0]})") from None


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
