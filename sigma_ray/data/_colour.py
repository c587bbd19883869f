"""Random changes of colour, each drawn from a sample's own generator; pictures are uint8 (h, w, 3) RGB."""

import cv2
import numpy as np

NUM_HUES = 180  # OpenCV's 8-bit hue counts in steps of two degrees


def distort(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, each with probability 1/2 (MMSegmentation's PhotoMetricDistortion).

    Brightness is shifted by up to 32, contrast and saturation are scaled by 0.5 .. 1.5 and hue is turned by up to 18
    steps. Contrast comes before saturation and hue, or after them.
    """
    apply = generator.random(4) < 0.5
    shift, contrast, saturation = generator.uniform((-32.0, 0.5, 0.5), (32.0, 1.5, 1.5))
    turn, contrast_first = int(generator.integers(-18, 18)), bool(generator.random() < 0.5)
    if apply[0]:
        pixels = linear(pixels, 1.0, shift)
    if apply[1] and contrast_first:
        pixels = linear(pixels, contrast, 0.0)
    if apply[2] or apply[3]:
        pixels = saturate_and_turn(pixels, saturation if apply[2] else 1.0, turn if apply[3] else 0)
    if apply[1] and not contrast_first:
        pixels = linear(pixels, contrast, 0.0)
    return pixels


def linear(pixels: np.ndarray, factor: float, shift: float) -> np.ndarray:
    """Pixels times `factor` plus `shift`, cut to 0 .. 255."""
    levels = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(shift)
    return cv2.LUT(pixels, np.clip(levels, 0, 255).astype(np.uint8))


def saturate_and_turn(pixels: np.ndarray, saturation: float, turn: int) -> np.ndarray:
    """Saturation times `saturation`, and hue `turn` steps of two degrees further."""
    levels = np.arange(256)
    hues = ((levels + turn) % NUM_HUES).astype(np.uint8)
    strengths = np.clip(levels.astype(np.float32) * np.float32(saturation), 0, 255).astype(np.uint8)
    table = np.stack([hues, strengths, levels.astype(np.uint8)], axis=-1)[None]
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), table), cv2.COLOR_HSV2RGB)


def jitter(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Gamma 0.9 .. 1.1, brightness 0.75 .. 1.25 and each colour 0.9 .. 1.1, with probability 1/2 (BTS, for NYUv2)."""
    apply, gamma, brightness = generator.random() < 0.5, generator.uniform(0.9, 1.1), generator.uniform(0.75, 1.25)
    colours = generator.uniform(0.9, 1.1, size=3)
    if not apply:
        return pixels
    levels = (np.arange(256) / 255)[:, None] ** gamma * brightness * colours
    return cv2.LUT(pixels, np.round(255 * np.clip(levels, 0, 1)).astype(np.uint8)[None])
