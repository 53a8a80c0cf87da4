"""Figures and tables of numbers that the judge may give: drawn from plain data where it is there, absent where it is not.

`measured`, a mapping, may hold any of these; a label it does not name is left out, a nan is shown as a dash:

tuning_cost: label -> {"trials": (n,), "expected": (n,), "low": (n,), "high": (n,)}, the best validation score to expect of 1..n trials:
    the median of such searches, and the ends of the middle 80 % of them.
profile: {"ratios": (m,), "shares": label -> (m,), "problems": [names], "measure": "updates to the target"}: the share of problems on
    which an optimizer needs at most `ratio` times what the best one does.
targets: {"target": 0.95, "score": "accuracy", "rows": [{"optimizer", "reached": 4, "of": 5, "steps": v, "samples": v, "seconds": v}]},
    each v a number, or (middle, low, high); inf is never, None or nan unknown.
    An optional "caption" says how it was counted.
sensitivity: {"rows": [{"optimizer", "width": decades, "largest_stable": rate, "diverged": share, "trials": n}]}, with an optional
    "caption" that says what a basin is; a row's "open" says that its width is only the least it can be.
defaults: {"rows": [{"optimizer", "defaults": score, "tuned": score, "defaults_half": v, "tuned_half": v}], "split": "validation"}, the
    half-widths and the split optional; defaults is nan where they have no score, and the row's "fate" says why ("diverged").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from thalweg.study.pool import BAND
from thalweg.study.report.palette import look
from thalweg.study.report.traces import band, figure, line, plain, safe, tickformat, trace
from thalweg.study.words import amount, gap, is_share, number, plural

Cell = tuple[str, float | None]
"""A text, and the number to sort by."""

FATES = {"diverged": "diverged", "stopped": "were stopped early", "missing": "were not run"}
"""What became of defaults that have no score."""


def table(caption: str, columns: Sequence[str], rows: Sequence[tuple[int, Sequence[Cell]]], texts: int = 1) -> dict[str, Any]:
    """A table for the page: `rows` are (number of the series, cells); the first `texts` columns hold text, the others numbers."""
    heads = [{"name": name, "numeric": i >= texts} for i, name in enumerate(columns)]
    return {"caption": caption, "columns": heads, "rows": [{"series": k, "cells": list(cells)} for k, cells in rows]}


def tuning_cost(cost: Mapping[str, Any], series: Mapping[str, int], score: str) -> dict[str, Any] | None:
    """The score to expect of 1..n trials, a line an optimizer, with its band; the axis follows the later half of each line, so that
    a poor first trial does not flatten it (shares are shown whole).

    >>> cost = {"adam": {"trials": [1, 2], "expected": [0.5, 0.9], "low": [0.2, 0.8], "high": [0.8, 0.95]}}
    >>> [t["meta"]["role"] for t in tuning_cost(cost, {"adam": 0}, "accuracy")["data"]]
    ['band', 'line']
    """
    data, finite = [], []
    for label, k in series.items():
        own = cost.get(label)
        if own is None or not len(own["trials"]):
            continue
        x, y = np.asarray(own["trials"], float), np.asarray(own["expected"], float)
        if own.get("low") is not None and own.get("high") is not None:
            data.append(band(k, label, (x, np.asarray(own["low"], float)), (x, np.asarray(own["high"], float))))
        data.append(line(k, label, x, y, f"{label}, best of"))
        finite.append(y if is_share(score) else y[len(y) // 2 :])
    if not data:
        return None
    spread = f", and the middle {100 * BAND:.0f} % of them" if any(t["meta"]["role"] == "band" for t in data) else ""
    caption = (
        f"The best validation {score} to expect of so many trials, drawn from those that were made: the median of all such searches"
        f"{spread}. A line that is flat from the start needs no tuning."
    )
    axis, share = f"Best validation {score}", is_share(score)
    made = figure("cost", "Tuning cost", caption, data, finite, axis, share, score == "loss", across="Trials")
    made["layout"]["xaxis"]["rangemode"] = "normal"
    return made


def profile(given: Mapping[str, Any], series: Mapping[str, int]) -> dict[str, Any] | None:
    """The performance profile over several problems, a step line an optimizer. Dolan and More 2002, arXiv:cs/0102001

    >>> given = {"ratios": [1, 2, 4], "shares": {"adam": [0.5, 1, 1]}, "problems": ["a", "b"], "measure": "updates to the target"}
    >>> profile(given, {"adam": 0})["data"][0]["line"]["shape"]
    'hv'
    """
    x = np.asarray(given["ratios"], float)
    data = []
    for label, k in series.items():
        if label in given["shares"]:
            one = line(k, label, x, np.asarray(given["shares"][label], float), f"{label}, within")
            one["line"]["shape"] = "hv"
            data.append(one)
    if not data:
        return None
    problems = list(given["problems"])
    measure = given.get("measure", "cost")
    caption = (
        f"The share of {plural(len(problems), 'problem')} ({', '.join(map(str, problems))}) on which an optimizer comes within a factor of "
        f"the best, by {measure}. At 1: how often it is the best; further right: how often it is not far behind. Higher is better."
    )
    layout = {
        "xaxis": {
            "type": "log", "dtick": "D2", "range": plain([-0.02, math.log10(x.max()) + 0.02]),
            "title": {"text": "Within this factor of the best"},
        },
        "yaxis": {"title": {"text": "Share of problems"}, "range": [-0.03, 1.05], **tickformat(True)},
        "hovermode": "closest",
    }  # fmt: skip
    return {"key": "profile", "title": "Performance profile", "caption": caption, "data": data, "layout": layout}


def targets(given: Mapping[str, Any], series: Mapping[str, int]) -> dict[str, Any] | None:
    """A table of what it takes to reach a target, fewest updates first; those that never reach it come last.

    >>> rows = [{"optimizer": "adam", "reached": 4, "of": 5, "steps": (120, 100, 150), "samples": 3840, "seconds": None}]
    >>> found = targets({"target": 0.95, "score": "accuracy", "rows": rows}, {"adam": 0})
    >>> [text for text, _ in found["rows"][0]["cells"]]
    ['adam', '4 of 5', '120 (100 to 150)', '3,840', '–']
    """
    rows = sorted((row for row in given["rows"] if row["optimizer"] in series), key=lambda row: _key(row.get("steps")))
    if not rows:
        return None
    goal = amount(float(given["target"]), given["score"])
    said = f"Until validation {given['score']} reaches {goal}: the median over the seeds that reach it, and their range."
    caption = given.get("caption", said)
    made = []
    for row in rows:
        reached, of = row["reached"], row["of"]
        spent = [_spread(row.get("steps"), count), _spread(row.get("samples"), count), _spread(row.get("seconds"), seconds)]
        made.append((series[row["optimizer"]], [(str(row["optimizer"]), None), (f"{reached} of {of}", reached / max(1, of)), *spent]))
    return table(caption, ["Optimizer", "Seeds that reach it", "Updates", "Samples", "Seconds"], made)


def sensitivity_numbers(given: Mapping[str, Any], series: Mapping[str, int]) -> dict[str, Any] | None:
    """A table of how much the learning rate matters, the widest basin first.

    >>> rows = [{"optimizer": "adam", "width": 1.62, "largest_stable": 0.193, "diverged": 0.125, "trials": 16}]
    >>> [text for text, _ in sensitivity_numbers({"rows": rows}, {"adam": 0})["rows"][0]["cells"]]
    ['adam', '1.6', '0.193', '2 of 16']
    """
    rows = [row for row in given["rows"] if row["optimizer"] in series]
    if not rows:
        return None
    rows.sort(key=lambda row: -_real(row.get("width")) if math.isfinite(_real(row.get("width"))) else math.inf)
    basin = "Basin: how many decades of learning rate come close to the best score."
    caption = given.get("caption", f"{basin} Largest stable: the largest rate tried that did not diverge.")
    made = []
    for row in rows:
        cells = [_cell(row.get("width"), ("≥ {:.1f}" if row.get("open") else "{:.1f}").format), _cell(row.get("largest_stable"), number)]
        cells.append(_cell(row.get("diverged"), partial(_out_of, trials=row.get("trials"))))
        made.append((series[row["optimizer"]], [(str(row["optimizer"]), None), *cells]))
    return table(caption, ["Optimizer", "Basin, decades", "Largest stable rate", "Diverged"], made)


def defaults(given: Mapping[str, Any], series: Mapping[str, int], score: str, higher: bool) -> dict[str, Any] | None:
    """Defaults against tuned: a figure with two points an optimizer and a bar between, the best tuned first, and the table of its numbers.

    >>> found = defaults({"rows": [{"optimizer": "adam", "defaults": 0.90, "tuned": 0.97}]}, {"adam": 0}, "accuracy", True)
    >>> [text for text, _ in found["table"]["rows"][0]["cells"]], found["data"][0]["x"]
    (['adam', '90.0 %', '97.0 %', '+7.0 points'], [0.9, 0.97])
    """
    rows = [row for row in given["rows"] if row["optimizer"] in series and math.isfinite(_real(row.get("tuned")))]
    if not rows:
        return None
    rows.sort(key=lambda row: row["tuned"], reverse=higher)
    known = [_real(row.get(side)) for row in rows for side in ("defaults", "tuned") if math.isfinite(_real(row.get(side)))]
    worst, best = (min(known), max(known)) if higher else (max(known), min(known))
    rail = worst + 0.08 * (worst - best)  # where defaults that diverged stand: beyond the worst
    data, made, lost = [], [], set[str]()
    for row in rows:
        label, k = str(row["optimizer"]), series[row["optimizer"]]
        before, after = _real(row.get("defaults")), float(row["tuned"])
        halves = [_real(row.get("defaults_half")), _real(row.get("tuned_half"))]
        alive = math.isfinite(before)
        fate = FATES.get(str(row.get("fate", "diverged")), "have no score")
        said = ["defaults: " + (amount(before, score, halves[0]) if alive else fate), "tuned: " + amount(after, score, halves[1])]
        lost |= set() if alive else {fate}
        symbols = [f"{look(k)['symbol']}-open" if alive else "x-thin-open", look(k)["symbol"]]
        bars = {"error_x": {"array": [h if math.isfinite(h) else 0.0 for h in halves]}} if np.isfinite(halves).any() else {}
        more = {"marker": {"symbol": symbols, "size": 12}, "hovertemplate": f"{safe(label)}, %{{text}}<extra></extra>"} | bars
        ends = plain([before if alive else rail, after])
        data.append(trace(k, label, "span", x=ends, y=[safe(label)] * 2, text=said, mode="lines+markers", **more))
        gain = (after - before) * (1 if higher else -1)
        cells = [_cell(v, partial(amount, score=score)) for v in (before, after)]
        made.append((k, [(label, None), *cells, _cell(gain, partial(_gain, score=score))]))
    split = given.get("split", "validation")
    said_of = f"; ×: the defaults {' or '.join(sorted(lost))}" if lost else ""
    caption = f"Hollow: the rule's defaults; filled: the chosen setting{said_of}."
    layout = {
        "xaxis": {"title": {"text": safe(f"{split.capitalize()} {score}")}, **tickformat(is_share(score))},
        "yaxis": {"type": "category", "autorange": "reversed"}, "hovermode": "closest",
    }  # fmt: skip
    heads = ["Optimizer", "With defaults", "Tuned", "Gained"]
    return {
        "key": "defaults", "title": "Defaults against tuned", "caption": caption, "data": data, "layout": layout, "rows": len(rows),
        "table": table(f"{split.capitalize()} {score} with the rule's defaults and as tuned.", heads, made),
    }  # fmt: skip


def slots(measured: Mapping[str, Any] | None, series: Mapping[str, int], score: str, higher: bool) -> dict[str, Any]:
    """Everything above that there is data for: name -> figure or table, None for the others.

    >>> slots(None, {}, "loss", False)
    {'cost': None, 'profile': None, 'targets': None, 'numbers': None, 'defaults': None}
    """
    given = dict(measured or {})
    return {
        "cost": tuning_cost(given["tuning_cost"], series, score) if given.get("tuning_cost") else None,
        "profile": profile(given["profile"], series) if given.get("profile") else None,
        "targets": targets(given["targets"], series) if given.get("targets") else None,
        "numbers": sensitivity_numbers(given["sensitivity"], series) if given.get("sensitivity") else None,
        "defaults": defaults(given["defaults"], series, score, higher) if given.get("defaults") else None,
    }


# --- numbers


def count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "never"


def seconds(value: float) -> str:
    return "never" if value == math.inf else f"{value:,.0f} s" if value >= 100 else f"{value:.2g} s"


def _out_of(share: float, trials: int | None) -> str:
    return f"{round(share * trials)} of {trials}" if trials else f"{100 * share:.0f} %"


def _gain(value: float, score: str) -> str:
    return ("+" if value >= 0 else "−") + gap(abs(value), score)


def _real(value: Any) -> float:
    return math.nan if value is None else float(value)


def _cell(value: Any, say: Any) -> Cell:
    real = _real(value)
    return ("–", None) if math.isnan(real) else (say(real), real if math.isfinite(real) else None)


def _spread(value: Any, say: Any) -> Cell:
    """A number, or a middle with its ends: 120 (100 to 150)."""
    if value is None or isinstance(value, int | float | np.number):
        return _cell(value, say)
    middle, low, high = (_real(v) for v in value)
    text, key = _cell(middle, say)
    return (text, key) if math.isnan(low) or math.isnan(high) else (f"{text} ({say(low)} to {say(high)})", key)


def _key(value: Any) -> float:
    key = _spread(value, count)[1]
    return math.inf if key is None else key


__all__ = ["defaults", "profile", "sensitivity_numbers", "slots", "table", "targets", "tuning_cost"]
