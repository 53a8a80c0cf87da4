"""Figures as plain dicts in Plotly's format; the page, which knows the theme, colours them by the number `meta.series`.

A view is {"key", "title", "caption", "data", "layout"} and, where its scale can be chosen, "ranges" and "log". The page draws the views of
a figure one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thalweg.study.judge import Verdict
from thalweg.study.report.curves import curves
from thalweg.study.report.parallel import parallel
from thalweg.study.report.sensitivity import sensitivity
from thalweg.study.report.slots import slots
from thalweg.study.report.tables import courses
from thalweg.study.results import Results


def figures(
    results: Results, verdict: Verdict, measured: Mapping[str, Any] | None = None, series: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Everything drawn on a page: "curves", a list of views; "sensitivity" and "parallel", a view or None; "courses", a table or None; and
    the slots.

    measured: see `thalweg.study.report.slots`. series: label -> number of the series, by default their order.
    """
    order = series or {label: k for k, label in enumerate(results.optimizers)}
    return {
        "courses": courses(results, verdict, order),
        "curves": curves(results, verdict, order),
        "sensitivity": sensitivity(results, verdict, order),
        "parallel": parallel(results, verdict, order),
        **slots(measured, order, results.score, results.higher),
    }


def drawable(drawn: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What the page's script needs: name of a figure -> its views, without those that are tables or absent."""
    views = {name: value if isinstance(value, list) else [value] for name, value in drawn.items() if value}
    return {name: [_bare(v) for v in found] for name, found in views.items() if "data" in found[0] or "panels" in found[0]}


def _bare(view: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in view.items() if k != "table"}
