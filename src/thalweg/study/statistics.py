"""Intervals and tests over seeds: Student's t, paired differences, Holm's adjustment."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

LEVEL = 0.95
"""The level of every interval."""

ALPHA = 0.05
"""The family-wise level of the tests, 1 - LEVEL."""


def half_width(values: np.ndarray) -> float:
    """Half of the 95 % Student-t interval of the mean of `values`, (n,): t_{n-1, 0.975} sd / sqrt(n); nan for n < 2.

    >>> round(half_width(np.array([1.0, 2.0, 3.0])), 4)   # sd 1, n 3, t 4.3027
    2.4841
    """
    n = len(values)
    if n < 2:
        return math.nan
    if _constant(values, values):
        return 0.0
    return float(stats.t.ppf(0.5 + LEVEL / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def paired(best: np.ndarray, other: np.ndarray, higher: bool) -> tuple[float, float, float, float]:
    """Difference other - best over the same seeds, (n,) each: mean, half-width, P(best is better), two-sided p-value.

    The probability is the t posterior of the mean difference under a flat prior: the CDF of t_{n-1} at
    mean / standard error. Where all differences are equal it is 0.5 (no difference) or 1.
    All but the mean are nan for n < 2.
    """
    difference = other - best
    n = len(difference)
    if n == 0:
        return math.nan, math.nan, math.nan, math.nan
    mean = float(np.mean(difference))
    if n == 1:
        return mean, math.nan, math.nan, math.nan
    lead = -mean if higher else mean
    both = np.concatenate([best, other])
    if _constant(difference, both):
        if abs(mean) <= 1e-12 * float(np.max(np.abs(both))):
            return 0.0, 0.0, 0.5, 1.0
        return mean, 0.0, float(lead > 0), 0.0
    error = float(np.std(difference, ddof=1)) / math.sqrt(n)
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return mean, half_width(difference), float(stats.t.cdf(lead / error, n - 1)), p


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment, (m,) -> (m,); nan stays nan and is not counted. Holm 1979.

    >>> holm(np.array([0.04, 0.01, 0.03])).round(3).tolist()   # sorted .01 .03 .04 times 3, 2, 1, then never falling
    [0.06, 0.03, 0.06]
    """
    adjusted = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    if len(order):
        factors = len(order) - np.arange(len(order))
        adjusted[order] = np.maximum.accumulate(np.minimum(1.0, p_values[order] * factors))
    return adjusted


def binomial(share: float, rows: int) -> float:
    """Half of the 95 % interval of a share of `rows` rows: 1.96 sqrt(p (1 - p) / n); at 0 or 1 the rule of three.

    >>> round(binomial(0.9, 100), 4), binomial(1.0, 100)   # 1.96 * 0.03, 3 / 100
    (0.0588, 0.03)
    """
    return min(1.0, 3 / rows) if share in (0, 1) else 1.959964 * math.sqrt(max(share * (1 - share), 0.0) / rows)


def _constant(values: np.ndarray, scale: np.ndarray) -> bool:
    """Whether values differ by no more than rounding, at the size of the numbers they come from."""
    return bool(np.ptp(values) <= 1e-12 * np.max(np.abs(scale)))
