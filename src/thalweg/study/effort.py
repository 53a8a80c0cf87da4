"""Steps, samples and seconds that each optimizer needs to reach a goal, over the final runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from thalweg.errors import UserError
from thalweg.study.results import Curve, Results


@dataclass(frozen=True)
class Goal:
    """A validation score to be reached. rule: where it comes from, in words. every: steps between evaluations, the resolution."""

    value: float
    rule: str
    every: int


@dataclass(frozen=True)
class Reach:
    """What an optimizer's final runs needed to reach the goal.

    steps: a seed, the first evaluation at or beyond the goal, in updates done; inf where it was never reached, also where a run
    diverged later. reached: how many did. median: of the steps, inf where half of the runs or more never reached it; fastest,
    slowest: the extremes. samples: median steps x batch size. seconds: median of the seconds, None with the reason in
    why_no_seconds where neither every run was trained alone nor the finalist rerun so.
    """

    optimizer: str
    steps: tuple[float, ...]
    reached: int
    median: float
    fastest: float
    slowest: float
    samples: float
    seconds: float | None
    why_no_seconds: str


RULE = "the middle finalist's median best validation score"


def goal_of(results: Results, value: float | None = None) -> Goal | None:
    """The goal: the user's, or the score that the middle finalist reaches in half of its final runs.

    Of each optimizer the best validation score of every final run (a diverged one: none, the worst there is) and over them the median,
    the worse of the two middle ones; of the optimizers' medians again the median, the worse of the two middle ones. So at least half of
    the optimizers reach the goal in at least half of their runs, and one hopeless optimizer does not set it. None where no final
    run has a curve. Raises UserError for a goal that is not finite.
    """
    finals = _finals(results)
    curves = [results.curves[run] for run in finals["id"] if run in results.curves] if len(finals) else []
    if not curves:
        return None
    every = max((int(np.diff(curve.eval_steps).max()) for curve in curves if len(curve.eval_steps) > 1), default=0)
    if value is not None:
        if not math.isfinite(value):
            raise UserError(f"goal = {value} must be a finite validation {results.score}")
        return Goal(float(value), "given", every)
    sign = 1.0 if results.higher else -1.0
    medians = []
    for _, own in finals.groupby("optimizer", sort=False):
        bests = [sign * _best(results, run, status) for run, status in zip(own["id"], own["status"], strict=True)]
        medians.append(_lower_median(bests))
    middle = _lower_median(medians)
    return Goal(sign * middle, RULE, every) if math.isfinite(middle) else None


def reaches(results: Results, goal: Goal) -> tuple[Reach, ...]:
    """Each optimizer's way to the goal, in the order of the spec; those without final runs are left out."""
    finals = _finals(results)
    found = []
    for label in results.optimizers:
        own = finals[finals["optimizer"] == label].sort_values("seed")
        if own.empty:
            continue
        steps = np.array([_first(results, row, goal.value) for row in own.to_dict("records")])
        seconds, why = _seconds(results, own, steps)
        middle = median(steps)
        batch = int(results.spec.get("batch_size") or 0)
        samples = middle * batch if batch else math.nan
        fastest, slowest, reached = float(steps.min()), float(steps.max()), int(np.isfinite(steps).sum())
        found.append(Reach(label, tuple(steps.tolist()), reached, middle, fastest, slowest, samples, seconds, why))
    return tuple(found)


def median(values: np.ndarray) -> float:
    """The median of values of which some may be infinite: inf where the middle, or one of the two middle ones, is.

    >>> median(np.array([3.0, np.inf, 1.0])), median(np.array([3.0, np.inf]))
    (3.0, inf)
    """
    ordered = np.sort(np.asarray(values, float))
    return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)


def _lower_median(values: list[float]) -> float:
    """The smaller of the two middle values; -inf counts."""
    return sorted(values)[(len(values) - 1) // 2]


def _finals(results: Results) -> pd.DataFrame:
    return results.runs[results.runs["phase"] == "final"] if len(results.runs) else results.runs


def _scores(results: Results, curve: Curve | None) -> np.ndarray:
    return np.asarray(curve.valid.get(results.score, ()) if curve is not None else (), float)


def _best(results: Results, run: str, status: str) -> float:
    """The best validation score of a run; the worst there is where it has none."""
    values = _scores(results, results.curves.get(run))
    values = values[np.isfinite(values)]
    if status != "done" or not len(values):
        return -math.inf if results.higher else math.inf
    return float(values.max() if results.higher else values.min())


def _first(results: Results, row: dict, value: float) -> float:
    curve = results.curves.get(row["id"])
    scores = _scores(results, curve)
    if curve is None or row["status"] != "done":
        return math.inf
    hit = np.flatnonzero(scores >= value if results.higher else scores <= value)
    return float(curve.eval_steps[hit[0]]) if len(hit) else math.inf


def _seconds(results: Results, own: pd.DataFrame, steps: np.ndarray) -> tuple[float | None, str]:
    """The median seconds to the goal: the share of a run's own wall time that its share of the steps took; else its steps at the pace
    of the finalist rerun alone."""
    whole = [results.solo_seconds.get(run) for run in own["id"]]
    if any(one is None for one in whole):
        label = str(own["optimizer"].iloc[0])
        if (pace := results.pace.get(label)) is not None:
            return median(steps) * pace, ""
        engines = sorted({str(engine) for engine in own["engine"]})
        return None, f"not every run was timed alone (engine: {', '.join(engines)})"
    total = own["steps"].to_numpy(float)
    return median(np.array(whole, float) * steps / total), ""
