"""The runs of a small sweep in a table and in words: how each went, and why, by the curvature that was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from thalweg.study.courses import FEW, Course
from thalweg.study.results import Results
from thalweg.study.words import amount, listing, number, setting

EDGE = 0.9
"""Of the stable curvature: a run that ends above lies at the edge of stability, where its loss rises and falls about one level."""

TO_AND_FRO = "above that rate it oscillates, since a step crosses the valley and lands higher on the other side, to and fro"
UNSEEN = "by these it is stable; on its way it may have met a larger one, which was not measured"


def table(results: Results, runs: Sequence[Course]) -> list[dict[str, str]]:
    """A row a run, column -> text; columns of which nothing is known are left out."""
    score = results.score
    seeds, bounded = len({one.seed for one in runs}) > 1, any(math.isfinite(one.curvature_stable) for one in runs)
    rows = []
    for one in runs:
        row = {"optimizer": one.optimizer, "setting": setting(one.config)}
        row |= {"seed": str(one.seed)} if seeds else {}
        row["training loss"] = amount(one.train_loss, "loss")
        if not results.all_rows:
            row |= {f"validation {score}": amount(one.valid, score), f"test {score}": amount(one.test, score)}
        row["fluctuation"] = _share(one.fluctuation)
        if bounded:
            ends = {"curvature, start": one.curvature_start, "curvature, end": one.curvature_end, "stable below": one.curvature_stable}
            row |= {name: number(value) for name, value in ends.items()}
        rows.append(row | {"ended": f"diverged at {one.diverged_at:,}" if one.status == "diverged" else one.status})
    return rows


def caption(results: Results, runs: Sequence[Course]) -> str:
    """What the columns of `table` hold."""
    said = "Fluctuation: of the way that the training loss went, up and down, the share that it went up."
    if not results.all_rows:
        said = f"Test {results.score}, taken once at the end of each run, ranks nothing. {said}"
    if any(math.isfinite(one.curvature_stable) for one in runs):
        said += " Curvature: the largest eigenvalue of the training loss's Hessian; at its rate a run is stable below the last of them."
    return said


def reasons(results: Results, runs: Sequence[Course]) -> Iterator[str]:
    """Test scores and fluctuation of all runs, then a sentence a setting of which it is known what its rule bears."""
    if not runs:
        return
    names = named(runs)
    if not results.all_rows and any(math.isfinite(one.test) for one in runs):
        scores = [f"{amount(one.test, results.score)} with {names[one.run]}" for one in runs]
        yield f"Test {results.score} at the end of each run, which ranks nothing: {listing(scores, FEW)}."
    parts = [f"{_share(one.fluctuation)} with {names[one.run]}" for one in runs]
    chance = "; batches are parts of the rows, so much of it is chance" if any(one.kind == "noisy" for one in runs) else ""
    yield f"Fluctuation, of the way that the training loss went the share that it went up: {listing(parts, FEW)}{chance}."
    for one in _each(runs):
        said = _said(results, one)
        if said:
            yield f"{names[one.run]} {said}."
    measured = (results.plan.get("curvature") or {}).get("rows", 0)
    if 0 < measured < results.counts.get("train", 0):
        yield f"Curvature was measured on {measured:,} of the {results.counts['train']:,} training rows."


def named(runs: Sequence[Course]) -> dict[str, str]:
    """Run -> what tells it from the others: the hyperparameters that vary, the seed, and its optimizer unless one of these is enough."""
    several, seeds = len({one.optimizer for one in runs}) > 1, len({one.seed for one in runs}) > 1
    names = dict.fromkeys(name for one in runs for name in one.config)
    varied = [name for name in names if len({str(one.config.get(name)) for one in runs if name in one.config}) > 1]
    found = {}
    for one in runs:
        own = {name: value for name, value in one.config.items() if name in varied} | ({"seed": one.seed} if seeds else {})
        inside = setting(own) if own else ""
        found[one.run] = inside if len(own) == 1 and not several else f"{one.optimizer} ({inside})" if own else one.optimizer
    return found


def _each(runs: Sequence[Course]) -> list[Course]:
    """A run a setting: of several seeds the one that fluctuates most."""
    found: dict[tuple[str, str], Course] = {}
    for one in runs:
        key = (one.optimizer, setting(one.config))
        if key not in found or one.fluctuation > found[key].fluctuation:
            found[key] = one
    return list(found.values())


# --- how a run went, and why


def _said(results: Results, one: Course) -> str | None:
    """How a run went and why; None where it is not known what its rule bears."""
    if not (math.isfinite(one.curvature_stable) and math.isfinite(one.curvature_start)):
        return None
    first, last = one.curvature_start >= EDGE * one.curvature_stable, one.curvature_end >= EDGE * one.curvature_stable
    if one.kind == "noisy":
        size = results.spec.get("batch_size")
        noise = f"batches of {size} rows differ as well, so a part of its fluctuation is noise"
        return f"takes larger steps than its loss bears{_curved(one)}; {noise}" if first or last else None
    if one.kind == "diverged":
        return f"diverged at step {one.diverged_at:,}{_curved(one)}: {TO_AND_FRO if first else UNSEEN}"
    if one.kind in ("oscillates", "overshoots"):
        return f"{one.kind}: its loss {_rises(one)}{_curved(one)}: {_because(one, first, last)}"
    if math.isnan(one.late):  # it never fell
        return None
    how = f"is slow: {100 * one.late:.0f} % of its fall came in the second half of its steps" if one.kind == "slow" else "fell steadily"
    part = one.curvature_start / one.curvature_stable  # of the limit at its first step
    size = f"1/{1 / part:.0f}" if 0 < part < 0.1 else number(part)
    return f"{how}; its rate is {size} {'times' if part > 1 else 'of'} what is stable at its initial weights" if part > 0 else how


def _rises(one: Course) -> str:
    steps = "steps" if one.every == 1 else f"records, {one.every} steps apart"
    often = f" ({100 * one.rose / one.of:.0f} %)" if one.of >= 100 else ""
    rise = f"at the most from {amount(one.rise[0], 'loss')} to {amount(one.rise[1], 'loss')}"
    return f"rose in {one.rose:,} of {one.of:,} {steps}{often}, {rise}"


def _curved(one: Course) -> str:
    """The larger of the curvatures measured along a run, and below which rate its rule is stable there; then the other."""
    start, end = one.curvature_start, one.curvature_end
    at_end = end > start
    who = "gradient descent is" if math.isclose(_factor(one), 2) else "with this momentum it is"
    top, where = (end, "final") if at_end else (start, "initial")
    said = f". The largest curvature measured along its run is {number(top)}, at its {where} weights, where {who} stable only below"
    said += f" {_limit(one, top)}"
    if math.isfinite(end):
        other, where = (start, "initial") if at_end else (end, "final")
        said += f" (at its {where} ones {number(other)}: below {_limit(one, other)})"
    return said


def _because(one: Course, first: bool, last: bool) -> str:
    if last:
        return "it is still at the edge of what is stable, where a step crosses the valley and lands as high on the other side"
    if first:
        return f"{TO_AND_FRO}, until it is thrown to where the loss is flatter"
    return UNSEEN if math.isclose(_factor(one), 2) else f"{UNSEEN}; and momentum swings past a minimum and back also where it is stable"


def _factor(one: Course) -> float:
    """What a stable rate times the curvature, weight decay included, stays below: 2 for gradient descent."""
    return (one.curvature_stable + _decay(one)) * float(one.config.get("lr", math.nan))


def _decay(one: Course) -> float:
    return float(one.config.get("weight_decay") or 0.0)


def _limit(one: Course, curvature: float) -> str:
    """The rate below which the rule is stable, as a fraction."""
    decay, factor = _decay(one), _factor(one)
    if curvature + decay <= 0:
        return "any rate"
    under = f"({number(curvature)} + {number(decay)})" if decay else number(curvature)
    return f"{number(factor)}/{under} = {number(factor / (curvature + decay))}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"
