"""What a store holds, as plain values: all that the judge and the report ever read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from thalweg.engine.work import Curve

__all__ = ["Curve", "Results"]


@dataclass(frozen=True)
class Results:
    """A study as it stands, finished or not.

    kind: "compare" (tune, then final) or "sweep" (a grid).
    spec: the study as resolved (problem, budget, seeds, steps, batch_size, optimizers ...). plan: engine, lanes, threads and why.
    environment: versions and hardware. command: what was typed, or "".
    score: the metric that ranks runs ("accuracy", "r2" or "loss"); higher: whether larger is better.
    metrics: every metric's name, the score first, "loss" among them.
    optimizers: labels in the order of the spec. notes: facts about the problem for the method section.
    counts: rows of each split, {"train": 1078, "valid": 359, "test": 360}.
    planned: phase -> number of runs planned, {"tune": 80, "final": 25}.
    runs: a row a run, with columns
        id, phase ("tune" | "final" | "sweep"), optimizer (label), trial (0.. within an optimizer), seed, config (dict of the
        hyperparameters that were set or drawn, and "schedule" where not constant), status ("done" | "diverged" | "stopped": a trial
        ended early), diverged_at (-1 or the updates done), steps (planned; of a stopped run those done), engine, train_loss (mean of
        the last tenth of the records), valid_<metric> for every metric, and test_<metric> in phase "final" and in sweeps of few runs
        (nan elsewhere, and where a run diverged); where any was measured also the columns of `courses.CURVATURES`.
    curves: run id -> Curve.
    seconds: phase -> wall seconds spent in it. classes: how many there are, where the targets are classes.
    solo_seconds: run id -> its wall seconds, only where it was trained alone, with nothing else running beside it.
    pace: optimizer -> seconds of one update of its chosen configuration, rerun alone for a moment after the final runs;
        None where that diverged at once.
    diagnosed: what the last diagnosis said of the chosen configurations, if there was one: name, message and the findings as plain values.
    """

    kind: str
    name: str
    spec: Mapping[str, Any]
    plan: Mapping[str, Any]
    environment: Mapping[str, Any]
    command: str
    score: str
    higher: bool
    metrics: tuple[str, ...]
    optimizers: tuple[str, ...]
    notes: tuple[str, ...]
    counts: Mapping[str, int]
    planned: Mapping[str, int]
    runs: pd.DataFrame
    curves: Mapping[str, Curve]
    seconds: Mapping[str, float] = field(default_factory=dict)
    all_rows: bool = False
    classes: int | None = None
    solo_seconds: Mapping[str, float] = field(default_factory=dict)
    pace: Mapping[str, float | None] = field(default_factory=dict)
    diagnosed: tuple[Mapping[str, Any], ...] = ()
