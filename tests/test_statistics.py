"""Intervals and tests against scipy.stats, and properties that hold for all inputs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sigma_ray.statistics import holm, mean_interval, paired_delta

SCORES = st.floats(0, 1, allow_subnormal=False)
PAIRS = st.dictionaries(st.integers(0, 9), st.tuples(SCORES, SCORES), min_size=2)
P_VALUES = st.lists(st.floats(0, 1), max_size=12)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_interval_is_that_of_scipy(n: int, confidence: float) -> None:
    """Student t over the values."""
    values = list(np.random.default_rng(n).normal(0.3, 0.01, n))
    low, high = stats.t.interval(confidence, n - 1, np.mean(values), stats.sem(values))
    interval = mean_interval(values, confidence)
    assert interval.n == n
    assert (interval.mean, interval.low, interval.high) == pytest.approx((np.mean(values), low, high), rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_paired_test_is_that_of_scipy(n: int) -> None:
    """Delta, interval and p of ttest_rel."""
    rng = np.random.default_rng(n)
    first, second = rng.normal(0.32, 0.02, n), rng.normal(0.3, 0.02, n)
    expected = stats.ttest_rel(first, second)
    low, high = expected.confidence_interval(0.95)
    found = paired_delta(dict(enumerate(first)), dict(enumerate(second)))
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.delta.low, found.delta.high) == pytest.approx((low, high), rel=1e-9)
    assert found.covers_zero == (expected.pvalue > 0.05)


def test_only_common_seeds_are_paired() -> None:
    """A seed that one arm lacks changes nothing."""
    arm, baseline = {0: 0.30, 1: 0.32, 2: 0.34, 7: 0.9}, {0: 0.29, 1: 0.30, 2: 0.31, 5: 0.1}
    assert paired_delta(arm, baseline) == paired_delta({s: arm[s] for s in (0, 1, 2)}, baseline)
    assert paired_delta(arm, baseline).delta.n == 3


def test_too_few_values_give_no_interval() -> None:
    """One value has a mean, none has nothing, and neither shows a difference."""
    assert mean_interval([0.3]).mean == 0.3
    assert math.isnan(mean_interval([0.3]).low)
    assert mean_interval([]).n == 0
    assert math.isnan(mean_interval([]).mean)
    single = paired_delta({0: 0.9}, {0: 0.1})
    assert math.isnan(single.p)
    assert math.isnan(single.delta.high)
    assert single.covers_zero
    assert paired_delta({0: 0.9}, {1: 0.1}).delta.n == 0


def test_equal_differences_have_no_spread() -> None:
    """The limits of the t test instead of a division by zero."""
    assert paired_delta({0: 1.5, 1: 2.5}, {0: 1.0, 1: 2.0}).p == 0
    assert paired_delta({0: 0.1, 1: 0.7}, {0: 0.1, 1: 0.7}).p == 1
    assert mean_interval([0.1, 0.1, 0.1]).low == mean_interval([0.1, 0.1, 0.1]).mean


@pytest.mark.parametrize("values", [[0.1, math.nan], [math.inf]])
def test_values_of_diverged_trials_are_refused(values: list[float]) -> None:
    """A NaN must not spread into a table unseen."""
    with pytest.raises(ValueError, match="must be finite"):
        mean_interval(values)


def test_confidence_is_checked() -> None:
    """95 is not 0.95."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval([0.1, 0.2], 95)


@given(pairs=PAIRS)
def test_swapping_arm_and_baseline_flips_the_sign(pairs: dict[int, tuple[float, float]]) -> None:
    """Antisymmetry of the interval, symmetry of p."""
    first, second = ({seed: pair[i] for seed, pair in pairs.items()} for i in (0, 1))
    there, back = paired_delta(first, second), paired_delta(second, first)
    assert there.delta.mean == pytest.approx(-back.delta.mean, abs=1e-12)
    assert there.delta.low == pytest.approx(-back.delta.high, abs=1e-12)
    assert there.p == pytest.approx(back.p)


@given(values=st.lists(SCORES, min_size=2, max_size=10), shift=st.sampled_from([-4.0, 0.5, 16.0]))
def test_a_shift_moves_the_interval_only(values: list[float], shift: float) -> None:
    """Mean and bounds move together, the width stays."""
    before, after = mean_interval(values), mean_interval([value + shift for value in values])
    assert after.mean == pytest.approx(before.mean + shift, abs=1e-9)
    assert after.high - after.low == pytest.approx(before.high - before.low, abs=1e-9)
    assert before.low <= before.mean <= before.high


def test_holm_by_hand() -> None:
    """Three comparisons: 3 x 0.01, 2 x 0.02, 1 x 0.03, then never falling."""
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]


def test_holm_leaves_untested_arms_out() -> None:
    """NaN is no comparison."""
    adjusted = holm([0.02, math.nan, 0.01])
    assert math.isnan(adjusted[1])
    assert adjusted[::2] == pytest.approx([0.02, 0.02])


@given(p_values=P_VALUES)
def test_holm_never_lowers_and_keeps_the_order(p_values: list[float]) -> None:
    """Adjusted values are at least p and at most 1, never above Bonferroni's, and as ordered as before."""
    adjusted = holm(p_values)
    for p, a in zip(p_values, adjusted, strict=True):
        assert p <= a <= min(1, max(p, len(p_values) * p))
    in_order = [a for _, a in sorted(zip(p_values, adjusted, strict=True))]
    assert in_order == sorted(in_order)
