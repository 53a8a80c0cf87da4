"""An optimizer's tuning trials as arrays: what trying more of them brings, and how much the chosen one owes to luck."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.study.results import Curve, Results
from thalweg.study.standings import identity

BAND = 0.8
"""The share of resampled searches within a band: from the 10 % to the 90 % quantile."""


@dataclass(frozen=True)
class Pool:
    """The trials of one optimizer, (trials,) each; of a sweep its settings, averaged over seeds.

    score: on the validation rows (training loss where a sweep used all rows), nan unless the run is done and its score
    finite. rate: its step size, nan where it has none. name: what the step size is called. status: "done", "diverged" or
    "stopped" (of a sweep's setting: "done" when all its seeds are). varied: other hyperparameters that differ between trials.
    """

    optimizer: str
    score: np.ndarray
    rate: np.ndarray
    name: str
    status: tuple[str, ...]
    varied: tuple[str, ...]
    higher: bool


def step_size(config: Mapping[str, Any], curve: Curve | None) -> tuple[str, float | None]:
    """The hyperparameter that sizes a step, and its value: lr, else scale, else the largest rate that the curve recorded.

    >>> step_size({"lr": 0.1, "beta1": 0.9}, None), step_size({}, None)
    (('lr', 0.1), ('lr', None))
    """
    for name in ("lr", "scale"):
        if isinstance(config.get(name), int | float):
            return name, float(config[name])
    rates = np.asarray(curve.lr, float) if curve is not None else np.array([])
    rates = rates[np.isfinite(rates)]
    return "lr", float(rates.max()) if len(rates) else None


def pool(results: Results, optimizer: str) -> Pool:
    """The trials of one optimizer, in their order. Test scores play no part."""
    runs, sweep = results.runs, results.kind == "sweep"
    column = "train_loss" if sweep and results.all_rows else f"valid_{results.score}"
    rows = runs[(runs["optimizer"] == optimizer) & (runs["phase"] == ("sweep" if sweep else "tune"))] if len(runs) else runs
    cells: dict[str, list[dict[Any, Any]]] = {}
    for row in rows.to_dict("records"):
        cells.setdefault(identity(row["config"]) if sweep else str(row["trial"]), []).append(row)
    scores, rates, names, status = [], [], [], []
    for cell in cells.values():
        fates = [str(row["status"]) for row in cell]
        fate = next((f for f in ("diverged", "stopped") if f in fates), fates[0])
        values = np.array([row[column] for row in cell], float)
        name, rate = step_size(cell[0]["config"], results.curves.get(cell[0]["id"]))
        scores.append(float(values.mean()) if fate == "done" and np.isfinite(values).all() else math.nan)
        rates.append(math.nan if rate is None else rate)
        names.append(name)
        status.append(fate)
    name = names[0] if names else "lr"
    configs = [cell[0]["config"] for cell in cells.values()]
    others = sorted({key for config in configs for key in config} - {name})
    varied = tuple(key for key in others if len({str(config.get(key)) for config in configs}) > 1)
    higher = results.higher and column != "train_loss"
    return Pool(optimizer, np.array(scores), np.array(rates), name, tuple(status), varied, higher)


# --- the best of n trials


@dataclass(frozen=True)
class Search:
    """The best validation score after n trials, for n = 1 .. N drawn from the N that were run; arrays (N,).

    trials: 1 .. N. expected: its mean over all ways to draw n of them. median, low, high: its median and 10 % and 90 %
    quantiles (low <= high as numbers). luck: how much worse than the best found one in ten searches of the same size would have
    ended, by drawing N trials with replacement; nan for one trial. failed: trials without a score, each counted as the worst that
    has one; all arrays are nan where none has.
    """

    optimizer: str
    trials: np.ndarray
    expected: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray
    luck: float
    failed: int


def search(trials: Pool) -> Search:
    """What each further trial brought, in closed form.

    With v_1 the best of N scores and v_N the worst, the best of n drawn without replacement is v_r with chance C(N - r, n - 1) / C(N, n),
    and at least as good as v_r with chance 1 - C(N - r, n) / C(N, n). The mean is the U-statistic of the expected best of n
    independent trials, hence unbiased for every n <= N. N draws with replacement hold one at least as good as v_r with chance
    1 - ((N - r) / N)^N; the luck is |v_1 - v_r| for the smallest r at which that is 90 %. Only the median, the band and the
    luck are robust against a trial that finished far outside the range of the others.
    """
    scores, higher = trials.score, trials.higher
    count, failed = len(scores), int(np.isnan(scores).sum())
    n = np.arange(1, count + 1)
    if failed == count:
        blank = np.full(count, math.nan)
        return Search(trials.optimizer, n, blank, blank, blank, blank, math.nan, failed)
    ranked = np.sort(scores)  # nan last
    worst = np.nanmin(scores) if higher else np.nanmax(scores)
    ranked = np.concatenate([ranked[: count - failed][:: -1 if higher else 1], np.full(failed, worst)])
    rank = np.arange(1, count + 1)
    total = [math.comb(count, int(k)) for k in n]
    chance = np.array([[math.comb(count - int(r), int(k) - 1) / total[k - 1] for r in rank] for k in n])  # (n, rank)
    reached = np.cumsum(chance, axis=1)
    ends = [ranked[np.minimum((reached < q - 1e-9).sum(1), count - 1)] for q in (0.5 - BAND / 2, 0.5, 0.5 + BAND / 2)]
    unlucky = int(np.flatnonzero(1 - ((count - rank) / count) ** count >= 0.5 + BAND / 2)[0])
    luck = abs(float(ranked[0] - ranked[unlucky])) if count > 1 else math.nan
    low, high = np.minimum(ends[0], ends[2]), np.maximum(ends[0], ends[2])
    return Search(trials.optimizer, n, chance @ ranked, ends[1], low, high, luck, failed)


# --- step sizes

WITHIN = 0.01
"""A trial is in the basin when its score is within this share of the best one's size."""


@dataclass(frozen=True)
class Basin:
    """How much the score depends on the step size, from the trials of one optimizer.

    name: the step size's. best: the rate of the best trial. low, high: the ends of the basin, the stretch of rates around the best whose
    scores are within 1 % of the best score's size; width: log10(high / low), in decades. Between two trials the end is
    interpolated in log(rate). open_low, open_high: the basin's end is the last rate with a score on that side (nothing was tried
    beyond, or what was diverged), so the width is at least this. largest_stable: the largest rate tried at and below which nothing
    diverged; smallest_diverged: the smallest that diverged; nan where there is none. diverged: share of the trials. why: why there
    is no width (nan), or "".
    """

    optimizer: str
    name: str
    best: float
    low: float
    high: float
    width: float
    open_low: bool
    open_high: bool
    largest_stable: float
    smallest_diverged: float
    diverged: float
    trials: int
    why: str


def basin(trials: Pool) -> Basin:
    """The basin of one optimizer's step sizes; see `Basin`. No width where other hyperparameters vary from trial to trial."""
    fates = np.array(trials.status, dtype=object)
    dead = fates == "diverged"
    bad = trials.rate[dead & (trials.rate > 0)]
    first = float(bad.min()) if len(bad) else math.nan
    stable = trials.rate[(fates == "done") & (trials.rate > 0) & ~(trials.rate >= first)]
    largest = float(stable.max()) if len(stable) else math.nan
    share = float(dead.mean()) if len(dead) else math.nan
    best = low = high = math.nan
    lower = upper = False
    good = np.isfinite(trials.score) & (trials.rate > 0)
    why = "no trial finished" if not good.any() else ""
    if good.any():
        score = trials.score if trials.higher else -trials.score
        best = float(trials.rate[int(np.argmax(np.where(good, score, -math.inf)))])
        if trials.varied:
            why = f"{', '.join(trials.varied)} varied too"
        elif len(np.unique(trials.rate[good])) < 3:
            why = "fewer than three rates finished"
        else:
            order = np.argsort(trials.rate[good], kind="stable")
            x, y = np.log10(trials.rate[good][order]), score[good][order]
            level = y.max() - WITHIN * abs(y.max())
            peak = int(np.argmax(y))
            right, upper = _end(x[peak:], y[peak:], level)
            left, lower = _end(-x[peak::-1], y[peak::-1], level)
            low, high = 10.0**-left, 10.0**right
    width = math.log10(high / low) if not why else math.nan
    return Basin(trials.optimizer, trials.name, best, low, high, width, lower, upper, largest, first, share, len(fates), why)


def _end(x: np.ndarray, y: np.ndarray, level: float) -> tuple[float, bool]:
    """Where y, which starts above the level, first falls below it, x rising; True where it never does, and then the last x."""
    below = np.flatnonzero(y < level)
    if not len(below):
        return float(x[-1]), True
    k = int(below[0])
    return float(x[k - 1] + (x[k] - x[k - 1]) * (y[k - 1] - level) / (y[k - 1] - y[k])), False
