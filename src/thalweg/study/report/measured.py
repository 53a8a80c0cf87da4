"""From the judge's findings to the figures and tables that have a place for them: what `slots` draws, made of `Findings`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.study.effort import Reach
from thalweg.study.findings import Findings
from thalweg.study.judge import Verdict
from thalweg.study.pool import WITHIN
from thalweg.study.profiles import LIMIT, Profiles, overall
from thalweg.study.results import Results
from thalweg.study.words import amount


def measured(results: Results, verdict: Verdict) -> dict[str, Any]:
    """What the page of a study may show besides its standings, as `thalweg.study.report.slots` says; the unknown is left out."""
    found = verdict.findings
    several = any(len(one.trials) > 1 for one in found.searches)  # one trial an optimizer costs nothing and tunes nothing
    made = {
        "tuning_cost": _cost(found) if several else {},
        "targets": _targets(results, found) if found.goal is not None and found.reach else {},
        "sensitivity": _basins(found) if any(one.trials > 1 for one in found.basins) else {},
        "defaults": _defaults(results, found) if several else {},
    }
    return {name: value for name, value in made.items() if value}


def profile_of(studies: Mapping[str, Results]) -> dict[str, Any] | None:
    """The performance profile of several studies, name -> results; None where they cannot be compared, such as unfinished ones."""
    found = overall({name: _Held(results) for name, results in studies.items()})
    return None if found is None else _profile(found[1], found[0])


@dataclass(frozen=True)
class _Held:
    """Results where a study is asked for."""

    held: Results

    def results(self) -> Results:
        return self.held


def _profile(found: Profiles, measure: str) -> dict[str, Any]:
    ratios = found.curves.index.to_numpy(float)
    end = max(LIMIT, 1.2 * float(ratios[-1]))  # so that the last height is seen as a line
    return {
        "ratios": [*ratios, end],
        "shares": {str(label): [*heights, heights[-1]] for label, heights in found.curves.to_dict("list").items()},
        "problems": [str(name) for name in found.ratios.index],
        "measure": measure,
    }


def _cost(found: Findings) -> dict[str, Any]:
    known = [one for one in found.searches if np.isfinite(one.median).all()]
    return {one.optimizer: {"trials": one.trials, "expected": one.median, "low": one.low, "high": one.high} for one in known}


def _targets(results: Results, found: Findings) -> dict[str, Any]:
    assert found.goal is not None
    goal, split = found.goal, "training" if results.all_rows else "validation"
    why = "as given" if goal.rule == "given" else goal.rule
    every = f" (one every {goal.every:,} updates)" if goal.every else ""
    caption = (
        f"Until {split} {results.score} is {amount(goal.value, results.score)} ({why}): the first evaluation{every} that is at least as "
        "good. The median over all seeds, and the range; a seed that does not get there, or diverges, counts as never."
    )
    if any(one.seconds is None for one in found.reach):
        caption += " Seconds only where runs were timed alone."
    elif results.pace and not results.solo_seconds:
        caption += " Seconds: these updates at the pace of a run alone, timed for a moment after the final runs, evaluations aside."
    rows = [
        {
            "optimizer": one.optimizer, "reached": one.reached, "of": len(one.steps), "steps": _range(one), "samples": one.samples,
            "seconds": one.seconds,
        } for one in found.reach
    ]  # fmt: skip
    return {"target": goal.value, "score": results.score, "rows": rows, "caption": caption}


def _range(one: Reach) -> float | tuple[float, float, float]:
    return one.median if one.fastest == one.slowest else (one.median, one.fastest, one.slowest)


def _basins(found: Findings) -> dict[str, Any]:
    rows = [
        {
            "optimizer": one.optimizer, "width": one.width, "open": one.open_low or one.open_high, "largest_stable": one.largest_stable,
            "diverged": one.diverged, "trials": one.trials,
        } for one in found.basins
    ]  # fmt: skip
    least = any(math.isfinite(one.width) and (one.open_low or one.open_high) for one in found.basins)
    caption = (
        f"Basin: how many decades of step sizes around the best one come within {100 * WITHIN:.0f} % of the size of its score"
        + ("; ≥: it reaches to the last one tried" if least else "")
        + ". Largest stable: the largest one tried below which nothing diverged."
    )
    reasons = sorted({one.why for one in found.basins if one.why})
    caption += f" No basin where {' or '.join(reasons)}." if reasons else ""
    return {"rows": rows, "caption": caption}


def _defaults(results: Results, found: Findings) -> dict[str, Any]:
    rows = [
        {"optimizer": one.optimizer, "defaults": one.default, "tuned": one.tuned, "fate": one.fate}
        for one in found.defaults
        if math.isfinite(one.tuned)
    ]
    return {"rows": rows, "split": "training" if results.all_rows else "validation"} if rows else {}


__all__ = ["measured", "profile_of"]
