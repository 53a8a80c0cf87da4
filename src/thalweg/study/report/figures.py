"""Figures as plain dicts in Plotly's format; the page, which knows the theme, colours them by the number `meta.series`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from thalweg.study.judge import Verdict
from thalweg.study.report.traces import POWERS, band, figure, line, plain, safe, tickformat, trace
from thalweg.study.results import Curve, Results
from thalweg.study.words import amount, is_share, setting

POINTS = 125
"""Points a curve is thinned to; a screen shows no more."""

TRIAL_POINTS = 40
"""Points of a tuning trial's curve: there may be over a thousand of them on one page."""


def figures(results: Results, verdict: Verdict) -> dict[str, Any]:
    """All figures of a page: {"curves": [a figure a measure], "sensitivity": a figure or None}."""
    return {"curves": curves(results, verdict), "sensitivity": sensitivity(results, verdict)}


# --- curves over steps


def _share(key: str) -> bool:
    return key.startswith("valid:") and is_share(key[6:])


def curves(results: Results, verdict: Verdict) -> list[dict[str, Any]]:
    """A figure a measure: mean and band (smallest to largest) over the seeds of each optimizer's chosen setting.

    The last one shows the validation score of every tuning trial (or sweep run). Measures without any curve are left
    out.
    """
    score = results.score
    measures = [("loss", "Training loss (of the batch)"), (f"valid:{score}", f"Validation {score}")]
    if score != "loss":
        measures.append(("valid:loss", "Validation loss"))
    measures += [("grad_norm", "Gradient norm (of the batch)"), ("lr", "Learning rate")]
    made = [_measure(results, verdict, key, title) for key, title in measures]
    made.append(_trials(results, verdict))
    return [one for one in made if one is not None]


def _measure(results: Results, verdict: Verdict, key: str, title: str) -> dict[str, Any] | None:
    data: list[dict[str, Any]] = []
    finite: list[np.ndarray] = []
    status = dict(zip(results.runs["id"], results.runs["status"], strict=True)) if len(results.runs) else {}
    chosen = dict(zip(verdict.standings["optimizer"], verdict.standings["runs"], strict=True))
    for k, label in enumerate(results.optimizers):
        whole: list[tuple[np.ndarray, np.ndarray]] = []
        broken: list[tuple[np.ndarray, np.ndarray]] = []
        for run in chosen.get(label, ()):
            curve = results.curves.get(run)
            found = None if curve is None else course(curve, key)
            if found is not None:
                (whole if status[run] == "done" else broken).append(found)
        if whole:
            steps, values = _stack(whole)  # (points,), (seeds, points)
            mean = values.mean(0)
            finite.append(mean)
            if len(whole) > 1:
                data.append(band(k, label, steps, values.min(0), values.max(0)))
            data.append(line(k, label, steps, mean, f"{label}, mean of {len(whole)}" if len(whole) > 1 else label))
        for steps, values in broken:
            data.append(line(k, label, steps, values, f"{label}, diverged", thin=True))
    if not data:
        return None
    # where everything diverged, the first halves of the curves are what can be shown
    finite = finite or [np.asarray(t["y"][: len(t["y"]) // 2 + 1], float) for t in data]
    opens = key in ("loss", "valid:loss", "grad_norm", "lr")
    return figure(key, title, _caption(results, verdict), data, finite, title.split(" (")[0], _share(key), opens)


def _caption(results: Results, verdict: Verdict) -> str:
    many = " (shown while at most eight optimizers are)" if len(results.optimizers) > 8 else ""
    if verdict.basis == "final":
        said = f"Final runs: the line is the mean over seeds, the band reaches from the smallest to the largest{many}."
    elif results.kind == "sweep":
        said = f"The best setting of each optimizer: mean over its seeds, the band reaches from the smallest to the largest{many}."
    else:
        said = "The best tuning trial of each optimizer so far."
    return f"{said} A thin dashed line is a run that diverged. The axis follows the runs that finished; double-click it to see all."


def _trials(results: Results, verdict: Verdict) -> dict[str, Any] | None:
    """Validation curves of all trials: one trace an optimizer, with gaps between trials, so that a legend entry hides them all."""
    key, data, finite = f"valid:{results.score}", [], []
    runs = results.runs[results.runs["phase"] != "final"] if len(results.runs) else results.runs
    for k, label in enumerate(results.optimizers):
        x: list[float | None] = []
        y: list[float | None] = []
        for run, status in zip(*(runs.loc[runs["optimizer"] == label, c] for c in ("id", "status")), strict=True) if len(runs) else ():
            curve = results.curves.get(run)
            found = None if curve is None else course(curve, key, TRIAL_POINTS)
            if found is None:
                continue
            x += [*plain(found[0]), None]
            y += [*plain(found[1]), None]
            if status == "done":
                finite.append(found[1])
        if x:
            data.append(
                trace(k, label, "trial", x=x, y=y, mode="lines", hovertemplate=f"{safe(label)}<br>%{{x}}: %{{y:.4~g}}<extra></extra>")
            )
    if not data:
        return None
    what = "run of the sweep" if results.kind == "sweep" else "tuning trial"
    caption = f"A line a {what}; one that diverged ends early. The axis follows those that finished; double-click it to see all."
    title, opens = f"Every {what}: validation {results.score}", results.score == "loss"
    return figure("trials", title, caption, data, finite, f"Validation {results.score}", _share(key), opens)


def course(curve: Curve, key: str, points: int = POINTS) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and values of one measure, thinned, (points,) each; None where the run has no finite value of it.

    Batch losses and gradient norms are averaged over neighbouring records, which also calms them; others are picked.
    """
    if key.startswith("valid:"):
        steps, values = np.asarray(curve.eval_steps), np.asarray(curve.valid.get(key[6:], ()), float)
    else:
        steps, values = np.asarray(curve.steps), np.asarray(getattr(curve, key), float)
    count = min(len(steps), len(values))
    keep = np.isfinite(values[:count])
    steps, values = steps[:count][keep], values[:count][keep]
    if not len(values):
        return None
    if len(values) <= points:
        return steps, values
    if key in ("loss", "grad_norm"):
        cuts = np.linspace(0, len(values), points + 1).astype(int)
        sizes = np.diff(cuts)
        return np.add.reduceat(steps.astype(float), cuts[:-1]) / sizes, np.add.reduceat(values, cuts[:-1]) / sizes
    pick = np.unique(np.linspace(0, len(values) - 1, points).round().astype(int))
    return steps[pick], values[pick]


def _stack(lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Curves of several seeds on the steps of the first: (points,), (seeds, points)."""
    steps = lines[0][0]
    return steps, np.stack([np.interp(steps, x, y) for x, y in lines])


# --- learning-rate sensitivity


def sensitivity(results: Results, verdict: Verdict) -> dict[str, Any] | None:
    """Learning rate against validation score, a point a trial; what diverged stands on a rail at the worse end.

    So does what finished far outside the range of the others, as a triangle.
    """
    runs = results.runs[results.runs["phase"] != "final"] if len(results.runs) else results.runs
    chosen = {c for c in verdict.standings["chosen"] if c is not None}
    names, points = set(), []
    for row in runs.to_dict("records"):
        name, rate = step_size(row["config"], results.curves.get(row["id"]))
        if rate is not None and rate > 0:
            names.add((row["optimizer"], name))
            points.append((row, rate, float(row[f"valid_{results.score}"]) if row["status"] == "done" else math.nan))
    if not points:
        return None
    good = np.array([y for *_, y in points if math.isfinite(y)])
    log = results.score == "loss" and len(good) > 0 and good.min() > 0 and good.max() > 10 * good.min()
    low, high = _worth_showing(np.log10(good) if log else good, results.higher, is_share(results.score))
    sign = -1.0 if results.higher else 1.0
    worse, room = (low if results.higher else high), sign * 0.14 * (high - low)  # the rail: from worse to worse + room

    def place(row: dict[Any, Any], value: float, lane: float) -> tuple[str, float]:
        """Kind and height of a point; optimizers stand side by side on the rail, at `lane` in [0, 1]."""
        height = math.log10(value) if log and value > 0 else value
        if not math.isfinite(height):
            return "diverged", worse + room * (0.3 + 0.6 * lane)
        if not low <= height <= high:
            return "far", worse + room * 0.15
        return ("chosen" if row["id"] in chosen else "done"), height

    data = []
    for k, label in enumerate(results.optimizers):
        parts: dict[str, list[Any]] = {kind: [] for kind in SYMBOLS}
        for row, rate, value in points:
            if row["optimizer"] != label:
                continue
            kind, height = place(row, value, (k + 0.5) / len(results.optimizers))
            fate = f"diverged at {row['diverged_at']}" if kind == "diverged" else f"{results.score} {amount(value, results.score)}"
            point = (rate, 10**height if log else height, safe(f"{setting(row['config'])}<br>{fate}"))
            parts[kind].append(point)
            if row["trial"] == 0 and results.kind != "sweep" and kind != "far":
                parts["default"].append(point)
        joined = sorted([*parts["done"], *parts["chosen"]])
        if len(joined) > 1:
            x, y = plain(p[0] for p in joined), plain(p[1] for p in joined)
            data.append(trace(k, label, "guide", x=x, y=y, mode="lines", hoverinfo="skip"))
        data += [_marks(k, label, kind, marks) for kind, marks in parts.items() if marks]
    others = [f"{label}: {name}" for label, name in sorted(names) if name != "lr"]
    layout: dict[str, Any] = {
        "xaxis": {"type": "log", "title": {"text": safe("Learning rate" + f" ({', '.join(others)})" * bool(others))}, **POWERS},
        "yaxis": {"title": {"text": safe(f"Validation {results.score}")}, **tickformat(is_share(results.score))},
        "hovermode": "closest",
    }
    used = any(t["meta"]["role"] in ("diverged", "far") for t in data)
    ends = sorted((high + low - worse, worse + (room if used else 0.0)))
    layout["yaxis"] |= {"type": "log" if log else "linear", "range": plain(ends)}
    if used:
        y0, y1 = (10**v if log else v for v in (worse, worse + room))
        layout["shapes"] = [{"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "y0": y0, "y1": y1, "line": {"width": 0}}]
    return {"key": "sensitivity", "data": data, "layout": layout}


def _worth_showing(scores: np.ndarray, higher: bool, share: bool) -> tuple[float, float]:
    """The range of scores, (trials,), shown: shares are bounded and shown whole; others reach from the best to four times as far
    as the best two fifths do, because a bad rate that just did not diverge may be off by powers of ten.
    """
    if not len(scores):
        return 0.0, 1.0
    gaps = np.sort(scores.max() - scores if higher else scores - scores.min())  # how far behind the best, rising
    usual = gaps[int(0.4 * (len(gaps) - 1))] or np.median(gaps) or gaps[-1]
    reach = float(gaps[-1] if share else gaps[gaps <= 4 * usual].max())
    margin = 0.06 * reach or 0.05 * abs(float(scores[0])) or 0.5
    best = float(scores.max() if higher else scores.min())
    return (best - reach - margin, best + margin) if higher else (best - margin, best + reach + margin)


def step_size(config: dict[str, Any], curve: Curve | None) -> tuple[str, float | None]:
    """The hyperparameter that sizes a step, and its value: lr, else scale, else the largest rate that the curve recorded."""
    for name in ("lr", "scale"):
        if isinstance(config.get(name), int | float):
            return name, float(config[name])
    rates = np.asarray(curve.lr, float) if curve is not None else np.array([])
    rates = rates[np.isfinite(rates)]
    return "lr", float(rates.max()) if len(rates) else None


SYMBOLS = {"done": "circle", "chosen": "star", "default": "diamond-open", "diverged": "x-thin-open", "far": "triangle-down"}
SIZES = {"done": 8, "chosen": 15, "default": 16, "diverged": 9, "far": 9}


def _marks(k: int, label: str, kind: str, points: list[Any]) -> dict[str, Any]:
    return trace(
        k, label, kind, x=plain(p[0] for p in points), y=plain(p[1] for p in points), text=[p[2] for p in points],
        mode="markers", marker={"symbol": SYMBOLS[kind], "size": SIZES[kind]}, hovertemplate=f"{safe(label)}, %{{text}}<extra></extra>",
    )  # fmt: skip
