"""Monocular depth: scale-invariant logarithmic loss, and the metrics of NYUv2 and KITTI.

The metrics' conventions are those of MMSegmentation's `DepthMetric` (a test compares them). They are kept here
because sums in the order of the images are exact over workers, and because importing MMSegmentation costs every
worker process five seconds.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sigma_ray.data import Info
from sigma_ray.parallel import WHOLE, Share, gathered

NAMES = ("absrel", "rmse", "log10", "d1", "d2", "d3")


def valid(target: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Pixels whose depth was measured and lies strictly between both bounds."""
    return (target > min_depth) & (target < max_depth)


def loss(
    prediction: Tensor,
    target: Tensor,
    share: Share = WHOLE,
    *,
    min_depth: float,
    max_depth: float,
    weight: float = 0.5,
) -> Tensor:
    """Scale-invariant logarithmic loss, a mean over the images that have valid pixels.

    With g = log(prediction) - log(target) on an image's valid pixels it is sqrt(mean(g^2) - weight mean(g)^2), here
    computed as sqrt(var(g) + (1 - weight) mean(g)^2), which cannot become negative by rounding.

    Source: Eigen et al., "Depth Map Prediction from a Single Image" (2014), equation 4, and its root, as Depth
    Anything and MMSegmentation's `SiLogLoss` have it. It is computed per image, so that it does not depend on how a
    batch is cut.

    Args:
        prediction: (B, H, W) metres, greater than 0.
        target: (B, H, W) metres, 0 where nothing was measured.
        share: what these images count for.
        min_depth: in metres; pixels at or below it do not count.
        max_depth: in metres; pixels at or beyond it do not count.
        weight: of the squared mean; 1 ignores the scale of an image altogether.

    Returns:
        A float32 scalar; 0 without valid pixels.
    """
    mask = valid(target, min_depth, max_depth)
    count = mask.sum(dim=(1, 2))
    prediction, target = prediction.float(), target.float()
    # Logarithms of pixels that do not count would bring infinities into the gradient.
    g = torch.where(mask, prediction, 1.0).log() - torch.where(mask, target, 1.0).log()
    mean = g.sum(dim=(1, 2)) / count.clamp(min=1)
    deviation = torch.where(mask, g - mean[:, None, None], 0.0)
    squared = deviation.square().sum(dim=(1, 2)) / count.clamp(min=1) + (1 - weight) * mean.square()
    # The root has no gradient at 0, where the loss is at its least.
    positive = squared > 0
    per_image = torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)
    mean_loss = per_image.sum() / (count > 0).sum().clamp(min=1)
    return mean_loss * share.weights(lambda step: _measured(step["depth"], min_depth, max_depth))["images"]


def _measured(target: Tensor, min_depth: float, max_depth: float) -> dict[str, Tensor]:
    """1 for every image with a valid pixel."""
    return {"images": valid(target, min_depth, max_depth).any(2).any(1)}


def resize(depth: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear resize of (B, h, w) to (B, *size), corners not aligned."""
    if depth.shape[-2:] == tuple(size):
        return depth
    return F.interpolate(depth[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


class Metric:
    """Errors per image, averaged over the images that have valid pixels; exact under any split over workers."""

    def __init__(self, info: Info, device: torch.device) -> None:
        self.info, self.device = info, device
        self.rows: list[Tensor] = []

    def update(self, predictions: Tensor, targets: dict[str, Any]) -> None:
        """Add a batch.

        Args:
            predictions: (B, H, W) metres; resized bilinearly to each target's size and clamped to the valid range.
            targets: `depth`, one (h, w) an image, 0 where nothing was measured; `index`, the images' numbers.

        Raises:
            ValueError: Eigen's crop on an image that is not 480 x 640.
        """
        for prediction, target, index in zip(predictions, targets["depth"], targets["index"], strict=True):
            target = target.to(self.device).float()
            prediction = resize(prediction.to(self.device).float()[None], target.shape)[0]
            values = _errors(*self._counted(prediction, target))
            self.rows.append(torch.cat([torch.tensor([float(index)], dtype=torch.float64), values.cpu()]))

    def compute(self) -> dict[str, float]:
        """`absrel`, `rmse` (metres), `log10`, and the shares `d1`, `d2`, `d3` of pixels within 1.25, 1.25^2, 1.25^3.

        All are NaN if no image has a valid pixel.
        """
        found = gathered(self.rows)
        rows = torch.stack(found) if found else torch.empty(0, 2 + len(NAMES), dtype=torch.float64)
        rows = rows[rows[:, 0].argsort()]
        means = rows[rows[:, 1] > 0, 2:].mean(dim=0)
        return dict(zip(NAMES, means.tolist(), strict=True))

    def _counted(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and target on the pixels that count, (N,) each."""
        low, high = self.info.min_depth, self.info.max_depth
        mask = valid(target, low, high)
        if self.info.depth_crop == "eigen":
            if target.shape != (480, 640):
                raise ValueError(
                    f"Eigen's crop must be taken of images of 480x640, but got {target.shape[0]}x{target.shape[1]}; "
                    "give depth at its original size or set depth_crop to none."
                )
            inside = torch.zeros_like(mask)
            inside[45:471, 41:601] = True
            mask = mask & inside
        return prediction.clamp(low, high)[mask], target[mask]


def _errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Number of pixels, then `NAMES`, in float64; ratios and logarithms in float32, as in MMSegmentation."""
    ratio = torch.maximum(target / prediction, prediction / target)
    difference = prediction - target
    means = [
        (difference.abs() / target).double().mean(),
        difference.square().double().mean().sqrt(),
        (prediction.log10() - target.log10()).abs().double().mean(),
        *((ratio < 1.25**power).double().mean() for power in (1, 2, 3)),
    ]
    return torch.stack([means[0].new_tensor(float(len(target))), *means])
