"""The standings: from a study's runs to a table, best first, and the choice between the phases. Pure functions of `Results`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from thalweg.study.results import Results
from thalweg.study.statistics import Contest, contest, half_width

if TYPE_CHECKING:
    from thalweg.study.findings import Findings

Basis = Literal["final", "tuning", "sweep", "nothing"]


@dataclass(frozen=True)
class Verdict:
    """What a study says.

    winner: the label of the optimizer that is better than every other beyond the chance of seeds, or None.
    leader: the label with the best mean, winner or not; None where no run finished.
    config: the leader's chosen configuration. mean, half: its mean score and the half-width of the 95 % Student-t
        interval over `seeds` seeds (nan where there is no interval).
    basis: what the ranking stands on: "final" runs, "tuning" trials alone, a "sweep", or "nothing".
    unfinished: whether planned runs are missing.
    standings: a row an optimizer, best first (see `standings`).
    findings: what it found besides the ranking.
    headline: the verdict in a sentence; sentences: what else must be known to read it rightly.
    """

    winner: str | None
    leader: str | None
    config: Mapping[str, Any] | None
    mean: float
    half: float
    seeds: int
    basis: Basis
    unfinished: bool
    standings: pd.DataFrame
    findings: Findings
    headline: str
    sentences: tuple[str, ...]


def choose(runs: pd.DataFrame, optimizer: str, score: str, higher: bool) -> pd.Series | None:
    """The tuning trial with the best validation score, or None if none has one.

    Only rows of phase "tune" and their valid_ columns are looked at, never a test_ column. Ties go to the lower validation
    loss, then to the earlier trial (the first is the defaults). A run that was stopped early is never compared with a whole one: only where
    no run is whole, those stopped latest are compared with each other.
    """
    if runs.empty:
        return None
    rows = runs[(runs["phase"] == "tune") & (runs["optimizer"] == optimizer) & runs["status"].isin(["done", "stopped"])]
    rows = rows[np.isfinite(rows[f"valid_{score}"].astype(float))]
    whole = rows[rows["status"] == "done"]
    rows = rows[rows["steps"] == rows["steps"].max()] if whole.empty else whole
    if rows.empty:
        return None
    value = rows[f"valid_{score}"].to_numpy(float)
    loss = rows["valid_loss"].to_numpy(float) if "valid_loss" in rows else np.zeros(len(rows))
    best = np.lexsort((rows["trial"].to_numpy(), loss, -value if higher else value))[0]  # the last key weighs most
    return rows.iloc[int(best)]


# --- the table


def identity(config: Mapping[str, Any]) -> str:
    """Text that is equal for equal configurations."""
    return json.dumps(dict(config), sort_keys=True, default=str)


def seeds_planned(results: Results) -> int:
    """Final runs planned for each optimizer."""
    finals = results.runs[results.runs["phase"] == "final"] if len(results.runs) else results.runs
    seen = int(finals["seed"].nunique()) if len(finals) else 0
    return max(math.ceil(results.planned.get("final", 0) / max(1, len(results.optimizers))), seen)


def missing(results: Results) -> dict[str, int]:
    """Phase -> runs planned and not done; empty when the study is finished.

    An optimizer none of whose tuning trials finished has nothing to rerun: its finals are not missing.
    """
    runs = results.runs
    absent = {}
    for phase, planned in results.planned.items():
        rows = runs[runs["phase"] == phase] if len(runs) else runs
        if phase == "final" and "tune" not in absent:
            hopeful = [o for o in results.optimizers if choose(runs, o, results.score, results.higher) is not None]
            planned = min(planned, seeds_planned(results) * len(hopeful))
        if planned > len(rows):
            absent[phase] = planned - len(rows)
    return absent


COLUMNS = (
    "optimizer", "config", "mean", "half", "seeds", "difference", "difference_half", "probability", "p_value",
    "diverged_tuning", "stopped_tuning", "trials", "diverged_finals", "best_valid", "default_valid", "sound", "runs", "chosen",
)  # fmt: skip


def standings(results: Results) -> pd.DataFrame:
    """One row an optimizer, best first; attrs: "basis" (on which runs the ranking stands), "score", "higher".

    config: the chosen configuration. mean, half, seeds: the score and its 95 % interval.
    difference, difference_half: paired difference to the best, this - best. probability: that the best is better.
    p_value: adjusted for the best having been picked in the same data (`statistics.adjust`). diverged_tuning, stopped_tuning:
    shares of its `trials` tuning trials that diverged, that were stopped early. diverged_finals: count.
    best_valid, default_valid: validation score of the chosen and of the first trial, nan unless that was trained to its end.
    sound: it has a mean and no final of it diverged. runs: ids that the mean stands on. chosen: id of the chosen trial.
    Sound optimizers come first, then those with diverged finals, then those without a score.
    """
    runs, score, higher = results.runs, results.score, results.higher
    basis: Basis = "nothing"
    if len(runs):
        phases = set(runs["phase"])
        basis = "sweep" if results.kind == "sweep" else "final" if "final" in phases else "tuning"
    if basis == "sweep" and results.all_rows:
        score, higher = "loss", False
    row_of = _sweep_row if basis == "sweep" else _row
    rows = [row_of(results, label, basis) for label in results.optimizers]
    rows.sort(key=lambda row: _rank(row, higher))
    if basis == "final":
        _compare(rows, results)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.attrs = {"basis": basis, "score": score, "higher": higher}
    return table


def _rank(row: dict[str, Any], higher: bool) -> tuple:
    def key(value: float) -> float:
        return math.inf if math.isnan(value) else -value if higher else value

    return (not row["sound"], key(row["mean"]), key(row["best_valid"]))


def _row(results: Results, label: str, basis: Basis) -> dict[str, Any]:
    """The row of one optimizer of a comparison, before it is compared with the best."""
    runs = results.runs
    own = runs[runs["optimizer"] == label] if len(runs) else pd.DataFrame(columns=["phase", "status", "trial", "id"])
    tune, final = own[own["phase"] == "tune"], own[own["phase"] == "final"]
    choice = choose(runs, label, results.score, results.higher)
    first = tune[(tune["trial"] == 0) & (tune["status"] == "done")]
    best = math.nan if choice is None or choice["status"] != "done" else float(choice[f"valid_{results.score}"])
    done = final[final["status"] == "done"]
    config = None if choice is None else dict(choice["config"])
    scores = np.array([] if done.empty else done[f"test_{results.score}"], float)
    used = final
    if len(final):
        config = dict(final.iloc[0]["config"])  # what was rerun
    if basis != "final":
        scores = np.array([] if choice is None else [best])
        used = own[own["id"] == (None if choice is None else choice["id"])]
    scores = scores[np.isfinite(scores)]
    return _blank() | {
        "optimizer": label,
        "config": config,
        "mean": float(scores.mean()) if len(scores) else math.nan,
        "half": float(half_width(scores)) if basis == "final" else math.nan,
        "seeds": len(scores),
        "diverged_tuning": float((tune["status"] == "diverged").mean()) if len(tune) else math.nan,
        "stopped_tuning": float((tune["status"] == "stopped").mean()) if len(tune) else math.nan,
        "trials": len(tune),
        "diverged_finals": int((final["status"] == "diverged").sum()),
        "best_valid": best,
        "default_valid": math.nan if first.empty else float(first.iloc[0][f"valid_{results.score}"]),
        "sound": bool(len(scores)) and len(scores) == len(used),
        "runs": tuple(used["id"]),
        "chosen": None if choice is None else choice["id"],
    }


def _sweep_row(results: Results, label: str, basis: Basis) -> dict[str, Any]:
    """The best cell of one optimizer's grid: mean over its seeds; a cell with a diverged run comes last."""
    score = "train_loss" if results.all_rows else f"valid_{results.score}"
    higher = results.higher and not results.all_rows
    own = results.runs[results.runs["optimizer"] == label]
    row = _blank() | {"optimizer": label, "trials": len(own)}
    if own.empty:
        return row
    row["diverged_tuning"] = float((own["status"] == "diverged").mean())
    row["stopped_tuning"] = float((own["status"] == "stopped").mean())
    best = None
    for _, cell in own.groupby(own["config"].map(identity), sort=False):
        scores = cell[score].to_numpy(float)
        if (cell["status"] != "done").any() or not np.isfinite(scores).all():
            continue
        mean = float(scores.mean())
        if best is None or (mean > best if higher else mean < best):
            best = mean
            row |= {
                "config": dict(cell.iloc[0]["config"]),
                "mean": mean,
                "seeds": len(cell),
                "best_valid": mean,
                "sound": True,
            }
            row |= {"runs": tuple(cell["id"]), "chosen": cell.iloc[0]["id"]}
    return row


def _blank() -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan)
    return row | {
        "config": None,
        "seeds": 0,
        "trials": 0,
        "diverged_finals": 0,
        "sound": False,
        "runs": (),
        "chosen": None,
    }


def contest_of(results: Results, rows: Sequence[Mapping[Any, Any]]) -> Contest:
    """The first of these rows of the standings against each other, seed by seed; (rows,) arrays."""
    finals = results.runs[results.runs["phase"] == "final"].set_index("id")
    column = f"test_{results.score}"
    table = pd.DataFrame({k: finals.loc[list(row["runs"])].groupby("seed")[column].mean() for k, row in enumerate(rows)})
    return contest(table.to_numpy(float).T, results.higher, best=0)


def _compare(rows: list[dict[str, Any]], results: Results) -> None:
    """Fill in the paired columns of the sound rows after the first, over the seeds that both have."""
    sound = [row for row in rows if row["sound"]]
    if len(sound) < 2:
        return
    found = contest_of(results, sound)
    columns = {"difference": found.difference, "difference_half": found.half, "probability": found.probability, "p_value": found.adjusted}
    for k, row in enumerate(sound[1:], 1):
        row |= {name: float(values[k]) for name, values in columns.items()}
