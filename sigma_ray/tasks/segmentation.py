"""Semantic segmentation: pixel cross-entropy and mIoU.

The metric's numbers equal those of MMSegmentation's `IoUMetric` (a test compares them); it is kept here because a
confusion matrix sums exactly over workers and needs none of the five seconds that importing MMSegmentation costs
every worker process.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from sigma_ray.data import Info


def loss(logits: Tensor, mask: Tensor, *, ignore_index: int) -> Tensor:
    """Mean cross-entropy over the pixels that are not ignored.

    Args:
        logits: (B, C, h, w) at any resolution; resized bilinearly to the mask's.
        mask: (B, H, W) class ids.
        ignore_index: id of pixels without a label. A batch with none but those has loss 0.
    """
    logits = resize(logits, mask.shape[-2:])
    total = F.cross_entropy(logits, mask, ignore_index=ignore_index, reduction="sum")
    return total / (mask != ignore_index).sum().clamp(min=1)


def resize(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear resize of (B, C, h, w) to (B, C, *size), corners not aligned."""
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


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
            self._count(resize(scores[None], mask.shape)[0].argmax(0), mask)

    def _count(self, prediction: Tensor, mask: Tensor) -> None:
        keep = mask != self.ignore_index
        pairs = mask[keep] * self.num_classes + prediction[keep]
        self.confusion += torch.bincount(pairs, minlength=self.num_classes**2).view_as(self.confusion)

    def compute(self) -> dict[str, float]:
        """`miou`, `macc` (means over the classes that occur) and `aacc`, each in [0, 1].

        A class counts for mIoU when it occurs in the labels or the predictions and for mAcc when it occurs in the
        labels, as in MMSegmentation (nan-mean).
        """
        confusion = self.confusion.clone()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(confusion)
        hits, labels = confusion.diag().double(), confusion.sum(1).double()
        union = labels + confusion.sum(0) - hits
        return {
            "miou": (hits / union).nanmean().item(),
            "macc": (hits / labels).nanmean().item(),
            "aacc": (hits.sum() / labels.sum()).item(),
        }
