"""Scaling, cropping, padding and mirroring of a picture together with its labels.

A `View` says what the model sees; each function applies it to one kind of label. Pixel centres lie at half numbers, as
in Pillow, so that picture, masks and boxes agree.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from sigma_ray.data._info import PADDING


class View(NamedTuple):
    """A window on a scaled picture; what lies beyond the picture, to the right and below, is padding.

    Attributes:
        scaled: (height, width) of the whole picture after scaling.
        corner: (top, left) of the window in the scaled (and mirrored) picture.
        size: (height, width) of the window.
        mirrored: whether the scaled picture is turned left to right before the window is cut.
    """

    scaled: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]
    mirrored: bool = False

    @property
    def seen(self) -> tuple[int, int]:
        """(height, width) of the part of the picture that the window shows."""
        height, width = self.size
        return min(height, self.scaled[0] - self.corner[0]), min(width, self.scaled[1] - self.corner[1])


def fit(size: tuple[int, int], longer: float, shorter: float) -> tuple[int, int]:
    """`size` (h, w) scaled, keeping its aspect, until one side reaches its limit."""
    factor = min(longer / max(size), shorter / min(size))
    return scale(size, factor)


def scale(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """`size` (h, w) times `factor`, in whole pixels, at least 1."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def random_corner(scaled: tuple[int, int], size: tuple[int, int], generator: np.random.Generator) -> tuple[int, int]:
    """A place for a window of `size`, each as likely as any other; 0 along sides that the picture does not fill."""
    top, left = (int(generator.integers(max(whole - side, 0) + 1)) for whole, side in zip(scaled, size, strict=True))
    return top, left


def picture(image: Image.Image, view: View) -> np.ndarray:
    """What `view` shows of an RGB image: uint8 (h, w, 3). Bilinear with antialiasing; only what is seen is computed."""
    height, width = view.seen
    top, left = view.corner
    left = view.scaled[1] - left - width if view.mirrored else left
    down, across = image.height / view.scaled[0], image.width / view.scaled[1]
    right, bottom = min((left + width) * across, image.width), min((top + height) * down, image.height)
    part = image.resize((width, height), Image.Resampling.BILINEAR, box=(left * across, top * down, right, bottom))
    pixels = np.asarray(part)
    pixels = pixels[:, ::-1] if view.mirrored else pixels
    if (height, width) == view.size:
        return np.ascontiguousarray(pixels)
    canvas = np.empty((*view.size, 3), np.uint8)
    canvas[:] = PADDING
    canvas[:height, :width] = pixels
    return canvas


def nearest(values: np.ndarray, view: View, fill: float) -> np.ndarray:
    """What `view` shows of a map (..., H, W), by the nearest pixel; `fill` beyond the picture."""
    height, width = view.seen
    rows, columns = np.arange(height) + view.corner[0], np.arange(width) + view.corner[1]
    columns = view.scaled[1] - 1 - columns if view.mirrored else columns
    # Pixel i's centre, (i + 1/2) source / scaled, rounded down; in whole numbers, so that no rounding error decides.
    rows = (2 * rows + 1) * values.shape[-2] // (2 * view.scaled[0])
    columns = (2 * columns + 1) * values.shape[-1] // (2 * view.scaled[1])
    seen = values[..., rows[:, None], columns]
    if (height, width) == view.size:
        return seen
    canvas = np.full((*values.shape[:-2], *view.size), fill, values.dtype)
    canvas[..., :height, :width] = seen
    return canvas


def boxes(edges: np.ndarray, view: View, size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 4), x0 y0 x1 y1 in a picture of `size` (h, w), in the pixels of `view`, clipped to what is seen."""
    factors = view.scaled[1] / size[1], view.scaled[0] / size[0]
    result = edges.astype(np.float64) * (factors * 2)
    if view.mirrored:
        result[:, [0, 2]] = view.scaled[1] - result[:, [2, 0]]
    result -= (view.corner[1], view.corner[0]) * 2
    height, width = view.seen
    return np.clip(result, 0, (width, height) * 2).astype(np.float32)
