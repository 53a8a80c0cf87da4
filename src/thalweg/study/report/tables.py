"""The tables of a page, as texts with the numbers to sort by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from thalweg.study import reasons
from thalweg.study.judge import Verdict
from thalweg.study.report.palette import look
from thalweg.study.report.slots import table
from thalweg.study.results import Results
from thalweg.study.words import amount, p_value, probability, setting


def standings(results: Results, verdict: Verdict) -> list[dict[str, Any]]:
    """A dict of texts for each optimizer, best first."""
    score = str(verdict.standings.attrs["score"])
    rows = []
    for row in verdict.standings.to_dict("records"):
        label, trials = str(row["optimizer"]), int(row["trials"])
        first = label == verdict.leader
        early = f"; {round(row['stopped_tuning'] * trials)} stopped early" if row["stopped_tuning"] > 0 else ""
        finals = len(row["runs"]) if verdict.basis == "final" else 0
        rows.append(
            {
                "label": label,
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
                "diverged_tuning": f"{round(row['diverged_tuning'] * trials)} of {trials}" + early if trials else "–",
                "diverged_finals": f"{row['diverged_finals']} of {finals}" if finals else "–",
            }
        )
    return rows


def courses(results: Results, verdict: Verdict, series: Mapping[str, int]) -> dict[str, Any] | None:
    """The runs of a small sweep, each with the look of its line; None where there are none."""
    found = verdict.findings.runs
    if not found:
        return None
    rows, names = reasons.table(results, found), reasons.named(found)
    columns = [name for name in rows[0] if name not in ("optimizer", "setting", "seed")]
    cells = [[(names[one.run], None), *((row[name], None) for name in columns)] for one, row in zip(found, rows, strict=True)]
    made = table(reasons.caption(results, found), ["Run", *(name.capitalize() for name in columns)], [
        (series[one.optimizer], own) for one, own in zip(found, cells, strict=True)
    ])  # fmt: skip
    made["rows"] = [row | {"look": look(k)} for k, row in enumerate(made["rows"])]
    return made


def runs(results: Results) -> dict[str, Any]:
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
