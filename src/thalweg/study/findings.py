"""What a study found besides its ranking, as plain numbers: for the page, for JSON, for the words of the verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from thalweg.study.courses import Course, courses
from thalweg.study.effort import Goal, Reach, goal_of, reaches
from thalweg.study.pool import Basin, Search, basin, pool, search
from thalweg.study.results import Results
from thalweg.study.standings import contest_of, identity
from thalweg.study.statistics import ALPHA, at_most, binomial, seeds_needed
from thalweg.study.words import is_share


@dataclass(frozen=True)
class Pair:
    """The leader against another optimizer, over the final seeds that both have; only sound ones are compared.

    difference: mean of this - leader; half: of its 95 % interval; sd: of the paired differences; seeds: that both have. probability:
    that the leader is better. p_value: two-sided paired t-test; adjusted: for the leader having been picked in the same data. apart:
    whether adjusted <= 0.05. candidate: whether this may truly be the best of all (see `statistics.Contest`). at_most: the margin
    within which two one-sided t-tests at 5 % call the two equivalent. seeds_needed: with which this pair alone would be told apart
    with 80 % chance, were the difference seen the true one; None: more than 1,000.
    """

    optimizer: str
    difference: float
    half: float
    sd: float
    seeds: int
    probability: float
    p_value: float
    adjusted: float
    apart: bool
    candidate: bool
    at_most: float
    seeds_needed: int | None


@dataclass(frozen=True)
class Default:
    """An optimizer's first trial, which is its defaults (a default outside the searched range: the range's middle), and its chosen one.

    default, tuned: validation scores, one seed each; nan where there is none. gain: by how much tuning bettered the score, >= 0. fate: of
    the first trial, "done", "diverged", "stopped" or "missing". config: of the first trial. chosen: whether it was chosen.
    """

    optimizer: str
    default: float
    tuned: float
    gain: float
    fate: str
    config: Mapping[str, Any] | None
    chosen: bool


@dataclass(frozen=True)
class Findings:
    """What a study found besides its ranking; nan, None and () where it cannot be known yet.

    pairs: the leader against each other sound optimizer, best first. tied: the leader and all that are not told apart from it; ()
    with fewer than two seeds. candidates: those of them that may truly be the best, with 95 % confidence. seeds_needed: final seeds
    with which the leader would beat every other, with at least 80 % chance, were the differences seen the true ones; None: more
    than 1,000, or nothing to compare.
    sampling: half of the 95 % interval that the test rows alone give the leader's score (binomial), nan where the metric has no known
    one; why_no_sampling says why. luck: the leader's, see Search.
    goal, reach: see `effort`. searches, basins, defaults: an optimizer each, see `pool`. best_at_defaults, best_tuned: the labels with
    the best validation score in the first trial and in the chosen one. runs: how each run of a sweep went, where they are few; see
    `courses`.
    """

    pairs: tuple[Pair, ...]
    tied: tuple[str, ...]
    candidates: tuple[str, ...]
    seeds_needed: int | None
    sampling: float
    why_no_sampling: str
    luck: float
    goal: Goal | None
    reach: tuple[Reach, ...]
    searches: tuple[Search, ...]
    basins: tuple[Basin, ...]
    defaults: tuple[Default, ...]
    best_at_defaults: str | None
    best_tuned: str | None
    runs: tuple[Course, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it: lists for arrays, null for nan and for infinities (a goal that is never reached)."""
        return _plain(dataclasses.asdict(self))


def find(results: Results, table: pd.DataFrame, goal: float | None = None) -> Findings:
    """The findings of a study, finished or not. table: its standings. goal: a validation score to be reached, instead of the rule's."""
    final = table.attrs["basis"] == "final"
    leader = str(table.iloc[0]["optimizer"]) if len(table) and (table.iloc[0]["sound"]) else None
    pools = [pool(results, label) for label in results.optimizers]
    searches = tuple(search(one) for one in pools if len(one.score))
    pairs, needed = _pairs(results, table) if final else ((), None)
    known = [pair for pair in pairs if pair.seeds > 1]
    tied = (leader, *(pair.optimizer for pair in pairs if not pair.apart)) if leader is not None and known else ()
    out = {pair.optimizer for pair in pairs if not pair.candidate}
    sampling, why = _sampling(results, float(table.iloc[0]["mean"]) if leader is not None else math.nan, final)
    aim = goal_of(results, goal) if final else None
    defaults = tuple(_default(results, row) for row in table.to_dict("records")) if results.kind != "sweep" else ()
    return Findings(
        pairs=pairs,
        tied=tied,
        candidates=tuple(label for label in tied if label not in out),
        seeds_needed=needed,
        sampling=sampling,
        why_no_sampling=why,
        luck=next((one.luck for one in searches if one.optimizer == leader), math.nan) if results.kind != "sweep" else math.nan,
        goal=aim,
        reach=() if aim is None else reaches(results, aim),
        searches=searches if results.kind != "sweep" else (),
        basins=tuple(basin(one) for one in pools if len(one.score)),
        defaults=defaults,
        best_at_defaults=_top(defaults, "default", results.higher),
        best_tuned=_top(defaults, "tuned", results.higher),
        runs=courses(results),
    )


def _pairs(results: Results, table: pd.DataFrame) -> tuple[tuple[Pair, ...], int | None]:
    rows = table[table["sound"]].to_dict("records")
    if len(rows) < 2:
        return (), None
    found = contest_of(results, rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        effects = np.where(found.half == 0, np.where(found.difference == 0, 0.0, math.inf), np.abs(found.difference) / found.sd)
    margins = np.where(found.half == 0, np.abs(found.difference), at_most(found.difference, found.sd, found.seeds))
    pairs = tuple(
        Pair(
            optimizer=str(row["optimizer"]),
            difference=float(found.difference[k]),
            half=float(found.half[k]),
            sd=float(found.sd[k]),
            seeds=int(found.seeds[k]),
            probability=float(found.probability[k]),
            p_value=float(found.p_value[k]),
            adjusted=float(found.adjusted[k]),
            apart=bool(found.adjusted[k] <= ALPHA),
            candidate=bool(found.candidate[k]),
            at_most=float(margins[k]),
            seeds_needed=seeds_needed(effects[k : k + 1]) if math.isfinite(found.half[k]) else None,
        )
        for k, row in enumerate(rows)
        if k
    )
    return pairs, seeds_needed(effects[1:]) if np.isfinite(found.half[1:]).all() else None


def _sampling(results: Results, score: float, final: bool) -> tuple[float, str]:
    rows = results.counts.get("test", 0)
    if results.all_rows:
        return math.nan, "every row was used for training, so nothing is known of new rows"
    if not final or math.isnan(score) or not rows:
        return math.nan, "no final runs on test rows"
    if not is_share(results.score):
        return math.nan, f"the scores of single rows, of which {results.score} is made, are not stored"
    return binomial(score, rows), ""


def _default(results: Results, row: Mapping[Any, Any]) -> Default:
    runs = results.runs
    own = runs[(runs["optimizer"] == row["optimizer"]) & (runs["phase"] == "tune") & (runs["trial"] == 0)] if len(runs) else runs
    first = own.iloc[0] if len(own) else None
    default, tuned = float(row["default_valid"]), float(row["best_valid"])
    config = None if first is None else dict(first["config"])
    chosen = config is not None and row["config"] is not None and identity(config) == identity(row["config"])
    gain = tuned - default if results.higher else default - tuned
    return Default(str(row["optimizer"]), default, tuned, gain, "missing" if first is None else str(first["status"]), config, chosen)


def _top(defaults: tuple[Default, ...], name: str, higher: bool) -> str | None:
    known = [one for one in defaults if math.isfinite(getattr(one, name))]
    return (max if higher else min)(known, key=lambda one: getattr(one, name)).optimizer if known else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
