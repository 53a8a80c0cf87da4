"""Curves over updates: a figure a measure, and one of all trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thalweg.study.courses import Course
from thalweg.study.judge import Verdict
from thalweg.study.reasons import named
from thalweg.study.report.traces import band, calm, figure, line, plain, safe, thin, trace
from thalweg.study.results import Curve, Results
from thalweg.study.words import is_share

POINTS = 600
"""Points a line is thinned to (see `thin`): two for every four pixels of a wide screen."""

CALM_POINTS = 120
"""Points of the calm line through batch losses and gradient norms, each the mean of the records about it."""

TRIAL_POINTS = 60
"""Points of a tuning trial's curve: there may be over a thousand of them on one page."""

NOISY = ("loss", "grad_norm")
"""Measures of a single batch, which jump from record to record."""


def curves(results: Results, verdict: Verdict, series: Mapping[str, int]) -> list[dict[str, Any]]:
    """A figure a measure: mean and band (smallest to largest) over the seeds of each optimizer's chosen setting.

    The last two show the validation score and the training loss of every tuning trial (or sweep run); where runs of a sweep are few these
    come first, and each has a colour and its name. Measures without any curve are left out. series: label -> number of the series.
    """
    score = results.score
    measures = [("loss", "Training loss (of the batch)"), (f"valid:{score}", f"Validation {score}")]
    if score != "loss":
        measures.append(("valid:loss", "Validation loss"))
    measures += [("grad_norm", "Gradient norm (of the batch)"), ("lr", "Learning rate")]
    made = [_measure(results, verdict, series, key, title) for key, title in measures]
    if verdict.findings.runs:
        every = (("loss", "training loss"), (f"valid:{score}", f"validation {score}"))
        made = [*(_runs(results, verdict.findings.runs, series, key, name) for key, name in every), *made]
    else:
        made += [_trials(results, series, f"valid:{score}", f"validation {score}"), _trials(results, series, "loss", "training loss")]
    return [one for one in made if one is not None]


def _measure(results: Results, verdict: Verdict, series: Mapping[str, int], key: str, title: str) -> dict[str, Any] | None:
    data: list[dict[str, Any]] = []
    finite: list[np.ndarray] = []
    status = dict(zip(results.runs["id"], results.runs["status"], strict=True)) if len(results.runs) else {}
    chosen = dict(zip(verdict.standings["optimizer"], verdict.standings["runs"], strict=True))
    for label in results.optimizers:
        k = series[label]
        whole: list[tuple[np.ndarray, np.ndarray]] = []
        broken: list[tuple[str, np.ndarray, np.ndarray]] = []
        for run in chosen.get(label, ()):
            curve = results.curves.get(run)
            found = None if curve is None else course(curve, key)
            if found is None:
                continue
            if status[run] == "done":
                whole.append(found)
            else:
                broken.append((str(status[run]), *found))
        if whole:
            data += _lines(k, label, *_stack(whole), noisy=key in NOISY)
            finite.append(np.asarray(data[-1]["y"], float))
        for fate, steps, values in broken:
            data.append(line(k, label, *thin(steps, values, POINTS), f"{label}, {fate}", role="broken"))
    if not data:
        return None
    finite = finite or [_early(np.asarray(t["y"], float)) for t in data]
    opens = key in ("loss", "valid:loss", "grad_norm", "lr")
    return figure(key, title, _caption(results, verdict, data), data, finite, title.split(" (")[0], _share(key), opens)


def _early(values: np.ndarray) -> np.ndarray:
    """The first half of a curve: what can be shown of it where everything diverged."""
    return values[: len(values) // 2 + 1]


def _lines(k: int, label: str, steps: np.ndarray, values: np.ndarray, noisy: bool) -> list[dict[str, Any]]:
    """Traces of one optimizer from its seeds' curves, (points,) and (seeds, points): band, raw line where calmed, bold line."""
    mean, made = values.mean(0), []
    if len(values) > 1:
        made.append(band(k, label, thin(steps, values.min(0), POINTS), thin(steps, values.max(0), POINTS)))
    name = f"{label}, mean of {len(values)}" if len(values) > 1 else label
    drawn = thin(steps, mean, POINTS)
    if noisy and len(mean) > CALM_POINTS:
        made.append(line(k, label, *drawn, name, role="raw"))
        drawn = calm(steps, mean, CALM_POINTS)
    return [*made, line(k, label, *drawn, name)]


def _caption(results: Results, verdict: Verdict, data: Sequence[Mapping[str, Any]]) -> str:
    roles = {t["meta"]["role"] for t in data}
    said = "The best tuning trial of each optimizer so far."
    if "band" in roles:
        who = "The best setting of each optimizer" if results.kind == "sweep" else "Final runs"
        said = f"{who}: the line is the mean over seeds, the band reaches from the smallest to the largest."
        if len(results.optimizers) > 8:
            said += " Bands are drawn while at most eight optimizers are shown."
    elif verdict.basis in ("final", "sweep"):
        said = ("The best setting of each optimizer" if results.kind == "sweep" else "Final runs") + ", one seed."
    if "raw" in roles:
        said += " The bold line averages neighbouring records; the band, or a faint line where no band is drawn, shows every one."
    if "broken" in roles:
        fates = {str(t["hovertemplate"]).partition("<br>")[0].rpartition(", ")[2] for t in data if t["meta"]["role"] == "broken"}
        was = {"diverged": "diverged", "stopped": "was stopped early", "failed": "failed"}
        said += f" A thin dashed line is a run that {' or '.join(was.get(f, f) for f in sorted(fates))}."
    return f"{said} The axis follows the runs that finished; double-click it to see all."


def _trials(results: Results, series: Mapping[str, int], key: str, name: str) -> dict[str, Any] | None:
    """A measure of all trials: one trace an optimizer, with gaps between trials, so that a legend entry hides them all."""
    data: list[dict[str, Any]] = []
    finite: list[np.ndarray] = []
    lost: list[np.ndarray] = []
    runs = tried(results)
    for label in results.optimizers:
        x: list[float | None] = []
        y: list[float | None] = []
        for run, status in zip(*(runs.loc[runs["optimizer"] == label, c] for c in ("id", "status")), strict=True) if len(runs) else ():
            curve = results.curves.get(run)
            found = None if curve is None else course(curve, key)
            if found is None:
                continue
            drawn = thin(*found, TRIAL_POINTS)
            x += [*plain(drawn[0]), None]
            y += [*plain(drawn[1]), None]
            if status == "done":
                finite.append(found[1])
            else:
                lost.append(_early(found[1]))
        if x:
            hover = f"{safe(label)}<br>%{{x}}: %{{y:.4~g}}<extra></extra>"
            data.append(trace(series[label], label, "trial", x=x, y=y, mode="lines", hovertemplate=hover))
    if not data:
        return None
    what = "run of the sweep" if results.kind == "sweep" else "tuning trial"
    early = "diverged or was stopped" if len(runs) and (runs["status"] == "stopped").any() else "diverged"
    caption = f"A line a {what}; one that {early} ends early. The axis follows those that finished; double-click it to see all."
    title = f"Every {what}: {name}"
    return figure(f"trials:{key}", title, caption, data, finite or lost, name.capitalize(), _share(key), key.endswith("loss"))


def _runs(results: Results, runs: Sequence[Course], series: Mapping[str, int], key: str, name: str) -> dict[str, Any] | None:
    """A measure of each run of a small sweep, a colour a run, its name at the end of its line."""
    data: list[dict[str, Any]] = []
    finite: list[np.ndarray] = []
    lost: list[np.ndarray] = []
    names = named(runs)
    for k, one in enumerate(runs):
        curve = results.curves.get(one.run)
        found = None if curve is None else course(curve, key)
        if found is None:
            continue
        if one.status == "done":
            drawn = _lines(k, names[one.run], found[0], found[1][None], noisy=key in NOISY)
            finite.append(found[1])
        else:
            drawn = [line(k, names[one.run], *thin(*found, POINTS), f"{names[one.run]}, {one.status}", role="broken")]
            lost.append(_early(found[1]))
        end = {"x": drawn[-1]["x"][-1:], "y": drawn[-1]["y"][-1:], "text": [safe(names[one.run])]}
        drawn.append(trace(k, names[one.run], "label", **end, mode="text", textposition="top left", hoverinfo="skip"))
        for part in drawn:
            part["meta"] |= {"series": series[one.optimizer], "colour": k}
        data += drawn
    if not data:
        return None
    caption = "A line a run, with its name at its end; one that diverged is thin and dashed, and ends early. "
    caption += "The axis follows those that finished; double-click it to see all."
    title, axis, opens = f"Every run: {name}", name.capitalize(), key.endswith("loss")
    return figure(f"trials:{key}", title, caption, data, finite or lost, axis, _share(key), opens)


def tried(results: Results) -> Any:
    """The runs that tried a setting: tuning trials or runs of a sweep."""
    return results.runs[results.runs["phase"] != "final"] if len(results.runs) else results.runs


def course(curve: Curve, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and finite values of one measure, (records,) each; None where the run has no finite value of it."""
    if key.startswith("valid:"):
        steps, values = np.asarray(curve.eval_steps), np.asarray(curve.valid.get(key[6:], ()), float)
    else:
        steps, values = np.asarray(curve.steps), np.asarray(getattr(curve, key), float)
    count = min(len(steps), len(values))
    keep = np.isfinite(values[:count])
    return (steps[:count][keep], values[:count][keep]) if keep.any() else None


def _stack(lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Curves of several seeds on the steps of the longest: (points,), (seeds, points)."""
    steps = max((x for x, _ in lines), key=len)
    return steps, np.stack([np.interp(steps, x, y) for x, y in lines])


def _share(key: str) -> bool:
    return key.startswith("valid:") and is_share(key[6:])
