"""Shapes and layout of the procedural scenes: which object stands where, and which pixels it covers.

Legend: B images, S object slots, N objects of one class, H x W pixels. Lengths are in pixels, angles in
radians, y points down. Slots are painted in their order: slot 0 is the farthest and largest object.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray
NUM_SLOTS = 8
MIN_OBJECTS = 4
NUM_CANDIDATES = 5
FAR = 20.0  # metres: where the ground meets the back wall


# Each function takes coordinates about the centre, radius r, part width w and a free variant v in 0 .. 1; its
# value is negative inside, and positive beyond r.
def _disk(x: Array, y: Array, r: Array, w: Array, v: Array) -> Array:
    return np.hypot(x, y * (1 + 0.6 * v)) - r


def _box(x: Array, y: Array, r: Array, w: Array, v: Array) -> Array:
    angle = np.pi * (0.19 + 0.12 * v)
    return np.maximum(np.abs(x) - r * np.cos(angle), np.abs(y) - r * np.sin(angle))


def _triangle(x: Array, y: Array, r: Array, w: Array, v: Array) -> Array:
    sides = np.abs(x) * np.float32(0.8660254) - y * np.float32(0.5)
    return np.maximum(sides, y) - 0.5 * r


def _ring(x: Array, y: Array, r: Array, w: Array, v: Array) -> Array:
    return np.abs(np.hypot(x, y) - (r - 0.5 * w)) - 0.5 * w


def _cross(x: Array, y: Array, r: Array, w: Array, v: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    reach = np.sqrt(r * r - 0.25 * w * w)
    return np.maximum(np.maximum(x, y) - reach, np.minimum(x, y) - 0.5 * w)


def _bar(x: Array, y: Array, r: Array, w: Array, v: Array) -> Array:
    return np.maximum(np.abs(x) - 0.5 * w, np.abs(y) - np.sqrt(r * r - 0.25 * w * w))


def _star(x: Array, y: Array, r: Array, w: Array, v: Array) -> Array:
    tip = 2 * np.abs((np.arctan2(x, -y) * np.float32(2.5 / np.pi)) % 1 - np.float32(0.5))
    return np.hypot(x, y) - r * (0.42 + 0.58 * tip * tip)


def _fence(x: Array, y: Array, r: Array, w: Array, v: Array) -> Array:
    frame = np.maximum(np.abs(x) - 0.8 * r, np.abs(y) - 0.6 * r)
    # An odd number of gaps puts a picket on either end of the frame.
    gaps = np.maximum(np.floor((1.6 * r - w) / (2 * w)), 1)
    period = (1.6 * r - w) / gaps
    picket = np.abs((x + 0.8 * r - 0.5 * w + 0.5 * period) % period - 0.5 * period) - 0.5 * w
    rail = np.abs(np.abs(y) - 0.32 * r) - 0.4 * w
    return np.maximum(frame, np.minimum(picket, rail))


class Shape(NamedTuple):
    """A kind of object.

    Attributes:
        inside: the function above.
        smallest: smallest diameter, in units of the thinnest part.
        part: width of its parts, as a share of the diameter.
        tilt: largest angle.
    """

    inside: Callable[[Array, Array, Array, Array, Array], Array]
    smallest: float
    part: float
    tilt: float


SHAPES = {
    "disk": Shape(_disk, 2.0, 0.0, 0.5),
    "box": Shape(_box, 2.0, 0.0, 0.35),
    "triangle": Shape(_triangle, 2.7, 0.0, 0.35),
    "ring": Shape(_ring, 3.4, 0.2, 0.0),
    "cross": Shape(_cross, 3.0, 0.24, 0.8),
    "bar": Shape(_bar, 3.4, 0.1, 0.6),
    "star": Shape(_star, 3.4, 0.0, 0.6),
    "fence": Shape(_fence, 5.0, 0.1, 0.1),
}


def covers(scene: dict[str, Array], image_size: tuple[int, int]) -> Array:
    """Which pixels each object of a layout covers, hidden or not: bool (B, S, H, W)."""
    kind = scene["kind"]
    fields = [scene[name].astype(np.float32) for name in ("x", "y", "diameter", "width", "tilt", "variant")]
    result = np.zeros((*kind.shape, *image_size), dtype=bool)
    rows, columns = (np.arange(n, dtype=np.float32) + np.float32(0.5) for n in image_size)
    for number, shape in enumerate(SHAPES.values()):
        chosen = np.nonzero(kind == number)
        x0, y0, d, w, a, v = (field[chosen][:, None, None] for field in fields)
        dx, dy = columns[None, None, :] - x0, rows[None, :, None] - y0
        cos, sin = np.cos(a), np.sin(a)
        result[chosen] = shape.inside(dx * cos + dy * sin, dy * cos - dx * sin, d / 2, w, v) < 0
    return result


def lay_out(
    u: dict[str, Array], image_size: tuple[int, int], diameters: tuple[float, float], min_part: float
) -> dict[str, Array]:
    """Choose class, size, place and distance of the objects of B images.

    Args:
        u: uniform draws: "count", "horizon", "near" (B,); "kind", "size", "order", "base", "lift", "tilt",
            "thick", "variant" (B, S); "place" (B, S, NUM_CANDIDATES).
        image_size: (height, width) in pixels.
        diameters: smallest and largest diameter, in pixels; drawn log-uniformly.
        min_part: width of the thinnest part, in pixels.

    Returns:
        "kind" (B, S) with -1 for an empty slot; "x", "y", "diameter", "width", "tilt", "variant" (B, S) in
        pixels and radians; "depth" (B, S) in metres, falling along the slots; "ground" (B, H) depth of the
        ground, in metres; "horizon" (B,) first ground row.
    """
    height, width = image_size
    kind, share, tilt, diameter = _choose(u, diameters, min_part)
    horizon = height * (0.3 + 0.3 * u["horizon"])
    base = horizon[:, None] + (height - horizon)[:, None] * (0.1 + 0.9 * np.sort(u["base"], axis=1))
    # A tall object stands lower, so that most of it is in the picture. Nothing reaches below its base row,
    # for the ground there is nearer than the object.
    base = np.maximum.accumulate(np.maximum(base, 0.8 * diameter), axis=1)
    place_x, y = _place(u, diameter, base, width)
    near = 1.0 / (1.5 + 1.5 * u["near"])
    rows = np.arange(height) + 0.5
    return {
        "kind": kind,
        "x": place_x,
        "y": y,
        "diameter": diameter,
        "width": np.maximum(min_part, share * diameter * (0.8 + 0.6 * u["thick"])),
        "tilt": tilt * (2 * u["tilt"] - 1),
        "variant": u["variant"],
        "depth": _depth(base, horizon[:, None], near[:, None], height),
        "ground": _depth(np.broadcast_to(rows, (len(near), height)), horizon[:, None], near[:, None], height),
        "horizon": horizon,
    }


def _choose(u: dict[str, Array], diameters: tuple[float, float], min_part: float) -> tuple[Array, Array, Array, Array]:
    """Kind, part width / diameter, largest tilt and diameter (B, S), from the farthest slot to the nearest."""
    count = MIN_OBJECTS + (u["count"] * (NUM_SLOTS - MIN_OBJECTS + 1)).astype(int)
    empty = np.arange(NUM_SLOTS) >= count[:, None]
    kind = (u["kind"] * len(SHAPES)).astype(int)
    smallest, share, tilt = np.array([shape[1:] for shape in SHAPES.values()]).T[:, kind]
    low = np.maximum(diameters[0], smallest * min_part)
    diameter = low * (diameters[1] / low) ** u["size"]
    # Small objects come last (nearest), so that large ones do not bury them; the noise lets some overlap.
    key = np.log(diameter) + 0.4 * u["order"]
    order = np.argsort(np.where(empty, np.inf, -key), axis=1)
    kind, share, tilt, diameter = (np.take_along_axis(a, order, 1) for a in (kind, share, tilt, diameter))
    return np.where(empty, -1, kind), share, tilt, diameter


def _depth(row: Array, horizon: Array, near: Array, height: int) -> Array:
    """Depth in metres of the ground plane at an image row: inverse depth is linear in the row."""
    share = np.clip((row - horizon) / (height - horizon), 0.0, 1.0)
    return 1.0 / (1.0 / FAR + share * (near - 1.0 / FAR))


def _place(u: dict[str, Array], diameter: Array, base: Array, width: int) -> tuple[Array, Array]:
    """Centres (B, S): on the base row or hovering above it, at the candidate column that overlaps least."""
    radius = diameter / 2
    hover = np.where(u["lift"] > 0.5, (u["lift"] - 0.5) * 2 * (base - 1.6 * radius), 0.0)
    y = base - radius - hover
    candidates = 0.7 * radius[..., None] + (width - 1.4 * radius[..., None]) * u["place"]
    x = candidates[..., 0].copy()
    for slot in range(1, NUM_SLOTS):
        gap_x = candidates[:, slot, :, None] - x[:, None, :slot]
        gap_y = (y[:, slot, None] - y[:, :slot])[:, None, :]
        clearance = np.hypot(gap_x, gap_y) - (radius[:, slot, None] + radius[:, :slot])[:, None, :]
        best = np.argmax(clearance.min(axis=2), axis=1)
        x[:, slot] = np.take_along_axis(candidates[:, slot], best[:, None], 1)[:, 0]
    return x, y
