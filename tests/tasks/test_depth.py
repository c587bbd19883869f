"""Loss and metric against MMSegmentation's, and what holds for all inputs."""

import math
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sigma_ray.data import Info
from sigma_ray.heads._mmcv_ops import install
from sigma_ray.tasks import TASKS, depth

INFO = Info(image_size=(12, 16), min_depth=1e-3, max_depth=10.0)
NAMES = ("absrel", "rmse", "log10", "d1", "d2", "d3")
seeds = st.integers(0, 2**31)


def sample(seed, count=5, size=(12, 16)):
    """Predictions near targets, some beyond the range; a third of the pixels without a measurement."""
    generator = torch.Generator().manual_seed(seed)
    target = 0.1 + 12 * torch.rand(count, *size, generator=generator)
    prediction = target * torch.exp(0.4 * torch.randn(target.shape, generator=generator))
    target[torch.rand(target.shape, generator=generator) < 0.3] = 0
    return prediction, target


def score(prediction, targets, info=INFO, order=None):
    metric = depth.Metric(info, torch.device("cpu"))
    for index in order if order is not None else range(len(prediction)):
        metric.update(prediction[index : index + 1], {"depth": [targets[index]], "index": [index]})
    return metric.compute()


def reference(prediction, targets, **options):
    install()
    from mmseg.evaluation import DepthMetric

    metric = DepthMetric(min_depth_eval=1e-3, max_depth_eval=10.0, **options)
    pairs = zip(prediction.clamp(1e-3, 10), targets, strict=True)
    metric.process({}, [{"pred_depth_map": {"data": p}, "gt_depth_map": {"data": t}} for p, t in pairs])
    theirs = metric.compute_metrics(metric.results)
    return {name: theirs[{"absrel": "abs_rel"}.get(name, name)] for name in NAMES}


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.2, 5))
def test_the_metric_is_that_of_mmsegmentation(seed, factor):
    prediction, target = sample(seed)
    assert score(prediction * factor, target) == pytest.approx(reference(prediction * factor, target), rel=1e-5)


def test_ties_of_the_thresholds_are_decided_as_in_mmsegmentation():
    target = torch.tensor([0.8, 4.0, 1.6, 3.2, 6.4, 0.1]).repeat(1, 6, 1)
    prediction = target * torch.tensor([1.25, 0.8, 1.25**2, 0.64, 1.25**3, 1.0]).view(1, 6, 1)
    assert score(prediction, target) == pytest.approx(reference(prediction, target), rel=1e-6)


def test_eigens_crop_is_mmsegmentations():
    prediction, target = sample(1, 2, (480, 640))
    prediction[:, :45] *= 3
    cropped = score(prediction, target, Info(image_size=(480, 640), depth_crop="eigen"))
    assert cropped == pytest.approx(reference(prediction, target, crop_type="nyu_crop"), rel=1e-5)
    assert cropped["absrel"] < 0.9 * score(prediction, target)["absrel"]
    with pytest.raises(ValueError, match="images of 480x640, but got 12x16"):
        score(*sample(1), Info(image_size=(12, 16), depth_crop="eigen"))


def test_predictions_are_resized_to_the_targets():
    prediction, _ = sample(0, 3)
    targets = [sample(i, 1, size)[1][0] for i, size in enumerate([(24, 32), (12, 16), (7, 30)])]
    metric = depth.Metric(INFO, torch.device("cpu"))
    metric.update(prediction, {"depth": targets, "index": [0, 1, 2]})
    singles = []
    for p, target in zip(prediction, targets, strict=True):
        resized = F.interpolate(p[None, None], size=target.shape, mode="bilinear", align_corners=False)[0]
        singles.append(reference(resized, [target]))
    wanted = {name: sum(single[name] for single in singles) / 3 for name in NAMES}
    assert metric.compute() == pytest.approx(wanted, rel=1e-5)


def test_images_without_valid_pixels_are_skipped():
    prediction, target = sample(2)
    wanted = score(prediction[1:], target[1:])
    target[0] = 0
    assert score(prediction, target) == wanted
    target[0] = 10  # at the bound: not counted
    assert score(prediction, target) == wanted
    assert all(math.isnan(value) for value in score(prediction, torch.zeros_like(target)).values())
    assert all(math.isnan(value) for value in depth.Metric(INFO, torch.device("cpu")).compute().values())


def test_a_prediction_that_is_not_a_number_is_not_skipped():
    prediction, target = sample(2)
    prediction[0] = math.nan
    assert math.isnan(score(prediction, target)["absrel"])


@settings(max_examples=25, deadline=None)
@given(seeds, st.permutations(range(5)))
def test_the_order_of_images_does_not_matter(seed, order):
    assert score(*sample(seed), order=order) == score(*sample(seed))


def test_a_perfect_prediction():
    _, target = sample(0)
    assert score(target, target) == {"absrel": 0, "rmse": 0, "log10": 0, "d1": 1, "d2": 1, "d3": 1}
    assert TASKS["depth"].metric in NAMES


def worker(rank, folder, world):
    torch.set_num_threads(1)
    init = f"file://{folder}/rendezvous{world}"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=world, timeout=timedelta(seconds=120))
    try:
        prediction, target = sample(7, 7)
        target[2] = 0
        torch.save(score(prediction, target, order=range(rank, 7, world)), f"{folder}/{rank}.pt")
        if rank == 0:  # the other one has seen nothing
            metric = depth.Metric(INFO, torch.device("cpu"))
            metric.update(prediction, {"depth": target, "index": torch.arange(7)})
        else:
            metric = depth.Metric(INFO, torch.device("cpu"))
        torch.save(metric.compute(), f"{folder}/{rank}-uneven.pt")
    finally:
        dist.destroy_process_group()


def test_two_workers_agree_with_one_bit_by_bit(tmp_path):
    prediction, target = sample(7, 7)
    target[2] = 0
    wanted = score(prediction, target)
    mp.spawn(worker, args=(str(tmp_path), 2), nprocs=2)
    for name in ("0", "1", "0-uneven", "1-uneven"):
        assert torch.load(tmp_path / f"{name}.pt") == wanted, name


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_the_loss_is_mmsegmentations(seed):
    install()
    from mmseg.models.losses.silog_loss import silog_loss

    prediction, target = sample(seed)
    target = target.clamp(max=9.99)
    ours = depth.loss(prediction, target, min_depth=1e-3, max_depth=10.0)
    torch.testing.assert_close(ours, silog_loss(prediction, target, eps=1e-3))


@settings(max_examples=25, deadline=None)
@given(seeds, st.floats(0.1, 10))
def test_the_loss_of_a_wrong_scale(seed, factor):
    prediction, target = sample(seed)
    loss = depth.loss(factor * target.clamp(min=1), target, min_depth=1.0, max_depth=10.0)
    assert loss.item() == pytest.approx(math.sqrt(0.5) * abs(math.log(factor)), abs=1e-5)
    whole = [
        depth.loss(p, target, min_depth=1.0, max_depth=10.0, weight=1.0).item()
        for p in (prediction, factor * prediction)
    ]
    assert whole[0] == pytest.approx(whole[1], rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_the_loss_counts_valid_pixels_only(seed):
    prediction, target = sample(seed)
    other = prediction.clone()
    other[(target < 1) | (target > 9)] = 0.0
    losses = [depth.loss(p, target, min_depth=1.0, max_depth=9.0) for p in (prediction, other)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("case", ["empty", "partly", "perfect", "constant", "one pixel"])
def test_gradients_are_finite(case):
    prediction, target = sample(0, 2)
    if case == "empty":
        target.zero_()
    elif case == "partly":
        target[0] = 0
    elif case == "perfect":
        prediction = target.clamp(min=0.1)
    elif case == "constant":
        prediction, target = torch.full((2, 4, 4), 3.0), torch.full((2, 4, 4), 2.0)
    else:
        target.zero_()
        target[:, 3, 4] = 2.0
    prediction = prediction.clone().requires_grad_()
    loss = depth.loss(prediction, target, min_depth=1e-3, max_depth=10.0)
    loss.backward()
    assert loss.isfinite() and prediction.grad.isfinite().all()
    assert (loss.item() == 0) == (case in ("empty", "perfect"))


def test_images_without_valid_pixels_do_not_dilute_the_loss():
    prediction, target = sample(0, 2)
    wanted = depth.loss(prediction[:1], target[:1], min_depth=1e-3, max_depth=10.0)
    target[1] = 0
    assert torch.equal(depth.loss(prediction, target, min_depth=1e-3, max_depth=10.0), wanted)


def test_the_loss_is_computed_in_float32():
    prediction, target = sample(0)
    loss = depth.loss(prediction.bfloat16(), target, min_depth=1e-3, max_depth=10.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, depth.loss(prediction.bfloat16().float(), target, min_depth=1e-3, max_depth=10.0))
