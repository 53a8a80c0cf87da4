"""Parallel coordinates: every trial a line across its hyperparameters to its losses and score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.study.judge import Verdict
from thalweg.study.pool import step_size
from thalweg.study.report.curves import tried
from thalweg.study.report.sensitivity import fate
from thalweg.study.report.traces import plain, safe, trace, worth_showing
from thalweg.study.results import Results
from thalweg.study.words import is_share, number, setting

FAR, GONE = -0.055, -0.16
"""Places below an axis, which runs from 0 to 1: off its range; diverged, or not a hyperparameter of this optimizer."""

LANES = 0.07
"""How far above GONE the last optimizer stands, so that what diverged lies beside, not on, what else did."""


@dataclass(frozen=True)
class Axis:
    """name; at: a place a trial, (trials,); ticks: places and their texts; gone: what GONE means here."""

    name: str
    at: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]
    gone: str


def parallel(results: Results, verdict: Verdict, series: Mapping[str, int]) -> dict[str, Any] | None:
    """All trials across the hyperparameters that vary, the training loss and the validation score, the best at the top.

    "axes": [{"name", "ticks": [[place, text]], "gone"}], "data": traces whose x is the number of the axis, whose y the place on it
    and whose customdata the number of the trial. series: label -> number of the series. None where there are no trials.
    """
    rows = tried(results).to_dict("records")
    if not rows:
        return None
    axes = [*_settings(results, rows), *_outcomes(results, rows)]
    chosen = {c for c in verdict.standings["chosen"] if c is not None}
    data = []
    for place, label in enumerate(results.optimizers):
        lane = place / max(1, len(results.optimizers) - 1)
        parts: dict[str, list[int]] = {"path": [], "stray": [], "pick": []}
        for i, row in enumerate(rows):
            if row["optimizer"] == label:
                parts["pick" if row["id"] in chosen else "path" if row["status"] == "done" else "stray"].append(i)
        for role, members in parts.items():
            if members:
                data.append(_lines(series[label], label, role, axes, rows, members, results.score, lane))
    caption = (
        "A line a trial, across the hyperparameters that varied to what came of them; the best is at the top of each axis of results. "
        "Bold: chosen; dotted: diverged, failed or stopped early. What diverged ends on the shaded rail, and so does what lies far outside "
        "the range of the others. Drag along an axis to keep the trials that pass there; drag on another to narrow them further."
    )
    head = [
        {"name": safe(a.name), "ticks": [[at, safe(text)] for at, text in a.ticks], "gone": a.gone if min(a.at) < 0 else ""} for a in axes
    ]
    return {"key": "parallel", "title": "All trials", "caption": caption, "axes": head, "data": data, "layout": {"hovermode": "closest"}}


def _lines(
    k: int, label: str, role: str, axes: Sequence[Axis], rows: Sequence[Mapping[Any, Any]], members: Sequence[int], score: str, lane: float
) -> dict[str, Any]:
    """One trace of several trials, with a gap after each; `lane`, in [0, 1], is the optimizer's place on the rail."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    trials: list[int] = []
    for i in members:
        said = safe(f"{setting(rows[i]['config'])}<br>{fate(rows[i], score)}")
        x += [*range(len(axes)), None]
        y += [*plain(GONE + lane * LANES if axis.at[i] == GONE else axis.at[i] for axis in axes), None]
        text += [said] * (len(axes) + 1)
        trials += [i] * (len(axes) + 1)
    return trace(
        k, label, role, x=x, y=y, text=text, customdata=trials, mode="lines",
        hovertemplate=f"{safe(label)}, %{{text}}<extra></extra>",
    )  # fmt: skip


# --- axes


def _settings(results: Results, rows: Sequence[Mapping[Any, Any]]) -> list[Axis]:
    """The axis of the step size, and one of every other hyperparameter that took several values."""
    sizes = [step_size(row["config"], results.curves.get(row["id"])) for row in rows]
    named = zip(rows, sizes, strict=True)
    others = sorted({f"{row['optimizer']}: {name}" for row, (name, value) in named if value is not None and name != "lr"})
    title = "learning rate" + (f" ({', '.join(others)})" if others else "")
    axes = [_axis(title, [value for _, value in sizes])]
    names = dict.fromkeys(name for row in rows for name in row["config"] if name not in ("lr", "scale"))
    for name in names:
        values = [row["config"].get(name, "constant" if name == "schedule" else None) for row in rows]
        if len({str(v) for v in values if v is not None}) > 1:
            axes.append(_axis(name, values))
    return axes


def _axis(name: str, values: Sequence[Any]) -> Axis:
    """An axis of a hyperparameter: numbers by size, in logarithms where they span a factor of 20 or more; others by kind."""
    known = [v for v in values if v is not None]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in known):
        log = bool(known) and min(known) > 0 and max(known) >= 20 * min(known)
        scaled = [math.nan if v is None else math.log10(v) if log else float(v) for v in values]
        finite = [v for v in scaled if math.isfinite(v)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        return _place(name, scaled, low, high, log, number, "not used")
    kinds = sorted({_kind(v) for v in known})
    at = tuple(GONE if v is None else (kinds.index(_kind(v)) + 0.5) / len(kinds) for v in values)
    return Axis(name, at, tuple(((i + 0.5) / len(kinds), kind) for i, kind in enumerate(kinds)), "not used")


def _kind(value: Any) -> str:
    return setting(value) if isinstance(value, Mapping) else number(value)


def _outcomes(results: Results, rows: Sequence[Mapping[Any, Any]]) -> list[Axis]:
    """The axes of results: training loss and validation score, each over the range worth showing, the best at the top."""
    score = results.score
    measures = [("training loss", "train_loss", "loss", False), (f"validation {score}", f"valid_{score}", score, results.higher)]
    axes = []
    for name, column, kind, higher in measures:
        values = np.array([float(row[column]) if row["status"] in ("done", "stopped") else math.nan for row in rows])
        good = values[np.isfinite(values)]
        log = not higher and len(good) > 0 and good.min() > 0 and good.max() > 10 * good.min()
        if log:
            values, good = np.log10(values), np.log10(good)
        if not len(good):
            axes.append(Axis(name, (GONE,) * len(rows), (), "diverged"))
            continue
        low, high = worth_showing(good, higher, is_share(kind))

        say = _percent if is_share(kind) else number
        axes.append(_place(name, values.tolist(), low, high, log, say, "diverged", turned=not higher))
    return axes


def _percent(value: float) -> str:
    return f"{100 * value:g} %"


def _place(name: str, values: Sequence[float], low: float, high: float, log: bool, say: Any, gone: str, turned: bool = False) -> Axis:
    """Values (already logarithms if `log`) between low, at 0, and high, at 1; the other way round if `turned`."""
    span = (high - low) or 1.0

    def at(value: float) -> float:
        if not math.isfinite(value):
            return GONE
        share = (value - low) / span if high > low else 0.5
        share = 1 - share if turned else share
        return share if -1e-9 <= share <= 1 + 1e-9 else FAR

    texts = tuple((at(v), say(10**v if log else v)) for v in ticks(low, high, log))
    return Axis(name, tuple(at(v) for v in values), texts, gone)


def ticks(low: float, high: float, log: bool) -> list[float]:
    """At most seven round values between low and high (both logarithms if `log`, and so is what is returned).

    >>> ticks(0.0, 1.0, False), ticks(-5.0, 0.0, True)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [-5.0, -4.0, -3.0, -2.0, -1.0, 0.0])
    """
    if high <= low:
        return [low]
    if log and high - low >= 2:
        step = float(math.ceil((high - low) / 6))
    elif log:
        fine = [math.log10(m) + k for k in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
        found = [v for v in fine if low <= v <= high]
        return found if len(found) > 1 else [low, high]
    else:
        power = 10.0 ** math.floor(math.log10((high - low) / 5))
        step = next(power * m for m in (1, 2, 5, 10) if (high - low) / (power * m) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]
