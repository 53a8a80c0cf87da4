"""The findings in words: what would decide, how fast, how robust, how much tuning; a short sentence each."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from thalweg.study.pool import WITHIN, Search
from thalweg.study.results import Results
from thalweg.study.standings import Verdict
from thalweg.study.statistics import MOST_SEEDS
from thalweg.study.words import amount, gap, listing, number, plural

METHOD = (
    "Intervals are 95 % Student-t intervals over seeds; differences are taken seed by seed. A winner is declared where the 95 % interval "
    "of its difference to every other optimizer leaves out 0 (two-sided paired t-tests at 5 %).",
    "Who else is told apart from the best is adjusted for the best having been picked in the same data: of the p-values, sorted, the one "
    "with m optimizers left is multiplied by m (m + 1) / 2, and none is raised above the largest of all.",
    "The probability that the best is better is the t posterior of the mean difference under a flat prior.",
    "Seeds that would decide: by the noncentral t distribution, for 80 % power at the differences and spreads seen. The largest true "
    "difference is where two one-sided 5 % t-tests call two optimizers equivalent.",
)
"""How the verdict is reached, in sentences."""


def ties(results: Results, verdict: Verdict) -> Iterator[str]:
    """How far apart at most those are that cannot be told apart, and how many seeds would decide."""
    found = verdict.findings
    tied = [pair for pair in found.pairs if not pair.apart and math.isfinite(pair.at_most)]
    if verdict.winner or verdict.unfinished or not tied:
        return
    widest = max(pair.at_most for pair in tied)
    names = listing([pair.optimizer for pair in tied])
    many = (
        f"more than {MOST_SEEDS:,} seeds would be needed to find a winner"
        if found.seeds_needed is None
        else f"{about(found.seeds_needed)} seeds would find a winner (80 % chance, were the differences seen the true ones)"
    )
    if widest > 0:
        yield f"The true difference of {verdict.leader} to {names} is at most {gap(widest, results.score)} (95 %); {many}."
    if len(found.candidates) < len(found.tied):
        yield f"The best of all is among {listing(found.candidates, 8)} (95 %)."
    if widest < found.sampling:
        own = f"{100 * found.sampling:.1f} points"
        yield f"That is less than the test rows' own ±{own}: more test rows would tell more than more seeds."


def about(seeds: int) -> str:
    """A number of seeds to the two digits it is worth.

    >>> about(18), about(152)
    ('18', 'about 150')
    """
    return str(seeds) if seeds < 100 else f"about {float(f'{seeds:.2g}'):,.0f}"


def luck(results: Results, verdict: Verdict) -> str:
    """What tuning luck is, for the sentence that names what the interval does not cover."""
    trials = int(verdict.standings["trials"].max())
    said = f"one tuning seed, {plural(trials, 'trial')} an optimizer"
    size = verdict.findings.luck
    if math.isfinite(size) and size > 0:
        said += f"; one in ten such searches would have ended {gap(size, results.score)} worse or more"
    return f"tuning luck ({said})"


def goals(results: Results, verdict: Verdict) -> Iterator[str]:
    """Steps to the goal, fastest first."""
    found = verdict.findings
    if found.goal is None or len(found.reach) < 2:
        return
    split = "training" if results.all_rows else "validation"
    ordered = sorted(found.reach, key=lambda one: (one.median, -one.reached))
    far = [f"{one.median:,.0f}" if math.isfinite(one.median) else f"never ({one.reached} of {len(one.steps)} runs)" for one in ordered]
    parts = [f"{one.optimizer} {steps}" for one, steps in zip(ordered, far, strict=True)]
    why = "" if found.goal.rule == "given" else f", {found.goal.rule}"
    yield f"Updates to {split} {results.score} {amount(found.goal.value, results.score)}{why} (median over seeds): {listing(parts, 6)}."


def robustness(verdict: Verdict) -> Iterator[str]:
    """The width of each basin of step sizes, widest first, and from where on the leader's diverges."""
    known = [one for one in verdict.findings.basins if math.isfinite(one.width)]
    if len(known) > 1:
        ordered = sorted(known, key=lambda one: -one.width)
        parts = [f"{one.optimizer} {'at least ' * (one.open_low or one.open_high)}{one.width:.1f}" for one in ordered]
        yield f"Decades of step sizes within {100 * WITHIN:.0f} % of the best score: {listing(parts, 6)}."
    for one in verdict.findings.basins:
        if one.optimizer == verdict.leader and math.isfinite(one.smallest_diverged):
            yield f"{one.optimizer} diverged from {one.name} {number(one.smallest_diverged)} on; its best is {number(one.best)}."


def stability(results: Results, verdict: Verdict) -> Iterator[str]:
    """From which rate on an optimizer diverged, beside the one that the curvature at the initial weights predicts."""
    looked = results.plan.get("curvature") or {}
    predicted, parts = looked.get("stable", {}), []
    for one in verdict.findings.basins:
        if one.name != "lr" or one.optimizer not in predicted:
            continue
        if math.isnan(one.smallest_diverged):
            seen = f"not up to {number(one.largest_stable)}"
        elif math.isnan(one.largest_stable):
            seen = f"from {number(one.smallest_diverged)} on, the lowest tried"
        else:
            seen = f"between {number(one.largest_stable)} and {number(one.smallest_diverged)}"
        parts.append(f"{one.optimizer} {seen} (predicted {number(predicted[one.optimizer])})")
    if parts:
        top = number(max(looked["start"].values()))
        yield f"Rates above which runs diverged, and as the largest curvature {top} at the initial weights predicts: {listing(parts, 6)}."


def cost(verdict: Verdict) -> Iterator[str]:
    """After how many trials a search for the leader's setting is near its best."""
    for one in verdict.findings.searches:
        near = enough(one)
        if one.optimizer == verdict.leader and near is not None and len(one.trials) > 2:
            total, within = len(one.trials), f"within {100 * WITHIN:.0f} % of its best score"
            yield f"Half of all searches with {plural(near, 'trial')} instead of {total} would have brought {one.optimizer} {within}."


def enough(one: Search) -> int | None:
    """The fewest trials whose median best is within 1 % of the size of the best found; None where no trial has a score."""
    if not len(one.trials) or math.isnan(one.median[-1]):
        return None
    best = float(one.median[-1])
    return int(one.trials[np.flatnonzero(np.abs(one.median - best) <= WITHIN * abs(best))[0]])


def at_defaults(verdict: Verdict) -> Iterator[str]:
    """Where the best without tuning is another than the best with it."""
    found = verdict.findings
    if found.best_at_defaults is not None and len(found.defaults) > 1 and found.best_at_defaults != found.best_tuned:
        yield f"Without tuning, {found.best_at_defaults} is the best in validation; tuned, {found.best_tuned} is."
