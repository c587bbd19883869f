"""Intervals and paired comparisons over seeds, with Student's t because seeds are few.

SciPy's special functions give the t distribution (0.4 s to import; `scipy.stats` takes 1.3 s).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its confidence interval; the bounds are NaN for fewer than 2 values, the mean for none."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Paired difference to a baseline, with the two-sided p value of no difference (NaN below 2 pairs)."""

    delta: Interval
    p: float

    @property
    def covers_zero(self) -> bool:
        """Whether the data do not show a difference; also true when the interval is undefined."""
        return not (self.delta.low > 0 or self.delta.high < 0)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of `values` with its t interval, mean +- t(n-1) * s / sqrt(n).

    Raises:
        ValueError: `confidence` is not between 0 and 1, or a value is not finite.
    """
    import numpy as np
    from scipy.special import stdtrit

    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, but got {confidence!r}; use 0.95.")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"Values must be finite, but got {list(values)!r}; leave out trials that diverged.")
    n = len(values)
    if n == 0:
        return Interval(mean=math.nan, low=math.nan, high=math.nan, n=0)
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean=mean, low=math.nan, high=math.nan, n=1)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * _standard_error(values)
    return Interval(mean=mean, low=mean - half, high=mean + half, n=n)


def paired_delta(
    values_by_seed: Mapping[int, float], baseline_by_seed: Mapping[int, float], confidence: float = 0.95
) -> Comparison:
    """Mean difference to the baseline over the seeds both have, with the paired t test.

    Pairing by seed removes what a seed does to both. Differences without any spread have p = 0, or p = 1 when
    they are all zero.
    """
    from scipy.special import stdtr

    common = sorted(values_by_seed.keys() & baseline_by_seed.keys())
    differences = [values_by_seed[seed] - baseline_by_seed[seed] for seed in common]
    delta = mean_interval(differences, confidence)
    if delta.n < 2:
        return Comparison(delta=delta, p=math.nan)
    error = _standard_error(differences)
    if error == 0:
        return Comparison(delta=delta, p=0.0 if delta.mean else 1.0)
    return Comparison(delta=delta, p=2 * float(stdtr(delta.n - 1, -abs(delta.mean / error))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment for several comparisons (Holm 1979), in the order given.

    NaN (no test was possible) stays NaN and does not count as a comparison.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = largest
    return adjusted


def _standard_error(values: Sequence[float]) -> float:
    """Standard error s / sqrt(n), s the sample standard deviation; exactly 0 for equal values."""
    import numpy as np

    return 0.0 if min(values) == max(values) else float(np.std(values, ddof=1)) / math.sqrt(len(values))
