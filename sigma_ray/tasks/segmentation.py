"""Semantic segmentation: pixel cross-entropy and mIoU.

The metric's numbers equal those of MMSegmentation's `IoUMetric` (a test compares them); it is kept here because a
confusion matrix sums exactly over workers and needs none of the five seconds that importing MMSegmentation costs
every worker process.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sigma_ray.data import Info
from sigma_ray.parallel import WHOLE, Share, summed

_CHUNK = 16  # classes resized at once


def loss(logits: Tensor, mask: Tensor, share: Share = WHOLE, *, ignore_index: int) -> Tensor:
    """Mean cross-entropy over the pixels that are not ignored.

    Args:
        logits: (B, C, h, w) at any resolution; resized bilinearly to the mask's.
        mask: (B, H, W) class ids.
        share: what these images count for.
        ignore_index: id of pixels without a label. A batch with none but those has loss 0.
    """
    logits = resize(logits, mask.shape[-2:])
    total = F.cross_entropy(logits, mask, ignore_index=ignore_index, reduction="sum")
    mean = total / (mask != ignore_index).sum().clamp(min=1)
    labelled = share.weights(lambda step: {"pixels": (step["mask"] != ignore_index).sum((1, 2))})
    return mean * labelled["pixels"]


def resize(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear resize of (B, C, h, w) to (B, C, *size), corners not aligned."""
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def best_class(scores: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """The class (*size) of highest score, of scores (C, h, w) resized bilinearly; the first one of equals.

    Some classes at a time: 150 of them at the original size of a large photo would take gigabytes.
    """
    if scores.shape[-2:] == tuple(size):
        return scores.argmax(0)
    best, chosen = resize(scores[None, :_CHUNK], size)[0].max(0)
    for first in range(_CHUNK, len(scores), _CHUNK):
        values, classes = resize(scores[None, first : first + _CHUNK], size)[0].max(0)
        chosen = torch.where(values > best, classes + first, chosen)
        best = best.maximum(values)
    return chosen


class Metric:
    """Confusion matrix over a data split; exact under any split of the images over workers."""

    def __init__(self, info: Info, device: torch.device) -> None:
        self.num_classes, self.ignore_index = info.num_classes, info.ignore_index
        self.confusion = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64, device=device)

    def update(self, logits: Tensor | Sequence[Tensor], targets: dict[str, Any]) -> None:
        """Count a batch.

        Args:
            logits: (B, C, H, W), or one (C, h, w) an image.
            targets: `mask`, (B, H, W) or one (h, w) an image; the logits are resized bilinearly to its size.
        """
        masks = targets["mask"]
        if isinstance(logits, Tensor) and isinstance(masks, Tensor) and logits.shape[-2:] == masks.shape[-2:]:
            self._count(logits.argmax(1), masks)
            return
        for scores, mask in zip(logits, masks, strict=True):
            self._count(best_class(scores, mask.shape), mask)

    def _count(self, prediction: Tensor, mask: Tensor) -> None:
        keep = mask != self.ignore_index
        pairs = mask[keep] * self.num_classes + prediction[keep]
        self.confusion += torch.bincount(pairs, minlength=self.num_classes**2).view_as(self.confusion)

    def compute(self) -> dict[str, float]:
        """`miou`, `macc` (means over the classes that occur) and `aacc`, each in [0, 1].

        A class counts for mIoU when it occurs in the labels or the predictions and for mAcc when it occurs in the
        labels, as in MMSegmentation (nan-mean).
        """
        confusion = summed(self.confusion)
        hits, labels = confusion.diag().double(), confusion.sum(1).double()
        union = labels + confusion.sum(0) - hits
        return {
            "miou": (hits / union).nanmean().item(),
            "macc": (hits / labels).nanmean().item(),
            "aacc": (hits.sum() / labels.sum()).item(),
        }
