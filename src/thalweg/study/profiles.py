"""Performance profiles over several problems. Dolan & More 2002, "Benchmarking optimization software with performance profiles"."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from thalweg.errors import UserError
from thalweg.study.judge import Verdict, judge
from thalweg.study.results import Results

LIMIT = 4.0
"""Up to which multiple of the best cost a profile's area is taken, as in AlgoPerf (Dahl et al. 2023, arXiv:2306.07179)."""

What = Literal["error", "steps", "samples", "seconds"]


class Finished(Protocol):
    """What is asked of a study."""

    def results(self) -> Results: ...


@dataclass(frozen=True)
class Profiles:
    """Profiles of several optimizers over several problems.

    ratios: problems x optimizers, cost / least cost on that problem, inf where an optimizer failed. curves: its index are the
    ratios tau >= 1 at which some profile rises, a column an optimizer, the share of problems on which its ratio is at most tau; between
    two rows it stays level. area: optimizer -> the mean height of its profile for tau in [1, limit], in [0, 1], best first.
    """

    ratios: pd.DataFrame
    curves: pd.DataFrame
    area: pd.Series
    limit: float


def profiles(costs: pd.DataFrame, limit: float = LIMIT) -> Profiles:
    """Profiles from a table of costs, problems x optimizers: positive or 0, less is better, inf where an optimizer failed.

    Where the least cost is 0, those that have it get the ratio 1 and all others inf. Where all failed, nobody gets credit. A profile
    ranks the best on each problem; the order of the others may change with who takes part (Gould & Scott 2016). Raises UserError for
    negative or missing costs and a limit of 1 or less.

    >>> found = profiles(pd.DataFrame({"adam": [10.0, 30.0], "sgd": [20.0, 15.0]}, index=["digits", "iris"]))
    >>> found.ratios.loc["digits"].tolist(), found.curves["sgd"].tolist()      # sgd: 2 times the best, and the best
    ([1.0, 2.0], [0.5, 1.0])
    >>> found.area.round(3).to_dict()                                          # the mean of (4 - 1) / 3 and (4 - 2) / 3
    {'adam': 0.833, 'sgd': 0.833}
    """
    values = costs.to_numpy(float)
    if not values.size:
        raise UserError("a performance profile needs at least one problem and one optimizer")
    if np.isnan(values).any():
        row, column = (int(i[0]) for i in np.nonzero(np.isnan(values)))
        raise UserError(f"{costs.columns[column]} has no cost on {costs.index[row]}; leave it out, or give inf where it failed")
    if (values < 0).any():
        raise UserError("a performance profile needs costs of at least 0, such as steps or an error")
    if not limit > 1:
        raise UserError(f"limit = {limit} must be above 1")
    least = values.min(axis=1, keepdims=True)
    ratio = np.full(values.shape, math.inf)
    np.divide(values, least, out=ratio, where=np.isfinite(values) & (least > 0))
    ratio[(values == least) & np.isfinite(values)] = 1.0
    steps = np.unique(np.append(ratio[np.isfinite(ratio)], 1.0))
    heights = (ratio[None] <= steps[:, None, None]).mean(axis=1)  # (steps, optimizers)
    area = np.maximum(0.0, limit - ratio).mean(axis=0) / (limit - 1)
    return Profiles(
        pd.DataFrame(ratio, costs.index, costs.columns),
        pd.DataFrame(heights, pd.Index(steps, name="ratio"), costs.columns),
        pd.Series(area, costs.columns, name="area").sort_values(ascending=False, kind="stable"),
        limit,
    )


def cost_table(studies: Mapping[str, Finished] | Iterable[Finished], what: What = "error") -> pd.DataFrame:
    """Problems x optimizers, for `profiles`, from finished comparisons; the optimizers that all of them have.

    what: "error" is the mean score over the final runs made a cost (1 - accuracy, 1 - r2, the loss itself); "steps", "samples" and
    "seconds" are the medians to each study's own goal. inf where an optimizer has a diverged final run or never got there. Raises
    UserError for unfinished studies, studies without an optimizer in common, and scores or seconds that make no cost.
    """
    found = {name: study.results() for name, study in studies.items()} if isinstance(studies, Mapping) else _named(studies)
    if not found:
        raise UserError("give at least one study")
    verdicts = {name: judge(results) for name, results in found.items()}
    for name, verdict in verdicts.items():
        if verdict.basis != "final" or verdict.unfinished:
            raise UserError(f"{name} is not a finished comparison; run it to its end first")
    common = [o for o in next(iter(found.values())).optimizers if all(o in results.optimizers for results in found.values())]
    if not common:
        raise UserError("these studies have no optimizer in common")
    rows = [_costs(found[name], verdicts[name], what) for name in found]
    return pd.DataFrame(rows, index=list(found))[common]


MEASURES: tuple[tuple[What, str], ...] = (("steps", "updates to each study's own target"), ("error", "the error of the final runs"))
"""What a profile may compare, the preferred first, and what it is called."""


def overall(studies: Mapping[str, Finished]) -> tuple[str, Profiles] | None:
    """What is compared, in words, and the profiles of several studies; None where they cannot be compared, such as unfinished ones."""
    if len(studies) < 2:
        return None
    for what, measure in MEASURES:
        try:
            found = profiles(cost_table(studies, what))
        except UserError:
            continue
        if np.isfinite(found.ratios.to_numpy()).any():
            return measure, found
    return None


def _named(studies: Iterable[Finished]) -> dict[str, Results]:
    found: dict[str, Results] = {}
    for study in studies:
        results = study.results()
        if results.name in found:
            raise UserError(f"two studies are called '{results.name}'; give a mapping from names of your own to studies")
        found[results.name] = results
    return found


def _costs(results: Results, verdict: Verdict, what: What) -> dict[str, float]:
    table = verdict.standings.set_index("optimizer")
    sound = table["sound"].astype(bool)
    if what == "error":
        return {str(o): error(float(table.loc[o, "mean"]), results) if sound[o] else math.inf for o in table.index}
    reach = {one.optimizer: one for one in verdict.findings.reach}
    if not reach:
        raise UserError(f"{results.name} has no goal to reach: none of its final runs has a validation curve")
    costs = {}
    for o in table.index:
        one = reach.get(str(o))
        costs[str(o)] = math.inf
        if one is None:
            continue
        if what == "seconds" and one.seconds is None:
            raise UserError(f"{results.name}: no seconds for {o}: {one.why_no_seconds}; use what='steps'")
        costs[str(o)] = {"steps": one.median, "samples": one.samples, "seconds": one.seconds or 0.0}[what]
    return costs


def error(score: float, results: Results) -> float:
    """A score as a cost: 1 - accuracy, 1 - r2, the loss itself."""
    if results.score.endswith("accuracy") or results.score == "r2":
        return max(0.0, 1.0 - score)
    if not results.higher and score >= 0:
        return score
    raise UserError(f"{results.name}: '{results.score}' has no natural error; compare its studies by what='steps'")
