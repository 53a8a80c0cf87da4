"""What a notebook shows of a study and of a sweep by itself: a table and small curves, without network, style sheet or script."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from thalweg.errors import UserError
from thalweg.study.judge import Verdict, judge
from thalweg.study.report.curves import course, curves
from thalweg.study.report.traces import figure, line, thin
from thalweg.study.results import Curve, Results
from thalweg.study.sentences import score_name
from thalweg.study.svg import PALETTE, svg
from thalweg.study.words import amount, number, plural, setting

if TYPE_CHECKING:
    import pandas as pd

    from thalweg.study.outlets import Outlets
    from thalweg.study.sweep import Runs

ROWS = 20
"""Rows of a table that are shown; of a longer one the first and the last."""

Rows = list[list[str]]


# --- a study


def study_text(study: Outlets) -> str:
    """A study in a line."""
    known = _known(study)
    if isinstance(known, str):
        return f"<Study: {known}>"
    results, verdict = known
    return f"<Study {results.name}, {_progress(results)}: {verdict.headline}>"


def study_markdown(study: Outlets) -> str:
    """The verdict and the standings in Markdown."""
    known = _known(study)
    if isinstance(known, str):
        return _escaped(known)
    results, verdict = known
    heads, rows = _standings(results, verdict)
    return f"**{_escaped(results.name)}**, {_progress(results)}. {_escaped(verdict.headline)}\n\n{_markdown(heads, rows)}"


def study_html(study: Outlets) -> str:
    """The verdict, the standings, and the curves of the chosen settings: validation score and training loss."""
    known = _known(study)
    if isinstance(known, str):
        return f"<p>{html.escape(known)}</p>"
    results, verdict = known
    heads, rows = _standings(results, verdict)
    colours = [PALETTE[results.optimizers.index(label) % len(PALETTE)] for label in verdict.standings["optimizer"]]
    keys = dict.fromkeys((f"valid:{results.score}", "loss"))
    series = {label: k for k, label in enumerate(results.optimizers)}
    drawn = {made["key"]: svg(made) for made in curves(results, verdict, series) if made["key"] in keys}
    said = f"<p><strong>{html.escape(results.name)}</strong>, {_progress(results)}. {html.escape(verdict.headline)}</p>"
    return _block(said, _table(heads, rows, colours), [drawn[key] for key in keys if key in drawn])


def _known(study: Outlets) -> tuple[Results, Verdict] | str:
    """What is known of a study, or why nothing is: to show something must not fail."""
    try:
        results = study.results()
        return results, judge(results)
    except (UserError, SQLAlchemyError, OSError) as error:
        return str(error).partition("\n")[0]


def _progress(results: Results) -> str:
    return f"{len(results.runs)} of {plural(sum(results.planned.values()), 'run')} done"


def _standings(results: Results, verdict: Verdict) -> tuple[list[str], Rows]:
    """Headings and a row an optimizer, best first."""
    score, finals = str(verdict.standings.attrs["score"]), verdict.basis == "final"
    heads = ["optimizer", "setting", score_name(results, verdict), *(["difference to the best"] if finals else []), "diverged"]
    rows = []
    for row in verdict.standings.to_dict("records"):
        label, trials = str(row["optimizer"]), int(row["trials"])
        cells = [label, "–" if row["config"] is None else setting(row["config"]), amount(row["mean"], score, row["half"])]
        if finals:
            gap = amount(row["difference"], score, row["difference_half"], unit=False)
            cells.append("the best" if label == verdict.leader else gap.replace("-", "−", 1))
        cells.append(f"{round(row['diverged_tuning'] * trials)} of {trials}" if trials else "–")
        rows.append(cells)
    return heads, rows


# --- a sweep


def runs_text(runs: Runs) -> str:
    """What was trained, and the table below it."""
    return f"{_trained(runs)}\n{_short(runs.table()).to_string(index=False)}"


def runs_markdown(runs: Runs) -> str:
    """The table of a sweep in Markdown."""
    table = runs.table()
    return f"{_trained(runs)}\n\n{_markdown([str(c) for c in table.columns], _cells(_short(table)))}"


def runs_html(runs: Runs) -> str:
    """The table of a sweep and the curves of its loss, a colour a configuration."""
    table = runs.table()
    colours, shown = shades(len(table)), _short(table)
    body = _table([str(c) for c in table.columns], _cells(shown), [colours[k] for k in shown.index])
    drawn = []
    finite, data = [], []
    for k, values in enumerate(runs.loss):
        found = course(Curve(runs.steps, values, values, values, runs.steps), "loss")
        if found is not None:
            dead = runs.diverged_at[k] >= 0
            drawn_at = thin(*found, 250 if len(table) <= 32 else 100)
            data.append(line(k, str(k), *drawn_at, str(k), role="broken" if dead else "line") | {"line": {}})  # told apart by colour alone
            finite += [] if dead else [found[1]]
    if data:
        ranged = finite or [np.asarray(trace["y"][: len(trace["y"]) // 2 + 1], float) for trace in data]
        drawn.append(svg(figure("loss", "Training loss (of the batch)", "", data, ranged, "Loss", False, True), colours))
    return _block(f"<p>{html.escape(_trained(runs))}</p>", body, drawn)


def shades(count: int) -> list[str]:
    """A colour a configuration: the palette's own for a few, from blue to orange in even steps for more."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    first, last = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in PALETTE[:2])
    mixed = [np.rint(first + (last - first) * t).astype(int) for t in np.linspace(0, 1, count)]
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in mixed]


def _trained(runs: Runs) -> str:
    gone = int((runs.diverged_at >= 0).sum())
    steps = int(runs.steps[-1]) if len(runs.steps) else 0
    part = f" (below: the first and the last {ROWS // 2})" if len(runs.configs) > ROWS else ""
    return f"{plural(len(runs.configs), 'configuration')}{part}, {plural(steps, 'update')}, engine {runs.engine}, {gone} diverged"


def _short(table: pd.DataFrame) -> pd.DataFrame:
    """The table, or its first and last rows."""
    import pandas as pd

    half = ROWS // 2
    return table if len(table) <= ROWS else pd.concat([table.iloc[:half], table.iloc[-half:]])


def _cells(table: pd.DataFrame) -> Rows:
    return [[_cell(name, value) for name, value in row.items()] for row in table.to_dict("records")]


def _cell(name: Any, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or (name == "diverged_at" and value < 0):
        return "–"
    return number(value, 4)


# --- text


def _markdown(heads: Sequence[str], rows: Rows) -> str:
    lines = [heads, ["---"] * len(heads), *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in r"\`*_[]<>|#" else c for c in text)


def _table(heads: Sequence[str], rows: Rows, colours: Sequence[str]) -> str:
    """An HTML table, each row with the colour of its curve."""
    bar = "display:inline-block;width:1.2em;border-top:3px solid {};margin-right:.5em;vertical-align:.25em"
    body = []
    for cells, colour in zip(rows, colours, strict=True):
        first, *rest = (html.escape(cell) for cell in cells)
        mark = f'<span style="{bar.format(colour)}"></span>'
        body.append(f'<tr><td style="text-align:left">{mark}{first}</td>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>')
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    return f'<table style="color:inherit"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _block(said: str, table: str, drawn: Sequence[str]) -> str:
    pictures = f'<div style="display:flex;flex-wrap:wrap;gap:1em">{"".join(drawn)}</div>' if drawn else ""
    return f"<div>{said}{table}{pictures}</div>"
