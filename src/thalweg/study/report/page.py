"""The page: what the template shows, said in plain values; Plotly's JavaScript travels inside, compressed."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import math
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup

from thalweg.study.folder import write_whole
from thalweg.study.judge import Verdict, judge, seeds_planned
from thalweg.study.report.figures import figures
from thalweg.study.report.traces import COLOURS, DASHES
from thalweg.study.results import Results
from thalweg.study.sentences import NOUNS, score_name
from thalweg.study.words import amount, is_share, number, p_value, plural, probability, setting


def write(results: Results, path: str | os.PathLike[str]) -> Path:
    """Write the report to `path`, whole or not at all: under another name first, then renamed."""
    target = Path(path)
    write_whole(target, render(results))
    return target


def render(results: Results, live: str = "", packed: bool = True) -> str:
    """One HTML document of a study, finished or not, that needs no network.

    Figures need a browser of 2023 or later (DecompressionStream); words and tables need no script at all.
    live: a further script, which may ask the page's own server for news. packed: whether Plotly travels inside.
    """
    verdict = judge(results)
    environment = Environment(loader=FunctionLoader(_resource), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    drawn = figures(results, verdict)
    return environment.get_template("template.html").render(
        css=Markup(_resource("style.css")),
        js=Markup(_resource("page.js")),
        live=Markup(live),
        plotly=Markup(plotly()) if packed else "",
        data=Markup(embed(drawn)),
        drawn=drawn,
        results=results,
        verdict=verdict,
        what=score_name(results, verdict),
        apart="Difference to the best" + (", points" if is_share(str(verdict.standings.attrs["score"])) else ""),
        series=[
            {"label": label, "colour": k % COLOURS, "dash": DASHES[k // COLOURS % len(DASHES)]}
            for k, label in enumerate(results.optimizers)
        ],
        standings=_standings(results, verdict),
        runs=_runs(results),
        method=_method(results),
        notes=results.notes,
        plan=_pairs(results.plan),
        environment=_pairs(results.environment),
        seconds=[f"{NOUNS.get(phase, phase)}s {value:,.1f} s" for phase, value in results.seconds.items()],
        spec=json.dumps(_clean(results.spec), indent=2, ensure_ascii=False, default=str),
    )


# --- what goes in


def _resource(name: str) -> str:
    return (files("thalweg.study.report") / name).read_text(encoding="utf-8")


@functools.cache
def plotly() -> str:
    """Plotly's JavaScript from the installed package, as base64 of gzip: 2 MB instead of 4.8."""
    source = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(source, 9, mtime=0)).decode("ascii")


def embed(value: Any) -> str:
    r"""JSON that may stand inside a script element: strict (nan and inf become null), and no `<` that could close it.

    >>> embed({"a": float("nan"), "b": "</script>"})
    '{"a":null,"b":"\\u003c/script>"}'
    """
    return json.dumps(_clean(value), separators=(",", ":"), allow_nan=False, default=str).replace("<", "\\u003c")


def _clean(value: Any) -> Any:
    """The value as JSON can hold it: null for nan and inf, lists for tuples and arrays."""
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        return _clean(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
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


# --- tables


def _standings(results: Results, verdict: Verdict) -> list[dict[str, Any]]:
    """A dict of texts for each optimizer, best first."""
    score = str(verdict.standings.attrs["score"])
    order = list(results.optimizers)
    rows = []
    for row in verdict.standings.to_dict("records"):
        label, trials = str(row["optimizer"]), int(row["trials"])
        first = label == verdict.leader
        finals = len(row["runs"]) if verdict.basis == "final" else 0
        rows.append(
            {
                "label": label,
                "series": order.index(label),
                "winner": label == verdict.winner,
                "setting": "–" if row["config"] is None else setting(row["config"]),
                "score": amount(row["mean"], score, row["half"]),
                "difference": "the best"
                if first and verdict.basis == "final"
                else amount(row["difference"], score, row["difference_half"], unit=False).replace("-", "−", 1),
                "probability": "" if first else probability(row["probability"]),
                "p_value": "" if first else p_value(row["p_value"]).replace("p unknown", "–").removeprefix("p ").removeprefix("= "),
                "best_valid": amount(row["best_valid"], results.score),
                "default_valid": amount(row["default_valid"], results.score),
                "diverged_tuning": f"{round(row['diverged_tuning'] * trials)} of {trials}" if trials else "–",
                "diverged_finals": f"{row['diverged_finals']} of {finals}" if finals else "–",
            }
        )
    return rows


def _runs(results: Results) -> dict[str, Any]:
    """The table of all runs: columns (name, whether it holds numbers) and rows of (text, number to sort by or None)."""
    if not len(results.runs):
        return {"columns": [], "rows": []}
    columns = ["phase", "optimizer", "trial", "seed", "config", "status", "diverged_at", "steps", "train_loss"]
    columns += [f"{split}_{metric}" for split in ("valid", "test") for metric in results.metrics]
    columns = [c for c in columns if c in results.runs and not (c.startswith("test_") and results.runs[c].isna().all())]
    texts = {"phase", "optimizer", "config", "status"}
    rows = []
    for run in results.runs[[*columns]].to_dict("records"):
        cells: list[tuple[str, float | None]] = []
        for column in columns:
            value = run[column]
            if column == "config":
                cells.append((setting(value), None))
            elif column in texts:
                cells.append((str(value), None))
            elif column == "diverged_at":
                cells.append(("–", None) if value < 0 else (f"{value:g}", float(value)))
            elif column in ("trial", "seed", "steps"):
                cells.append((f"{value:g}", float(value)))
            else:
                shown = amount(float(value), column.partition("_")[2])
                cells.append((shown, float(value) if math.isfinite(value) else None))
        rows.append(cells)
    heads = [{"name": c.replace("_", " ").replace("config", "setting"), "numeric": c not in texts} for c in columns]
    return {"columns": heads, "rows": rows}


# --- how it was measured


def _method(results: Results) -> list[str]:
    """The method in sentences, from what the study really did."""
    spec, runs = results.spec, results.runs
    said = []
    counts = ", ".join(f"{count:,} {split}" for split, count in results.counts.items())
    size = [
        plural(int(spec["steps"]), "update") if spec.get("steps") else "",
        f"batch size {spec['batch_size']}" if spec.get("batch_size") else "",
    ]
    if counts or any(size):
        said.append("Rows: " + counts + "." * bool(counts) + (f" Every run: {', '.join(s for s in size if s)}." if any(size) else ""))
    if results.kind == "sweep":
        said.append("Every setting of the grid was trained; all runs of one seed start from the same weights and see the same batches.")
        said.append(
            "Settings are ranked by their training loss (mean of the last tenth of the records)."
            if results.all_rows
            else f"Settings are ranked by validation {results.score}; test data were not used."
        )
    else:
        tune = runs[runs["phase"] == "tune"] if len(runs) else runs
        trials = int(spec.get("budget") or (tune.groupby("optimizer").size().max() if len(tune) else 0))
        seeds = seeds_planned(results) or int(spec.get("seeds") or 0)
        said += [
            f"Tuning: every optimizer got the same budget, {plural(trials, 'trial')}. The first trial is the rule's defaults, the others "
            "are scrambled Sobol points of its search range (below, in the study as resolved); all share one seed.",
            f"Choice: the trial with the best validation {results.score} at its end; ties go to the lower validation loss, then to the "
            "earlier trial. Test data play no part in it.",
            f"Final runs: the chosen setting of each optimizer is trained again with {plural(seeds, 'fresh seed')}; "
            "the test data are touched once, at the end of each.",
            "Pairing: with one seed, all optimizers start from the same initial weights and see the same batches in the same order, so "
            "differences are taken seed by seed.",
            "Intervals are 95 % Student-t intervals over seeds. The p-value of a difference to the best is that of a two-sided paired "
            "t-test, Holm-adjusted over all such comparisons; the probability that the best is better is the t posterior of the mean "
            "difference under a flat prior. A winner is declared where the difference to the runner-up has an adjusted p-value of at "
            "most 0.05.",
        ]
    if results.all_rows:
        said.append("Validation and test rows are the training rows themselves: every score is a training score.")
    said.append(
        "A run has diverged when its loss or its gradient is not finite, or its loss exceeds 10,000 × max(1, its initial loss); it is then "
        "stopped, and its setting is never chosen"
        + ("." if results.kind == "sweep" else "; an optimizer with a diverged final run never wins.")
    )
    return said


__all__ = ["embed", "plotly", "render", "write"]
