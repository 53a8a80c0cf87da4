"""Intervals and tests over seeds: Student's t, paired differences, the contest of the best with each, seeds that would decide.

Arrays may have any leading axes; the last one is the seeds, and nan is a seed that is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
"""The level of every interval."""

ALPHA = 0.05
"""The family-wise level of the tests, 1 - LEVEL."""

POWER = 0.80
"""The chance with which so many seeds as are asked for would decide."""

MOST_SEEDS = 1000
"""More seeds than these are not asked for."""


def spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count, mean and standard deviation (n - 1) of values, (..., n) -> (...) each; nan where there are too few."""
    values = np.asarray(values, float)
    known = np.isfinite(values)
    n = known.sum(-1)
    mean = np.where(known, values, 0.0).sum(-1) / np.where(n > 0, n, math.nan)
    squares = (np.where(known, values - mean[..., None], 0.0) ** 2).sum(-1)
    return n, mean, np.sqrt(squares / np.where(n > 1, n - 1, math.nan))


def half_width(values: np.ndarray) -> np.ndarray:
    """Half of the 95 % Student-t interval of the mean, (..., n) -> (...): t_{n-1, 0.975} sd / sqrt(n); nan for n < 2.

    >>> round(float(half_width(np.array([1.0, 2.0, 3.0]))), 4)   # sd 1, n 3, t 4.3027
    2.4841
    """
    values = np.asarray(values, float)
    n, _, sd = spread(values)
    size = np.where(np.isfinite(values), np.abs(values), 0.0).max(-1, initial=0.0)
    half = quantile(0.5 + LEVEL / 2, n) * sd / np.sqrt(np.maximum(n, 1))
    return np.where(_constant(values, size) & (n > 1), 0.0, half)


def quantile(share: float, n: np.ndarray | int) -> np.ndarray:
    """Student's t quantile for a mean of n values; nan for n < 2."""
    n = np.asarray(n)
    return np.where(n > 1, stats.t.ppf(share, np.maximum(n - 1, 1)), math.nan)


def paired(best: np.ndarray, other: np.ndarray, higher: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Difference other - best over the seeds that both have, (..., n) each: mean, half-width, P(best is better), two-sided p-value.

    The probability is the t posterior of the mean difference under a flat prior: the CDF of t_{n-1} at
    mean / standard error. Where all differences are equal it is 0.5 (no difference) or 1.
    All but the mean are nan for n < 2.
    """
    best, other = np.broadcast_arrays(np.asarray(best, float), np.asarray(other, float))
    difference = other - best
    n, mean, sd = spread(difference)
    size = np.fmax(np.abs(best), np.abs(other))
    size = np.where(np.isfinite(difference), size, 0.0).max(-1, initial=0.0)
    few = n < 2
    constant = _constant(difference, size) & ~few
    level = constant & (np.abs(mean) <= 1e-12 * size)
    error = np.where(constant | few | ~(sd > 0), math.nan, sd / np.sqrt(np.maximum(n, 1)))
    lead = np.where(level, 0.0, -mean if higher else mean)
    df = np.maximum(n - 1, 1)
    half = np.where(constant, 0.0, quantile(0.5 + LEVEL / 2, n) * error)
    probability = np.where(constant, np.where(level, 0.5, lead > 0), stats.t.cdf(lead / error, df))
    p_value = np.where(constant, np.where(level, 1.0, 0.0), 2 * stats.t.sf(np.abs(lead) / error, df))
    return np.where(level, 0.0, mean), half, np.where(few, math.nan, probability), np.where(few, math.nan, p_value)


def adjust(p_values: np.ndarray) -> np.ndarray:
    """P-values of the best of k against each of the k - 1 others, (..., k - 1), adjusted for the best having been picked in the same data.

    Step down: with m others undecided, the best and they make m (m + 1) / 2 pairs; so the sorted p-values are multiplied by
    m (m + 1) / 2 for m = k - 1, ..., 1, and never fall. None exceeds the largest of all unadjusted ones: that the best beats *every*
    other is one claim, held at its level by the two-sided test of each (Gutmann & Maymin 1987, "Is the selected population
    the best?"). nan stays nan and is not counted.

    >>> adjust(np.array([0.04, 0.01, 0.3])).round(3).tolist()   # sorted .01 .04 .3 times 6, 3, 1
    [0.12, 0.06, 0.3]
    >>> adjust(np.array([0.04, 0.01, 0.03])).round(3).tolist()  # every one below .05
    [0.04, 0.04, 0.04]
    """
    p_values = np.asarray(p_values, float)
    if not p_values.shape[-1]:
        return p_values
    order = np.argsort(p_values, axis=-1, kind="stable")  # nan last
    ranked = np.take_along_axis(p_values, order, -1)
    known = ~np.isnan(ranked)
    left = known.sum(-1, keepdims=True) - np.arange(ranked.shape[-1])
    steps = np.maximum.accumulate(np.where(known, np.minimum(1.0, ranked * left * (left + 1) / 2), 0.0), axis=-1)
    largest = np.where(known, ranked, 0.0).max(-1, keepdims=True)
    adjusted = np.empty_like(ranked)
    np.put_along_axis(adjusted, order, np.where(known, np.minimum(steps, largest), math.nan), -1)
    return adjusted


@dataclass(frozen=True)
class Contest:
    """The best of k optimizers against each; arrays (...,) or (..., k), nan at the best itself.

    best: its index. difference: mean of this - best over common seeds; half: of its 95 % interval. probability: that the
    best is better. p_value: two-sided, paired; adjusted: see `adjust`. seeds: common ones. sd: of the paired differences.
    won: whether every adjusted p-value is at most 0.05, which is so exactly where every 95 % interval leaves out 0.
    candidate: whether it is in the 95 % confidence set of the one that is truly the best, which is smaller than the set of those not
    told apart from the best seen: of these all but those with p_value x max(1, (k - 1) / 2) <= 0.05. (Were j truly the best, one of the
    k - 1 others would have to beat it at the one-sided level 0.05 / (k - 1): Bonferroni.)
    """

    best: np.ndarray
    difference: np.ndarray
    half: np.ndarray
    probability: np.ndarray
    p_value: np.ndarray
    adjusted: np.ndarray
    seeds: np.ndarray
    sd: np.ndarray
    won: np.ndarray
    candidate: np.ndarray


def contest(scores: np.ndarray, higher: bool = True, best: int | None = None) -> Contest:
    """The rule by which thalweg declares a winner, on scores (..., k optimizers, n seeds); best: its index, else by the mean.

    >>> found = contest(np.array([[0.90, 0.92, 0.91], [0.80, 0.83, 0.79]]))
    >>> int(found.best), bool(found.won), found.difference.round(3).tolist()
    (0, True, [nan, -0.103])
    """
    scores = np.asarray(scores, float)
    k = scores.shape[-2]
    _, mean, _ = spread(scores)
    worst = -math.inf if higher else math.inf
    ranked = np.where(np.isnan(mean), worst, mean)
    first = (ranked.argmax(-1) if higher else ranked.argmin(-1)) if best is None else np.full(mean.shape[:-1], best)
    leader = np.take_along_axis(scores, first[..., None, None], -2)  # (..., 1, n)
    n, _, sd = spread(scores - leader)
    own = np.arange(k) == first[..., None]
    difference, half, probability, p_value = (np.where(own, math.nan, one) for one in paired(leader, scores, higher))
    adjusted = adjust(p_value)
    won = np.where(own, True, adjusted <= ALPHA).all(-1) & (k > 1)
    rivals = (~np.isnan(p_value)).sum(-1, keepdims=True)
    out = (p_value * np.maximum(1.0, rivals / 2) <= ALPHA) | (adjusted <= ALPHA)
    return Contest(first, difference, half, probability, p_value, adjusted, n, sd, won, own | ~out)


# --- how many seeds would decide, and how far apart at most


def power(effect: np.ndarray, seeds: int) -> np.ndarray:
    """The chance that a two-sided 5 % paired t-test over so many seeds finds a true difference of `effect` standard
    deviations of the paired differences, in its direction: by the noncentral t distribution.

    >>> round(float(power(np.array(1.3), 10)), 3)
    0.954
    """
    effect = np.abs(np.asarray(effect, float))
    if seeds < 2:
        return np.zeros(effect.shape)
    shift = effect * math.sqrt(seeds)
    cut = stats.t.ppf(1 - ALPHA / 2, seeds - 1)
    sure = shift > cut + 12  # beyond what the noncentral t can be asked for
    return np.where(sure, 1.0, stats.nct.sf(cut, seeds - 1, np.where(sure, 0.0, shift)))


def seeds_needed(effects: np.ndarray, least: int = 2) -> int | None:
    """The fewest seeds with which the best beats every other with 80 % chance, were the differences seen the true ones.

    effects (m,): |difference| / sd of the paired differences to each other. The chance that one is missed is at most the sum of the
    chances for each, so that sum is at most 0.2. None where more than 1,000 would be needed.

    >>> seeds_needed(np.array([1.0])), seeds_needed(np.array([1.0, 1.0])), seeds_needed(np.array([0.0]))
    (10, 13, None)
    """
    effects = np.asarray(effects, float)

    def enough(n: int) -> bool:
        return float((1 - power(effects, n)).sum()) <= 1 - POWER + 1e-9

    if not enough(MOST_SEEDS):
        return None
    low, high = max(2, least) - 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def at_most(difference: np.ndarray, sd: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The smallest margin within which two one-sided 5 % t-tests call two optimizers equivalent: |d| + t_{n-1, 0.95} sd / sqrt(n).

    Schuirmann 1987; the 90 % interval of the difference lies within +- this.

    >>> round(float(at_most(np.array(-1.0), np.array(2.0), np.array(4))), 4)   # 1 + 2.3534 * 2 / 2
    3.3534
    """
    return np.abs(difference) + quantile(LEVEL, seeds) * sd / np.sqrt(np.maximum(seeds, 1))


def binomial(share: float, rows: int) -> float:
    """Half of the 95 % interval of a share of `rows` rows: 1.96 sqrt(p (1 - p) / n); at 0 or 1 the rule of three.

    >>> round(binomial(0.9, 100), 4), binomial(1.0, 100)   # 1.96 * 0.03, 3 / 100
    (0.0588, 0.03)
    """
    return min(1.0, 3 / rows) if share in (0, 1) else 1.959964 * math.sqrt(max(share * (1 - share), 0.0) / rows)


def _constant(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Whether values, (..., n), differ by no more than rounding, at the size of the numbers they come from."""
    known = np.isfinite(values)
    high = np.where(known, values, -math.inf).max(-1, initial=-math.inf)
    low = np.where(known, values, math.inf).min(-1, initial=math.inf)
    with np.errstate(invalid="ignore"):
        return np.where(known.any(-1), high - low, 0.0) <= 1e-12 * np.abs(scale)
