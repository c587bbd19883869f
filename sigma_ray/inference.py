"""Predictions for images as a split gives them: one batch, or pictures of different sizes.

A model takes images whose sides are multiples of its stride. Pictures of other sizes are padded on the right and below
with `PADDING`, and what is predicted there is cut off; or windows of one size slide over them and their scores are
averaged where they overlap, as in MMSegmentation's `slide_inference`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sigma_ray.data import Info
from sigma_ray.data._info import PADDING

MAX_WINDOWS = 16
"""Windows that go through the model at once."""


def predict(model: Any, images: Tensor | Sequence[Tensor], info: Info) -> Any:
    """What `model` predicts for `images`.

    Args:
        model: called on uint8 (B, 3, H, W); its `backbone.stride` says which sizes it takes.
        images: uint8 (B, 3, H, W), which go to the model as they are (unless windows slide over them), or one
            (3, h, w) an image for segmentation.
        info: `window_stride` chooses sliding windows of `image_size`.

    Returns:
        The head's prediction; for images of their own sizes, or with windows, a list of scores (C, h, w).
    """
    if info.window_stride is not None:
        return [_slide(model, image, info.image_size, info.window_stride) for image in images]
    if isinstance(images, Tensor):
        return model(images)
    stride = model.backbone.stride
    sizes = [tuple(-(-side // stride) * stride for side in image.shape[-2:]) for image in images]
    scores: list[Any] = [None] * len(images)
    for size in dict.fromkeys(sizes):  # pictures of one padded size go together
        rows = [row for row, other in enumerate(sizes) if other == size]
        found = model(torch.stack([pad(images[row], size) for row in rows]))
        for row, score in zip(rows, found, strict=True):
            scores[row] = score[:, : images[row].shape[-2], : images[row].shape[-1]]
    return scores


def _slide(
    model: Callable[[Tensor], Tensor], image: Tensor, window: tuple[int, int], stride: tuple[int, int]
) -> Tensor:
    """Mean scores (C, h, w) of all windows that see a pixel of `image` (3, h, w)."""
    height, width = image.shape[-2:]
    size = max(height, window[0]), max(width, window[1])
    padded = pad(image, size)
    places = [
        (top, left) for top in _starts(size[0], window[0], stride[0]) for left in _starts(size[1], window[1], stride[1])
    ]
    total: Any = None
    counts = torch.zeros(size, device=image.device)
    for first in range(0, len(places), MAX_WINDOWS):
        chunk = places[first : first + MAX_WINDOWS]
        views = [padded[:, top : top + window[0], left : left + window[1]] for top, left in chunk]
        for (top, left), score in zip(chunk, model(torch.stack(views)), strict=True):
            if total is None:
                total = torch.zeros((len(score), *size), device=score.device)
            total[:, top : top + window[0], left : left + window[1]] += score
            counts[top : top + window[0], left : left + window[1]] += 1
    return (total / counts)[:, :height, :width]


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side; the last ends where the picture does."""
    steps = -(-max(length - window, 0) // stride)
    return [min(step * stride, length - window) for step in range(steps + 1)]


def pad(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """`image` (3, h, w) in the upper left of a picture of `size`."""
    if image.shape[-2:] == size:
        return image
    padded = torch.tensor(PADDING, dtype=image.dtype, device=image.device)[:, None, None].repeat(1, *size)
    padded[:, : image.shape[-2], : image.shape[-1]] = image
    return padded
