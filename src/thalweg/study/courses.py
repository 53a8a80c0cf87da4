"""The course of each run of a small sweep: where it ended, how much its loss fluctuated, and the curvature against what its rule bears."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from thalweg.study.results import Results

FEW = 12
"""Runs of a sweep up to which each is looked at by itself: its test score, its fluctuation, the curvature it met."""

MUCH = 0.05
"""A run whose loss went up for so large a share of its way overshoots."""

OFTEN = 0.1
"""A run that does so in so large a share of its steps oscillates."""

LATE = 1 / 3
"""A run is slow when so much of its loss's fall came in the second half of its steps."""

ROUND_OFF = 1e-5
"""Rises of less than this share of the loss do not count: rounding makes such in a run that has arrived."""

CURVATURES = ("curvature_start", "curvature_end", "curvature_stable")
"""What is stored of a run's curvature."""

Kind = Literal["diverged", "oscillates", "overshoots", "slow", "steady", "noisy"]


@dataclass(frozen=True)
class Course:
    """How one run of a small sweep went; nan where something is not known.

    train_loss: mean of the last tenth of the records. valid, test: the score on those rows at the end; test scores choose nothing.
    fluctuation: of the way that the training loss went, up and down from record to record, the share that it went up: 0 where it only
    fell, 0.5 where it went up as much as down. rose, of: how many of so many records had a larger loss than the one before; every:
    steps between records. rise: the largest rise, from and to. late: of the fall from the first loss to the last, the share in the
    second half of the records.
    curvature_start, curvature_end: the largest eigenvalue of the training loss's Hessian at the initial and at the final weights;
    curvature_stable: up to where the rule is stable at its rate, 2 / lr for gradient descent. kind: in a word; "noisy" where batches
    are parts of the rows, so that the loss also rises by chance.
    """

    run: str
    optimizer: str
    config: Mapping[str, Any]
    seed: int
    status: str
    diverged_at: int
    train_loss: float
    valid: float
    test: float
    fluctuation: float
    rose: int
    of: int
    every: int
    rise: tuple[float, float]
    late: float
    curvature_start: float
    curvature_end: float
    curvature_stable: float
    kind: Kind


def courses(results: Results) -> tuple[Course, ...]:
    """A course a run, in the order of the grid; () for a comparison and for a sweep of many runs."""
    if results.kind != "sweep" or sum(results.planned.values()) > FEW or not len(results.runs):
        return ()
    whole = results.spec.get("batch_size") == results.counts.get("train")
    return tuple(_course(results, row, whole) for row in results.runs.to_dict("records"))


def _course(results: Results, row: Mapping[Any, Any], whole: bool) -> Course:
    curve = results.curves.get(row["id"])
    loss = np.asarray(curve.loss if curve is not None else (), float)
    loss = loss[np.isfinite(loss)]
    change = np.diff(loss)
    way, up = float(np.abs(change).sum()), int(change.argmax()) if len(change) else 0
    rises = change > ROUND_OFF * np.abs(loss[1:])
    fall = float(loss[0] - loss[-1]) if len(loss) else 0.0
    course = Course(
        run=str(row["id"]),
        optimizer=str(row["optimizer"]),
        config=dict(row["config"]),
        seed=int(row["seed"]),
        status=str(row["status"]),
        diverged_at=int(row["diverged_at"]),
        train_loss=float(row["train_loss"]),
        valid=float(row[f"valid_{results.score}"]),
        test=float(row.get(f"test_{results.score}", math.nan)),
        fluctuation=float(change[change > 0].sum()) / way if way else 0.0 if len(change) else math.nan,
        rose=int(rises.sum()),
        of=len(change),
        every=int(np.diff(curve.steps).max()) if curve is not None and len(curve.steps) > 1 else 1,
        rise=(float(loss[up]), float(loss[up + 1])) if rises.any() else (math.nan, math.nan),
        late=float(loss[len(loss) // 2] - loss[-1]) / fall if fall > 0 else math.nan,
        **{name: float(row.get(name, math.nan)) for name in CURVATURES},
        kind="steady",
    )
    return replace(course, kind=_kind(course, whole))


def _kind(course: Course, whole: bool) -> Kind:
    if course.status == "diverged":
        return "diverged"
    if not whole:
        return "noisy"
    if course.fluctuation >= MUCH:
        return "oscillates" if course.rose >= OFTEN * course.of else "overshoots"
    return "slow" if course.late >= LATE else "steady"
