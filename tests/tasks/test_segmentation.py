"""Loss and metric against PyTorch's and MMSegmentation's."""

import math

import pytest
import torch
from torch.nn import functional as F

from sigma_ray.data import Info
from sigma_ray.heads._mmcv_ops import install
from sigma_ray.tasks import segmentation

CLASSES, IGNORE = 6, 255


def make(classes=CLASSES):
    info = Info(image_size=(9, 7), num_classes=classes, ignore_index=IGNORE)
    return segmentation.Metric(info, torch.device("cpu"))


def sample(seed, absent):
    """Predictions and masks with ignored pixels; `absent` classes occur in neither."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, CLASSES, 9, 7, generator=generator)
    mask = torch.randint(0, CLASSES, (4, 9, 7), generator=generator)
    for index in absent:
        logits[:, index] = -100
        mask[mask == index] = 0
    if seed % 2:
        mask[mask == 1] = 2  # class 1 is predicted and never labelled
    mask[torch.rand(mask.shape, generator=generator) < 0.3] = IGNORE
    return logits, mask


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("absent", [(), (5,), (0, 3)])
def test_the_metric_is_that_of_mmsegmentation(seed, absent):
    install()
    from mmseg.evaluation.metrics.iou_metric import IoUMetric

    logits, mask = sample(seed, [c for c in absent if c])
    areas = IoUMetric.intersect_and_union(logits.argmax(1), mask, CLASSES, IGNORE)
    theirs = IoUMetric.total_area_to_metrics(*areas)
    metric = make()
    for start in (0, 1, 3):  # in uneven batches
        stop = {0: 1, 1: 3, 3: 4}[start]
        metric.update(logits[start:stop], {"mask": mask[start:stop]})
    ours = metric.compute()
    wanted = {
        key: torch.from_numpy(theirs[name]).double().nanmean().item()
        for key, name in (("miou", "IoU"), ("macc", "Acc"), ("aacc", "aAcc"))
    }
    assert ours == pytest.approx(wanted, abs=1e-6)
    assert 0 < ours["miou"] < 1


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_the_mean_over_labelled_pixels(seed):
    logits, mask = sample(seed, [])
    ours = segmentation.loss(logits, mask, ignore_index=IGNORE)
    torch.testing.assert_close(ours, F.cross_entropy(logits, mask, ignore_index=IGNORE))
    small = logits[..., ::2, ::2]
    resized = F.interpolate(small, size=(9, 7), mode="bilinear")
    ours = segmentation.loss(small, mask, ignore_index=IGNORE)
    torch.testing.assert_close(ours, F.cross_entropy(resized, mask, ignore_index=IGNORE))


def test_without_labels_the_loss_is_zero_and_the_metric_undefined():
    logits, mask = torch.randn(2, 3, 4, 4, requires_grad=True), torch.full((2, 4, 4), IGNORE)
    loss = segmentation.loss(logits, mask, ignore_index=IGNORE)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
    metric = make(3)
    metric.update(logits, {"mask": mask})
    assert all(math.isnan(value) for value in metric.compute().values())


def test_images_of_several_sizes_are_judged_at_their_own():
    logits, _ = sample(0, [])
    sizes = [(9, 7), (20, 15), (5, 8), (9, 14)]
    masks = [torch.randint(0, CLASSES, size, generator=torch.Generator().manual_seed(3)) for size in sizes]
    ours, wanted = make(), make()
    ours.update(logits, {"mask": masks})
    for scores, mask in zip(logits, masks, strict=True):
        resized = F.interpolate(scores[None], size=mask.shape, mode="bilinear", align_corners=False)
        wanted.update(resized, {"mask": mask[None]})
    assert torch.equal(ours.confusion, wanted.confusion)
    assert ours.confusion.sum() == sum(mask.numel() for mask in masks)


def test_lists_and_stacks_count_the_same():
    logits, mask = sample(1, [])
    stacked, listed = make(), make()
    stacked.update(logits, {"mask": mask})
    listed.update(list(logits), {"mask": list(mask)})
    assert torch.equal(stacked.confusion, listed.confusion)
