"""Colours and textures of the procedural scenes, and the camera that takes the picture.

Legend: B images, R regions (sky, ground, then the object slots), H x W pixels. Colours lie in 0 .. 1.
"""

import numpy as np

Array = np.ndarray
NUM_COLOURS = 8
LUMINANCE = np.array([0.299, 0.587, 0.114])
LATTICE = 14


def palette(u: Array) -> Array:
    """Pick one colour per region, unrelated to its class and unlike the regions before it.

    Args:
        u: uniform draws (B, R, NUM_COLOURS, 3), the candidate colours.

    Returns:
        (B, R, 3): of each region's candidates the one farthest (in colour and luminance) from sky, ground
        and, with less weight, from the earlier objects. Sky and ground are muted, so that objects stand out.
    """
    chosen = np.empty((*u.shape[:2], 3))
    for region in range(u.shape[1]):
        candidates = u[:, region]
        if region < 2:
            candidates = 0.55 * candidates + 0.45 * candidates.mean(axis=-1, keepdims=True)
        best = np.zeros(len(u), dtype=int)
        if region:
            difference = candidates[:, :, None] - chosen[:, None, :region]
            gap = np.linalg.norm(difference, axis=-1) + 1.5 * np.abs(difference @ LUMINANCE)
            gap[:, :, 2:] *= 1.6
            best = np.argmax(gap.min(axis=2), axis=1)
        chosen[:, region] = np.take_along_axis(candidates, best[:, None, None], 1)[:, 0]
    return chosen


def paint(region: Array, u: dict[str, Array], target: bool) -> Array:
    """Colour every pixel by its region's pattern: (B, 3, H, W) float32 in 0 .. 1.

    Args:
        region: (B, H, W) region numbers.
        u: uniform draws "pattern", "angle", "frequency", "phase", "amplitude" (B, R), "colour" (B, R,
            NUM_COLOURS, 3), "accent" (B, R, 3), "lattice" (B, LATTICE**2).
        target: patterns of the target domain (checker, dots, value noise) instead of the source's (flat,
            stripes, gradient).
    """
    batch, height, width = region.shape
    flat = region.reshape(batch, -1)

    def at(values: Array) -> Array:
        return np.take_along_axis(values.astype(np.float32), flat, axis=1).reshape(region.shape)

    period = (4.0 + 8.0 * u["frequency"]) if not target else (3.0 + 5.0 * u["frequency"])
    angle, wave = u["angle"] * np.pi, 2 * np.pi / period
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    cos, sin, phase = at(wave * np.cos(angle)), at(wave * np.sin(angle)), at(2 * np.pi * u["phase"])
    along = columns * cos + rows * sin + phase
    across = rows * cos - columns * sin + phase
    pattern = at(np.floor(u["pattern"] * 3)).astype(np.int8)
    if target:
        blend = _target_pattern(pattern, along, across, _value_noise(u["lattice"], height, width))
    else:
        blend = _source_pattern(pattern, along, at(period / max(height, width)))
    blend -= np.float32(0.5)
    base = palette(u["colour"])
    reach = (0.25 + 0.35 * u["amplitude"]) if not target else (0.2 + 0.3 * u["amplitude"])
    accent = u["accent"] - 0.5
    accent *= reach[..., None] / np.maximum(np.linalg.norm(accent, axis=-1, keepdims=True), 1e-6)
    image = np.empty((batch, 3, height, width), dtype=np.float32)
    for channel in range(3):
        np.multiply(blend, at(accent[..., channel]), out=image[:, channel])
        image[:, channel] += at(base[..., channel])
    return image


def _target_pattern(pattern: Array, along: Array, across: Array, noise: Array) -> Array:
    """Checker, dots or value noise (pattern 0, 1, 2) from the two phases: 0 .. 1, shape (B, H, W)."""
    first, second = np.sin(along), np.sin(across)
    blend = np.where(pattern == 0, (first * second > 0), (first + second > 0.7)).astype(np.float32)
    return np.where(pattern == 2, noise, blend)


def _source_pattern(pattern: Array, along: Array, period: Array) -> Array:
    """Flat, stripes or gradient (pattern 0, 1, 2); `period` of the stripes as a share of the longer side."""
    slope = along * np.float32(1 / (2 * np.pi)) * period
    blend = np.where(pattern == 1, np.sin(along) > 0, np.abs(slope % 2 - 1)).astype(np.float32)
    blend[pattern == 0] = 0.0
    return blend


def _value_noise(lattice: Array, height: int, width: int) -> Array:
    """Smooth noise (B, H, W) in 0 .. 1, by linear interpolation of a LATTICE x LATTICE grid of draws."""
    grid = lattice.reshape(-1, LATTICE, LATTICE).astype(np.float32)
    rows, columns = _interpolation(height), _interpolation(width)
    return rows @ grid @ columns.T


def _interpolation(length: int) -> Array:
    """Matrix (length, LATTICE) that interpolates LATTICE values linearly."""
    distance = np.abs(np.linspace(0, LATTICE - 1, length)[:, None] - np.arange(LATTICE)[None, :])
    return np.maximum(1 - distance, 0).astype(np.float32)


def photograph(image: Array, noise: Array, u: dict[str, Array], target: bool) -> Array:
    """Blur, cast, contrast and noise of the domain's camera: uint8 (B, 3, H, W).

    Args:
        image: (B, 3, H, W) float32 in 0 .. 1; overwritten.
        noise: standard normal draws of the same shape; overwritten.
        u: uniform draws "blur", "contrast", "sigma" (B,), "cast" (B, 3).
        target: source keeps full contrast, 2 grey levels of noise and a slight smoothing of edges; target has
            contrast 0.4 .. 0.9, 8 .. 20 grey levels of noise, a colour cast and up to two passes of a 3 x 3
            blur.
    """
    np.clip(image, 0.0, 1.0, out=image)
    weight = 0.08 + (0.2 * u["blur"] if target else 0 * u["blur"])
    for _ in range(2 if target else 1):
        image = _blur(image, weight.astype(np.float32)[:, None, None, None])
    if target:
        contrast = (0.4 + 0.5 * u["contrast"])[:, None]
        gain, offset = contrast * (0.75 + 0.25 * u["cast"]), (1 - contrast) * (0.2 + 0.6 * u["cast"])
        image *= gain.astype(np.float32)[..., None, None]
        image += offset.astype(np.float32)[..., None, None]
    image *= np.float32(255.0)
    noise *= (8.0 + 12.0 * u["sigma"] if target else 2.0 + 0 * u["sigma"]).astype(np.float32)[:, None, None, None]
    image += noise
    return np.clip(np.rint(image, out=image), 0, 255, out=image).astype(np.uint8)


def _blur(image: Array, weight: Array) -> Array:
    """Separable (w, 1 - 2w, w) filter over the last two axes, edges repeated."""
    for axis in (2, 3):
        first, last = np.take(image, [0], axis), np.take(image, [-1], axis)
        padded = np.concatenate([first, image, last], axis)
        size = image.shape[axis]
        before, after = (padded.take(range(k, k + size), axis) for k in (0, 2))
        image = image + weight * (before + after - 2 * image)
    return image
