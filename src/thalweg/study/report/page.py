"""The page: what the templates show, said in plain values; figures and Plotly's JavaScript travel inside, compressed."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup

from thalweg.core.files import write_whole
from thalweg.study.judge import judge
from thalweg.study.report import palette, tables
from thalweg.study.report.figures import drawable, figures
from thalweg.study.report.measured import measured as measure
from thalweg.study.report.method import method, searched
from thalweg.study.results import Results
from thalweg.study.sentences import NOUNS, score_name
from thalweg.study.words import is_share, number


def write(results: Results, path: str | os.PathLike[str], measured: Mapping[str, Any] | None = None) -> Path:
    """Write the report to `path`, whole or not at all: under another name first, then renamed. measured: see `render`."""
    target = Path(path)
    write_whole(target, render(results, measured))
    return target


def render(results: Results, measured: Mapping[str, Any] | None = None, live: str = "", packed: bool = True) -> str:
    """One HTML document of a study, finished or not, that needs no network.

    measured: numbers to show besides the standings, as `thalweg.study.report.slots` describes them, instead of what the judge found.
    Figures need a browser of 2023 or later (DecompressionStream); words and tables need no script at all.
    live: a further script, which may ask the page's own server for news. packed: whether Plotly travels inside where there are figures;
    in a live page it does so from the start.
    """
    verdict = judge(results)
    given = measure(results, verdict) if measured is None else measured
    drawn = figures(results, verdict, given)
    return fill(
        "study.html",
        drawable(drawn),
        results.optimizers,
        live=live,
        packed=packed,
        drawn=drawn,
        results=results,
        verdict=verdict,
        what=score_name(results, verdict),
        apart="Difference to the best" + (", points" if is_share(str(verdict.standings.attrs["score"])) else ""),
        standings=tables.standings(results, verdict),
        runs=tables.runs(results),
        method=method(results, given),
        **facts(results),
    )


def facts(results: Results) -> dict[str, Any]:
    """What the method section shows beside its sentences."""
    return {
        "searched": searched(results),
        "plan": pairs(results.plan),
        "environment": pairs(results.environment),
        "seconds": [f"{noun}s {results.seconds[phase]:,.1f} s" for phase, noun in NOUNS.items() if phase in results.seconds],
        "spec": json.dumps(clean(results.spec), indent=2, ensure_ascii=False, default=str),
    }


def fill(template: str, views: Mapping[str, Any], labels: Sequence[str], live: str = "", packed: bool = True, **values: Any) -> str:
    """A template with its style, its script and its figures inside; series are numbered in the order of `labels`.

    live, packed: see `render`.
    """
    environment = Environment(loader=FunctionLoader(_resource), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(
        css=Markup(f"{palette.css()}\n{_resource('style.css')}"),
        js=Markup(_resource("page.js")),
        live=Markup(live),
        plotly=Markup(plotly() if packed and (views or live) else ""),
        data=Markup(pack(text_of(views))),
        views=views,
        series=[{"label": label, "number": k, **palette.look(k)} for k, label in enumerate(labels)],
        number_of={label: k for k, label in enumerate(labels)},
        glyphs=palette.GLYPHS,
        strokes=palette.STROKES,
        **values,
    )


# --- what goes in


def _resource(name: str) -> str:
    return (files("thalweg.study.report") / name).read_text(encoding="utf-8")


@functools.cache
def plotly() -> str:
    """Plotly's JavaScript as the page holds it: its basic bundle (scatter alone is used), kept compressed beside this file."""
    return base64.b64encode((files("thalweg.study.report") / "plotly-basic.min.js.gz").read_bytes()).decode("ascii")


def pack(content: bytes | str) -> str:
    """Base64 of gzip, the same for the same content; the page unpacks it with the browser's own DecompressionStream.

    >>> gzip.decompress(base64.b64decode(pack("valley")))
    b'valley'
    """
    raw = content.encode() if isinstance(content, str) else content
    return base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode("ascii")


def text_of(value: Any) -> str:
    """Strict JSON: nan and inf become null.

    >>> text_of({"a": float("nan"), "b": (1, 2.5)})
    '{"a":null,"b":[1,2.5]}'
    """
    return json.dumps(clean(value), separators=(",", ":"), allow_nan=False, default=str)


def clean(value: Any) -> Any:
    """The value as JSON can hold it: null for nan and inf, lists for tuples and arrays."""
    if isinstance(value, Mapping):
        return {str(k): clean(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        return clean(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as text; a mapping of mappings becomes a row for each of them."""
    rows = []
    for key, value in values.items():
        inner = value if isinstance(value, Mapping) and value and all(isinstance(v, Mapping) for v in value.values()) else {key: value}
        rows += [(str(k).replace("_", " "), spoken(v)) for k, v in inner.items()]
    return rows


def spoken(value: Any) -> str:
    """A nested value in a line.

    >>> spoken({"engine": "pool", "seconds": {"solo": 45.9176, "pool": 21.2105}, "lanes": [8, 4]})
    'engine pool; seconds (solo 45.9; pool 21.2); lanes 8, 4'
    """
    if isinstance(value, Mapping):
        return "; ".join(f"{k} ({spoken(v)})" if isinstance(v, Mapping) else f"{k}: {v}" if isinstance(v, str) and " " in v else
                         f"{k} {spoken(v)}" for k, v in value.items())  # fmt: skip
    if isinstance(value, list | tuple):
        return ", ".join(spoken(v) for v in value)
    return number(value) if isinstance(value, float) else str(value)


__all__ = ["facts", "fill", "pack", "plotly", "render", "text_of", "write"]
