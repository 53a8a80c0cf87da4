"""The verdict in words: what was found, what the interval covers, and what it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from thalweg.study import reasons, remarks
from thalweg.study.results import Results
from thalweg.study.standings import Verdict, identity, missing
from thalweg.study.statistics import ALPHA
from thalweg.study.words import amount, gap, is_share, listing, number, p_value, plural, probability, setting

NOUNS = {"tune": "tuning trial", "final": "final run", "sweep": "run"}


def headline(results: Results, verdict: Verdict) -> str:
    """The verdict in one sentence (two where a study is unfinished)."""
    if verdict.basis == "nothing":
        return f"Nothing has been measured yet: 0 of {plural(sum(results.planned.values()), 'planned run')} are done."
    if verdict.leader is None:
        lost = "every run{} diverged" if (results.runs["status"] == "diverged").all() else "no run{} was trained to its end with a score"
        return f"No winner{' yet' * verdict.unfinished}: {lost.format(' so far' * verdict.unfinished)}."
    name = f"{verdict.leader} ({setting(verdict.config)})"
    what, value = score_name(results, verdict), amount(verdict.mean, verdict.standings.attrs["score"], verdict.half)
    if verdict.basis == "sweep":
        over = f"mean of {plural(verdict.seeds, 'seed')}" if verdict.seeds > 1 else "one seed"
        start = "So far the best" if verdict.unfinished else "Best"
        return f"{start} of {plural(_cells(results), 'setting')}: {name}, {what} {value} ({over}); a sweep makes no claim of significance."
    if verdict.basis == "tuning":
        return (
            f"Unfinished: judged by tuning alone, {name} has the best {what}, {value}; the final runs with fresh "
            "seeds are missing, "
            "so there is no winner yet."
        )
    return _final(results, verdict, name, what, value)


def _final(results: Results, verdict: Verdict, name: str, what: str, value: str) -> str:
    """The headline of a study that has final runs."""
    table = verdict.standings
    sound = table[table["sound"]]
    if verdict.unfinished:
        done, planned = len(results.runs[results.runs["phase"] == "final"]), results.planned.get("final", 0)
        seeds = plural(verdict.seeds, "seed")
        return f"Unfinished: {done} of {planned} final runs are done. So far {name} has the best mean {what}, {value} over {seeds}."
    if sound.empty:
        lost = "every optimizer diverged in some final run"
        if not table["diverged_finals"].all():
            lost = "no optimizer has a score from all of its final runs"
        return f"No winner: {lost}; {name} has the best mean {what} of those that finished, {value}."
    if verdict.seeds < 2:
        return f"{name} has the best {what}, {value}, but one seed gives no interval: no winner is declared."
    result = f"{verdict.leader}, {setting(verdict.config)}: {what} {value} over {plural(verdict.seeds, 'seed')}"
    if len(table) == 1:
        return f"{result}; it is the only optimizer, so there is nothing to compare it with."
    if len(sound) == 1:
        return f"{result}; it is the only optimizer whose final runs all finished."
    runner = sound.iloc[1]
    better = f"better than {runner['optimizer']} with probability {probability(runner['probability'])}"
    if verdict.winner:
        return f"{result}; {better}."
    tied = [verdict.leader, *sound.iloc[1:][~(sound.iloc[1:]["p_value"] <= ALPHA)]["optimizer"]]
    return (
        f"No clear winner: {listing([str(t) for t in tied])} cannot be told apart with "
        f"{plural(verdict.seeds, 'seed')}; "
        f"{name} has the best mean {what}, {value}; {better}."
    )


def sentences(results: Results, verdict: Verdict) -> Iterator[str]:
    """What else a reader must know, most important first."""
    if verdict.basis == "nothing":
        return
    table = verdict.standings
    if verdict.unfinished:
        parts = [f"{plural(count, NOUNS[phase])} of {results.planned[phase]:,}" for phase, count in missing(results).items()]
        yield f"The study is unfinished: {listing(parts)} are missing; running the same study again resumes it."
    if results.all_rows:
        yield "All rows were used for training: every score here is a training score and says nothing about new data."
    if verdict.basis == "final":
        yield from _divergence(table)
        yield from _differences(results, verdict)
        yield from remarks.ties(results, verdict)
        yield from _coverage(results, verdict)
        yield from remarks.goals(results, verdict)
    else:
        lost = [str(o) for o in table[table["diverged_tuning"] == 1]["optimizer"]]
        if lost and verdict.leader is not None:
            yield f"Every run of {listing(lost)} diverged."
        if verdict.leader is not None:
            yield _selected(results, verdict)
        else:
            yield "Search smaller learning rates, or look for values that are not finite in the data or in the first loss."
        yield from reasons.reasons(results, verdict.findings.runs)
    yield from remarks.robustness(verdict)
    yield from remarks.stability(results, verdict)
    yield from _defaults(results, verdict)
    yield from remarks.at_defaults(verdict)
    yield from remarks.cost(verdict)
    yield from _edges(results, table)
    yield from _baseline(results, verdict)


def score_name(results: Results, verdict: Verdict) -> str:
    """What the ranking's score is called: test accuracy, validation loss, training loss ..."""
    split = "training" if results.all_rows else "test" if verdict.basis == "final" else "validation"
    return f"{split} {verdict.standings.attrs['score']}"


def _divergence(table: pd.DataFrame) -> Iterator[str]:
    for row in table.to_dict("records"):
        count = row["diverged_finals"]
        whole = plural(len(row["runs"]), "final run")
        if count:
            yield f"{row['optimizer']} diverged in {count} of {whole}, so it cannot win, whatever its mean."
        elif row["seeds"] < len(row["runs"]) and not row["sound"]:
            yield f"{row['optimizer']} has a score from {row['seeds']} of {whole} only, so it cannot win, whatever its mean."
        elif row["diverged_tuning"] == 1:
            yield f"Every tuning trial of {row['optimizer']} diverged, so it has no final runs."


def _differences(results: Results, verdict: Verdict) -> Iterator[str]:
    sound = verdict.standings[verdict.standings["sound"]]
    if len(sound) < 2 or verdict.seeds < 2:
        return
    runner = sound.iloc[1]
    behind, half = abs(runner["difference"]), runner["difference_half"]
    if half == 0:
        yield (
            f"{runner['optimizer']} was {'level' if behind == 0 else f'behind by {gap(behind, results.score)}'} with every "
            "seed: the seeds show no chance at work, so the t-test measures none; other data may still turn the order."
        )
    elif math.isfinite(half):
        yield (
            f"{runner['optimizer']} ({setting(runner['config'])}) comes second, behind by "
            f"{gap(behind, results.score, half)} over the same seeds (paired t-test, adjusted {p_value(runner['p_value'])})."
        )


def _coverage(results: Results, verdict: Verdict) -> Iterator[str]:
    if verdict.leader is None:
        return
    if verdict.seeds < 2:
        yield ("One seed gives no interval: how far other initial weights and another batch order would move these scores is not known.")
    else:
        yield (
            f"The ± is a 95 % Student-t interval over {plural(verdict.seeds, 'seed')}: it covers initial weights and "
            "batch order, which all "
            "optimizers of a seed share."
        )
    rows = results.counts.get("test", 0)
    tuning = remarks.luck(results, verdict)
    if results.all_rows:
        yield f"Not covered: {tuning}."
        return
    sampling = f"the sampling error of the {plural(rows, 'test row') if rows else 'test rows'}"
    if math.isfinite(verdict.findings.sampling):
        sampling = f"the test set's sampling error (±{100 * verdict.findings.sampling:.1f} points for {rows:,} rows by itself)"
    elif rows:
        sampling += f" (not known for {results.score})"
    yield f"Not covered: {sampling}, and {tuning}."


def _selected(results: Results, verdict: Verdict) -> str:
    """What a score chosen as the best of several is worth."""
    if verdict.basis == "sweep":
        seeds = "one seed" if verdict.seeds == 1 else plural(verdict.seeds, "seed")
        return (
            f"The best of many is partly luck: with {seeds} no interval is given, and the same setting may score less on new seeds or data."
        )
    return "The best of several tuning trials with one seed is partly luck: its score will look better here than in the final runs."


def _defaults(results: Results, verdict: Verdict) -> Iterator[str]:
    if verdict.basis == "sweep" or verdict.leader is None:
        return
    row = verdict.standings[verdict.standings["optimizer"] == verdict.leader].iloc[0]
    split = "training" if results.all_rows else "validation"
    best, default = float(row["best_valid"]), float(row["default_valid"])
    if row["trials"] < 2 or math.isnan(best):
        return
    if math.isnan(default):
        fates = {one.optimizer: one.fate for one in verdict.findings.defaults}
        fate = {"diverged": "diverged", "stopped": "was stopped early"}.get(fates.get(verdict.leader, ""), "has no score")
        yield f"With its default settings {verdict.leader} {fate} in tuning."
    elif best == default:
        yield (f"No tuning trial of {verdict.leader} did better than its defaults ({split} {results.score} {amount(best, results.score)}).")
    else:
        yield (
            f"Tuning took {verdict.leader} from {amount(default, results.score)} with its defaults to "
            f"{amount(best, results.score)} "
            f"({split} {results.score}, one seed)."
        )


def _edges(results: Results, table: pd.DataFrame) -> Iterator[str]:
    """Whether a chosen step size lies at an edge of what was searched."""
    entries = {entry.get("label"): entry for entry in results.spec.get("optimizers", ()) if isinstance(entry, dict)}
    found: dict[str, list[str]] = {}
    for row in table.to_dict("records"):
        entry, config = entries.get(row["optimizer"]), row["config"] or {}
        for name in ("lr", "scale"):
            value = config.get(name)
            if entry is None or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            search = (entry.get("search") or {}).get(name)
            side = edge(float(value), search, tried(results.runs, row["optimizer"], name))
            if side:
                word = "learning rate" if name == "lr" else name
                found.setdefault(f"the {side} edge of the {word}s searched", []).append(f"{row['optimizer']} ({name} {number(value)})")
    for where, names in found.items():
        yield f"Chosen at {where}: {listing(names, 8)}; the optimum may lie outside the range."


def tried(runs: pd.DataFrame, optimizer: str, name: str) -> np.ndarray:
    """The values of a hyperparameter that an optimizer tried before the finals, diverged or not, sorted, each once."""
    rows = runs[(runs["optimizer"] == optimizer) & (runs["phase"] != "final")]
    return np.unique([float(c[name]) for c in rows["config"] if isinstance(c.get(name), int | float)])


def edge(value: float, search: Any, values: np.ndarray) -> str | None:
    """Which edge of a range a value is at, "lower" or "upper": outermost of three or more tried, or in the outer 5 %.

    >>> edge(0.9, {"low": 1e-5, "high": 1.0, "scale": "log"}, np.array([1e-4, 1e-2, 0.95]))
    'upper'
    """
    if not search:
        return None
    if len(values) >= 3 and value in (values[0], values[-1]):
        return "lower" if value == values[0] else "upper"
    if "values" in search or search.get("low") is None or search.get("high") is None:
        return None
    low, high = float(search["low"]), float(search["high"])
    if search.get("scale") == "log" and min(low, high, value) > 0:
        low, high, value = math.log(low), math.log(high), math.log(value)
    place = (value - low) / (high - low)
    return "lower" if place < 0.05 else "upper" if place > 0.95 else None


def _baseline(results: Results, verdict: Verdict) -> Iterator[str]:
    rules = {e.get("label"): e.get("rule") for e in results.spec.get("optimizers", ()) if isinstance(e, dict)}
    for row in verdict.standings.to_dict("records"):
        label = row["optimizer"]
        if rules.get(label, label) != "random_search" or math.isnan(row["mean"]):
            continue
        what, score = score_name(results, verdict), verdict.standings.attrs["score"]
        classes = results.classes
        chance = f"; chance level is about {100 / classes:.0f} %" if is_share(score) and isinstance(classes, int) and classes > 1 else ""
        yield (
            f"{label} ignores the gradient: it is the gradient-free baseline, and reached {what} "
            f"{amount(row['mean'], score, row['half'])}{chance}."
        )


def _cells(results: Results) -> int:
    """Distinct settings of a sweep."""
    pairs = zip(results.runs["optimizer"], results.runs["config"], strict=True)
    return len({(label, identity(config)) for label, config in pairs})
