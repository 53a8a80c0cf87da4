"""A study as tables: its runs, their curves, the standings; what leaves thalweg is made of these."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from thalweg.study.judge import judge
from thalweg.study.results import Results
from thalweg.study.store import flat


def runs(results: Results) -> pd.DataFrame:
    """A row a run, a column a hyperparameter."""
    return flat(results.runs)


def curves(results: Results) -> pd.DataFrame:
    """A row a run and a step at which something was recorded: id, step, loss, grad_norm, lr, valid_<metric>; nan where it was not."""
    parts = []
    for run in results.runs["id"] if len(results.runs) else ():
        curve = results.curves.get(run)
        if curve is None:
            continue
        count = len(curve.steps)
        records = {name: getattr(curve, name)[:count] for name in ("loss", "grad_norm", "lr")}
        left = pd.DataFrame({"step": curve.steps, **records})
        right = pd.DataFrame({"step": curve.eval_steps} | {f"valid_{name}": values for name, values in curve.valid.items()})
        both = left.merge(right, on="step", how="outer")
        both.insert(0, "id", run)
        parts.append(both)
    names = ["id", "step", "loss", "grad_norm", "lr", *(f"valid_{name}" for name in results.metrics)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def standings(results: Results) -> pd.DataFrame:
    """A row an optimizer, best first (`thalweg.study.standings.standings`); what is no plain value is JSON."""
    table = judge(results).standings
    columns = {name: [_plain(value) for value in table[name]] for name in table.columns}
    return pd.DataFrame(columns, columns=list(table.columns))


def _plain(value: Any) -> Any:
    return json.dumps(value, default=str) if isinstance(value, Mapping | list | tuple) else value


TABLE: dict[str, Callable[[Results], pd.DataFrame]] = {"runs": runs, "curves": curves, "standings": standings}
"""The name of a table -> what makes it."""
