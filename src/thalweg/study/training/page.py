"""The page of a run: its end in words, its curves, its pictures, and how it was trained, in one file that needs no network."""

from __future__ import annotations

import base64
import html
import json
from typing import Any

import numpy as np
from markupsafe import Markup

from thalweg.study.report.curves import CALM_POINTS, POINTS
from thalweg.study.report.page import clean, fill, pairs
from thalweg.study.report.traces import calm, figure, line, thin
from thalweg.study.training.pictures import TITLES, draw_all
from thalweg.study.training.run import Run
from thalweg.study.words import is_share, number

DRAWN = ("loss", "gap", "learning_rate")
"""Pictures that the page draws itself, so that they can be looked into."""


def render(run: Run) -> str:
    """One HTML document of a run, ended or not; pictures of the model are in it where the model is at hand or they lie in its folder."""
    views = {"curves": curves(run)} if curves(run) else {}
    spec = run.spec
    environment = {}
    if run.folder is not None and (run.folder / "environment.json").exists():
        environment = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    return fill(
        "run.html", views, ("training", "validation"), run=run, spec=json.dumps(clean(dict(spec)), indent=2, ensure_ascii=False),
        headline=headline(run), facts=facts(run), pictures=pictures(run), method=sentences(run), environment=pairs(environment),
        coefficients=[(k, number(v)) for k, v in run.coefficients.items()],
    )  # fmt: skip


def headline(run: Run) -> str:
    """The end of a run in a sentence: what the test rows say, else what happened."""
    if run.status not in ("done", "stopped early") or not run.test:
        said = run.message
    else:
        name, value = next(iter(run.test.items()))
        said = f"{_score(name, value)} test {name.replace('_', ' ')} after {run.message}"
    return f"{said[:1].upper()}{said[1:]}."


def facts(run: Run) -> list[tuple[str, str]]:
    """What stands at the head of the page and on the terminal: names and values as text."""
    found = [("Test " + name.replace("_", " "), _score(name, value)) for name, value in run.test.items()]
    for column in run.history:
        kind, _, name = str(column).partition("_")
        if kind in ("valid", "train") and run.history[column].notna().any():
            label = {"valid": "Validation", "train": "Training"}[kind]
            found.append((f"{label} {name.replace('_', ' ')}, last", _score(name, run.final(str(column)))))
    if run.best:
        found.append(("Answer taken at step", f"{run.best['step']:.0f}"))
    rate = f"{run.samples_per_second:,.0f} rows a second"
    return [*found, ("Steps", f"{run.steps:,}"), ("Training time", f"{run.seconds:,.1f} s, {rate}")]


def _score(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if is_share(name) else number(value)


def sentences(run: Run) -> list[str]:
    """How the run was trained."""
    spec = run.spec
    settings = ", ".join(f"{k} = {v:g}" if isinstance(v, float) else f"{k} = {v}" for k, v in spec["settings"].items())
    said = [
        f"Optimizer {spec['optimizer']}{f' ({settings})' if settings else ''}, batches of {spec['batch_size']} rows, seed {spec['seed']}."
    ]
    said += [f"Schedule of {name}: {label}." for name, label in spec.get("schedules", {}).items()]
    return [*said, *(note[:1].upper() + note[1:] + "." for note in run.notes)]


def curves(run: Run) -> list[dict[str, Any]]:
    """A view a measure: scores of training and validation rows on one axis (the generalisation gap), batch loss, rate, gradient norm."""
    made = []
    names = dict.fromkeys(str(c).partition("_")[2] for c in run.history if str(c).startswith(("train_", "valid_")))
    for name in sorted(names, key=lambda n: n == "loss"):
        data, finite = [], []
        for k, (kind, label) in enumerate((("train", "training rows"), ("valid", "validation rows"))):
            points = _points(run, f"{kind}_{name}")
            if points is not None:
                data.append(line(k, label, *points, f"{name.replace('_', ' ')}, {label}"))
                finite.append(points[1])
        caption = f"{name.replace('_', ' ').capitalize()} after each evaluation; the distance of the lines is the generalisation gap."
        if data:
            title = f"{name.replace('_', ' ').capitalize()}: training and validation"
            made.append(figure(f"gap:{name}", title, caption, data, finite, name.capitalize(), is_share(name), name == "loss"))
    single = (("loss", "Training loss (of the batch)"), ("lr", "Learning rate"), ("grad_norm", "Gradient norm (of the batch)"))
    for name, title in single:
        points = _points(run, name)
        if points is None:
            continue
        data = [line(0, "training", *thin(*points, POINTS), title)]
        caption = "Before each update."
        if name != "lr" and len(points[0]) > CALM_POINTS:
            data = [line(0, "training", *thin(*points, POINTS), title, role="raw"), line(0, "training", *calm(*points, CALM_POINTS), title)]
            caption = "Before each update; the bold line averages neighbouring records."
        made.append(figure(name, title, caption, data, [points[1]], title.partition(" (")[0], False, name != "lr"))
    return made


def _points(run: Run, column: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and finite values of a column; None where there are none."""
    if column not in run.history:
        return None
    table = run.history[["step", column]].to_numpy(dtype=float)
    table = table[np.isfinite(table[:, 1])]
    return (table[:, 0], table[:, 1]) if len(table) else None


def pictures(run: Run) -> list[dict[str, Any]]:
    """The pictures that need the model, as images inside the page."""
    from thalweg.core.picture import encoded

    if run.model is not None:
        found = {name: encoded(drawn, "png") for name, drawn in draw_all(run).items() if name not in DRAWN}
    elif run.folder is not None:
        found = {p.stem: p.read_bytes() for p in sorted((run.folder / "pictures").glob("*.png")) if p.stem not in DRAWN}
    else:
        found = {}
    return [
        {"name": name, "title": TITLES.get(name, name.replace("_", " ").capitalize()), "source": Markup(_data(content))}
        for name, content in found.items()
    ]


def _data(content: bytes) -> str:
    return html.escape(f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}")
