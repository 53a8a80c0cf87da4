"""How it was measured: every rule that was used, in sentences, from what the study really did."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from thalweg.study.courses import courses
from thalweg.study.judge import seeds_planned
from thalweg.study.remarks import METHOD
from thalweg.study.report.curves import CALM_POINTS, POINTS, TRIAL_POINTS
from thalweg.study.results import Results
from thalweg.study.words import number, plural, setting


def method(results: Results, measured: Mapping[str, Any] | None = None) -> list[str]:
    """The rules of a study, a sentence or two each, in the order in which they were applied."""
    said = [*_rows(results), *(_sweep(results) if results.kind == "sweep" else _comparison(results)), *_fates(results), *_repeat(results)]
    return [*said, *_slots(measured or {}), *_figures(results)]


def _rows(results: Results) -> Iterator[str]:
    spec = results.spec
    counts = ", ".join(f"{count:,} {split}" for split, count in results.counts.items())
    size = [
        plural(int(spec["steps"]), "update") if spec.get("steps") else "",
        f"batch size {spec['batch_size']}" if spec.get("batch_size") else "",
    ]
    if counts or any(size):
        yield "Rows: " + counts + "." * bool(counts) + (f" Every run: {', '.join(s for s in size if s)}." if any(size) else "")
    if results.all_rows:
        yield "Validation and test rows are the training rows themselves: every score is a training score."


def _sweep(results: Results) -> Iterator[str]:
    yield "Every setting of the grid was trained; all runs of one seed start from the same weights and see the same batches."
    runs = courses(results)
    if results.all_rows:
        yield "Settings are ranked by their training loss (mean of the last tenth of the records)."
    else:
        tested = any(math.isfinite(one.test) for one in runs)
        use = "test data were touched once, at the end of each run, and rank nothing" if tested else "test data were not used"
        yield f"Settings are ranked by validation {results.score}; {use}."
    if any(math.isfinite(one.curvature_start) for one in runs):
        yield (
            "Curvature: the largest eigenvalue of the Hessian of the training loss, by Lanczos's method, at a run's initial and at its "
            "final weights. On a quadratic of that curvature gradient descent is stable below lr = 2 / curvature, with momentum m below "
            "2 (1 + m) / curvature, in Nesterov's form below 2 (1 + m) / (1 + 2 m) / curvature; of other rules nothing is said."
        )


def _comparison(results: Results) -> Iterator[str]:
    runs, spec = results.runs, results.spec
    tune = runs[runs["phase"] == "tune"] if len(runs) else runs
    trials = int(spec.get("budget") or (tune.groupby("optimizer").size().max() if len(tune) else 0))
    seeds = seeds_planned(results) or int(spec.get("seeds") or 0)
    yield (
        f"Tuning: every optimizer got the same budget, {plural(trials, 'trial')}. The first trial is the rule's defaults, then come the "
        "settings that were named to be tried first; the others are scrambled Sobol points of its search range (below). All trials share "
        "one seed: initial weights, batches and noise."
    )
    yield (
        f"Choice: the trial with the best validation {results.score} at its end; ties go to the lower validation loss, then to the "
        "earlier trial. Test data play no part in it."
    )
    yield (
        f"Final runs: the chosen setting of each optimizer is trained again with {plural(seeds, 'fresh seed')}; "
        "the test data are touched once, at the end of each."
    )
    yield (
        "Pairing: with one seed, all optimizers start from the same initial weights and see the same batches in the same order, so "
        "differences are taken seed by seed."
    )
    yield from METHOD


def _fates(results: Results) -> Iterator[str]:
    yield (
        "A run has diverged when its loss or its gradient is not finite, or its loss exceeds 10,000 × max(1, its initial loss); it is then "
        "stopped, and its setting is never chosen"
        + ("." if results.kind == "sweep" else "; an optimizer with a diverged final run never wins.")
    )
    found = set(results.runs["status"]) if len(results.runs) else set()
    if "stopped" in found:
        yield (
            "Successive halving: trials that were behind when a part of the updates was done were stopped early. Their scores are those of "
            "that moment; such a setting is never chosen."
        )
    if "failed" in found:
        yield "A run has failed when its code raised an error; its setting is never chosen."


def _repeat(results: Results) -> Iterator[str]:
    yield (
        "Batches: a permutation of the training rows an epoch, drawn from the seed alone, the short last batch kept; "
        "tw.batches(n, batch_size, seed) gives the same indices. Noise such as dropout is drawn from the seed and the update alone."
    )
    yield (
        "Seconds: optimizers that train together share their time, so nothing is ranked by the wall time of this study. The plan (engine, "
        "lanes, threads) was fixed before the first update: the same command on the same machine and versions repeats every run exactly."
    )


def _slots(measured: Mapping[str, Any]) -> Iterator[str]:
    """What was done for each of the judge's further numbers, as far as they are on the page."""
    if measured.get("tuning_cost"):
        yield (
            "Tuning cost: the median, and the 10 % and 90 % quantiles, of the best validation score of n trials drawn from those that were "
            "made, over all ways to draw them; a trial without a score counts as the worst that has one."
        )
    if measured.get("profile"):
        yield "Performance profile (Dolan and Moré 2002): on each problem, an optimizer's cost is divided by the least cost of any."
    if measured.get("targets"):
        yield "Reaching the target: the first evaluation of a final run whose validation score is at least as good."


def _figures(results: Results) -> Iterator[str]:
    longest = max((len(curve.steps) for curve in results.curves.values()), default=0)
    if longest > CALM_POINTS:
        thinned = (
            f"lines of more than {POINTS} records (trials: {TRIAL_POINTS}) are drawn through the smallest and the largest record of "
            "each of equal stretches, so that no spike is lost; "
        )
        yield f"Figures: {thinned}bold lines of batch losses and gradient norms are means over {CALM_POINTS} equal stretches."
    yield (
        "Axes leave out what lies far from the other runs, so that a diverged run flattens nothing; every number is in the table of runs "
        "and in what the pointer shows."
    )


def searched(results: Results) -> list[tuple[str, str]]:
    """What each optimizer was: (label, the rule, what was fixed and what was searched)."""
    rows = []
    for entry in results.spec.get("optimizers", ()):
        if not isinstance(entry, Mapping) or "label" not in entry:
            continue
        rule, label = str(entry.get("rule", "")), str(entry["label"])
        parts = [f"rule {rule}" if rule and rule != label else ""]
        parts.append(f"fixed: {setting(entry['fixed'])}" if entry.get("fixed") else "")
        ranges = [f"{name} {span(found)}" for name, found in (entry.get("search") or {}).items()]
        parts.append(f"searched: {', '.join(ranges)}" if ranges else "nothing searched")
        rows.append((label, "; ".join(part for part in parts if part)))
    return rows


def span(search: Any) -> str:
    """What was searched of one hyperparameter.

    >>> span({"low": 1e-5, "high": 1.0, "scale": "log"}), span({"values": [0.9, 0.99]})
    ('1e-5 to 1 (log)', '0.9 or 0.99')
    """
    if not isinstance(search, Mapping):
        return number(search)
    if search.get("values") is not None:
        return " or ".join(setting(v) if isinstance(v, Mapping) else number(v) for v in search["values"])
    scale = str(search.get("scale", "linear"))
    return f"{number(search.get('low'))} to {number(search.get('high'))}" + (f" ({scale})" if scale != "linear" else "")


__all__ = ["method", "searched", "span"]
