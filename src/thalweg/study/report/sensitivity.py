"""Learning-rate sensitivity: a point a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from thalweg.study.judge import Verdict
from thalweg.study.pool import step_size
from thalweg.study.report.curves import tried
from thalweg.study.report.palette import look
from thalweg.study.report.traces import POWERS, plain, safe, tickformat, trace, worth_showing
from thalweg.study.results import Results
from thalweg.study.words import amount, is_share, setting

SIZES = {"done": 8, "chosen": 15, "stopped": 8, "default": 19, "diverged": 9, "far": 10}


def sensitivity(results: Results, verdict: Verdict, series: Mapping[str, int]) -> dict[str, Any] | None:
    """Learning rate against validation score, a point a trial; what diverged stands on a rail at the worse end.

    So does what finished far outside the range of the others, as an arrow. series: label -> number of the series.
    """
    runs = tried(results)
    chosen = {c for c in verdict.standings["chosen"] if c is not None}
    names, points = set(), []
    for row in runs.to_dict("records"):
        name, rate = step_size(row["config"], results.curves.get(row["id"]))
        if rate is not None and rate > 0:
            names.add((row["optimizer"], name))
            points.append((row, rate, float(row[f"valid_{results.score}"]) if row["status"] in ("done", "stopped") else math.nan))
    if not points:
        return None
    good = np.array([y for row, _, y in points if math.isfinite(y)])
    log = results.score == "loss" and len(good) > 0 and good.min() > 0 and good.max() > 10 * good.min()
    low, high = worth_showing(np.log10(good) if log else good, results.higher, is_share(results.score))
    sign = -1.0 if results.higher else 1.0
    worse, room = (low if results.higher else high), sign * 0.14 * (high - low)  # the rail: from worse to worse + room

    def place(row: dict[Any, Any], value: float, lane: float) -> tuple[str, float]:
        """Kind and height of a point; optimizers stand side by side on the rail, at `lane` in [0, 1]."""
        height = math.log10(value) if log and value > 0 else value
        if not math.isfinite(height):
            return "diverged", worse + room * (0.3 + 0.6 * lane)
        if not low <= height <= high:
            return "far", worse + room * 0.15
        return ("chosen" if row["id"] in chosen else str(row["status"])), height

    data = []
    for place_of, label in enumerate(results.optimizers):
        k = series[label]
        parts: dict[str, list[Any]] = {kind: [] for kind in SIZES}
        for row, rate, value in points:
            if row["optimizer"] != label:
                continue
            kind, height = place(row, value, (place_of + 0.5) / len(results.optimizers))
            point = (rate, 10**height if log else height, safe(f"{setting(row['config'])}<br>{fate(row, results.score)}"))
            parts[kind].append(point)
            if row["trial"] == 0 and results.kind != "sweep" and kind != "far":
                parts["default"].append(point)
        joined = sorted([*parts["done"], *parts["chosen"]])
        if len(joined) > 1:
            x, y = plain(p[0] for p in joined), plain(p[1] for p in joined)
            data.append(trace(k, label, "guide", x=x, y=y, mode="lines", hoverinfo="skip"))
        data += [_marks(k, label, kind, marks, results.higher) for kind, marks in parts.items() if marks]
    others = [f"{label}: {name}" for label, name in sorted(names) if name != "lr"]
    layout: dict[str, Any] = {
        "xaxis": {"type": "log", "dtick": 1, "title": {"text": safe("Learning rate" + f" ({', '.join(others)})" * bool(others))}, **POWERS},
        "yaxis": {"title": {"text": safe(f"Validation {results.score}")}, **tickformat(is_share(results.score))},
        "hovermode": "closest",
    }
    roles = {t["meta"]["role"] for t in data}
    used = bool(roles & {"diverged", "far"})
    ends = sorted((high + low - worse, worse + (room if used else 0.0)))
    layout["yaxis"] |= {"type": "log" if log else "linear", "range": plain(ends)}
    if used:
        y0, y1 = (10**v if log else v for v in (worse, worse + room))
        rail = {"type": "rect", "xref": "x domain", "yref": "y", "x0": 0, "x1": 1, "y0": y0, "y1": y1, "line": {"width": 0}}
        layout["shapes"] = [rail]
    return {
        "key": "sensitivity", "title": "Learning-rate sensitivity", "caption": _caption(results, roles), "data": data, "layout": layout,
    }  # fmt: skip


def _caption(results: Results, roles: set[str]) -> str:
    parts = ["A point a run" if results.kind == "sweep" else "A point a tuning trial, one seed"]
    known = {
        "chosen": "large and outlined: chosen", "default": "ringed: the rule's defaults", "stopped": "hollow: stopped early",
        "diverged": "× on the shaded rail: diverged or failed", "far": "an arrow: finished outside the range shown",
    }  # fmt: skip
    return " · ".join(parts + [words for role, words in known.items() if role in roles]) + "."


def fate(row: Mapping[Any, Any], score: str) -> str:
    """How a run ended: its validation score, or when it diverged.

    >>> fate({"status": "diverged", "diverged_at": 7}, "loss"), fate({"status": "stopped", "valid_loss": 0.5, "diverged_at": -1}, "loss")
    ('diverged at 7', 'loss 0.5000, stopped early')
    """
    if row["status"] in ("done", "stopped"):
        early = ", stopped early" if row["status"] == "stopped" else ""
        return f"{score} {amount(float(row[f'valid_{score}']), score)}{early}"
    return f"{row['status']} at {row['diverged_at']}" if row["diverged_at"] >= 0 else str(row["status"])


def _marks(k: int, label: str, kind: str, points: list[Any], higher: bool) -> dict[str, Any]:
    own = look(k)["symbol"]
    arrow = "arrow-down" if higher else "arrow-up"
    symbols = {"default": "circle-open", "diverged": "x-thin-open", "far": arrow, "stopped": f"{own}-open"}
    marker = {"symbol": symbols.get(kind, own), "size": SIZES[kind]}
    return trace(
        k, label, kind, x=plain(p[0] for p in points), y=plain(p[1] for p in points), text=[p[2] for p in points],
        mode="markers", marker=marker, hovertemplate=f"{safe(label)}, %{{text}}<extra></extra>",
    )  # fmt: skip
