"""Labels do not collide, curves are true means, class colours are fixed."""

import math

import numpy as np
import pytest

from sigma_ray import figures
from sigma_ray.report import ArmRow

METRIC = "test/miou"


def arm_row(arm: str, *, parameters: int, mean: float) -> ArmRow:
    """An arm of three seeds with an interval of 0.01 around its mean."""
    return ArmRow(
        arm=arm,
        difference="",
        baseline=False,
        n=3,
        n_failed=0,
        mean=mean,
        ci_low=mean - 0.01,
        ci_high=mean + 0.01,
        n_pairs=0,
        delta=math.nan,
        delta_low=math.nan,
        delta_high=math.nan,
        p=math.nan,
        p_holm=math.nan,
        verdict="too few seeds",
        trainable_parameters=parameters,
        seconds=10.0,
        peak_memory_bytes=10**8,
    )


def test_an_arm_without_parameters_stands_at_zero():
    rows = [arm_row("fixed", parameters=0, mean=0.2), arm_row("sigma", parameters=1000, mean=0.3)]
    axes = figures.metric_vs_parameters(rows, METRIC).axes[0]
    labels = {text.get_text(): x for text, x in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
    drawn = {float(x) for line in axes.lines for x in line.get_xdata()}
    assert labels["0"] == 250 and {250, 1000} <= drawn and "1k" in labels


def test_a_single_arm_and_no_arm() -> None:
    """One point is a figure; none is no figure."""
    figure = figures.metric_vs_parameters([arm_row("sigma", parameters=1000, mean=0.3)], METRIC)
    assert figure is not None
    assert figures.png(figure).startswith(b"\x89PNG")
    assert figures.metric_vs_parameters([], METRIC) is None
    assert figures.training_curves({}, ["sigma"], METRIC) is None
    assert figures.predictions({}, ["sigma"]) is None


def test_every_label_of_a_crowd_is_apart_from_the_others() -> None:
    """Ten arms with nearly the same parameters and scores."""
    crowd = [arm_row(f"kernels {i},{i + 2}", parameters=60_000 + 300 * i, mean=0.3 + i / 2000) for i in range(10)]
    figure = figures.metric_vs_parameters(crowd, METRIC)
    assert figure is not None
    figures.png(figure)
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(texts) == 10
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_curves_of_unequal_length_are_averaged_where_all_seeds_are() -> None:
    """A seed that ended early shortens the arm's curve instead of bending it."""
    curves = {("sigma", 0): [(1, 0.1), (2, 0.2), (3, 0.3)], ("sigma", 1): [(1, 0.3), (2, 0.4)]}
    figure = figures.training_curves(curves, ["sigma", "fixed"], METRIC)
    assert figure is not None
    (line,) = figure.axes[0].lines
    assert np.asarray(line.get_xydata()) == pytest.approx(np.array([[1, 0.2], [2, 0.3]]))
    assert figure.axes[0].get_ylabel().startswith("val/miou")
