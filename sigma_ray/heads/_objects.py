"""What detection heads share: reading a batch's targets and writing predictions."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_DETECTIONS = 100
"""Detections that a head returns of an image, at most."""


def objects(targets: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Per image the rows that hold an object: `boxes` (n, 4), `labels` (n,), and `masks` (n, H, W) if there are any."""
    names = [name for name in ("boxes", "labels", "masks") if name in targets]
    return [{name: targets[name][i][rows] for name in names} for i, rows in enumerate(is_object(targets))]


def is_object(targets: dict[str, Tensor]) -> Tensor:
    """Which rows (B, N) hold an object: not padding (label -1), crowds and empty boxes."""
    real = targets["labels"] >= 0
    crowd = targets["crowd"].bool() if "crowd" in targets else torch.zeros_like(real)
    solid = (targets["boxes"][..., 2:] > targets["boxes"][..., :2]).all(-1)  # an empty box has no logarithm of its size
    return real & solid & ~crowd


def detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int], masks: Tensor | None = None
) -> dict[str, Tensor]:
    """The best of an image's detections by falling score, boxes clipped to the image.

    Args:
        boxes: (N, 4), x0 y0 x1 y1 in pixels.
        scores: (N,).
        labels: (N,).
        size: (height, width) of the image.
        masks: (N, *size), bool, if there are any.
    """
    best = scores.argsort(descending=True, stable=True)[:MAX_DETECTIONS]
    limits = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    found: dict[str, Any] = {"boxes": boxes[best].float().clamp(min=0).minimum(limits)}
    found |= {"scores": scores[best].float(), "labels": labels[best]}
    return found if masks is None else found | {"masks": masks[best]}


def halving(levels: list[Tensor], size: tuple[int, int]) -> tuple[list[Tensor], tuple[float, float]]:
    """Levels padded at the bottom and the right so that each has exactly twice the sides of the next.

    Args:
        levels: maps (B, d, h, w), fine to coarse, each of half the resolution of the one before, odd sides rounded.
        size: (height, width) of the image.

    Returns:
        The levels, and the height and width in pixels that they cover: the image and its padding.
    """
    rows, columns = levels[0].shape[-2:]
    factor = 2 ** (len(levels) - 1)
    coarsest = math.ceil(rows / factor), math.ceil(columns / factor)
    padded = []
    for power, level in zip(reversed(range(len(levels))), levels, strict=True):
        bottom, right = (n * 2**power - have for n, have in zip(coarsest, level.shape[-2:], strict=True))
        padded.append(F.pad(level, (0, right, 0, bottom)) if right or bottom else level)
    return padded, (size[0] / rows * coarsest[0] * factor, size[1] / columns * coarsest[1] * factor)
