"""How often the judge is right, on synthetic studies of which the truth is known.

    python bench/judge.py [--quick] [--json PATH | --save]

The rule under test is `thalweg.study.statistics.contest`, the very function by which `compare` declares a winner; beside it stand the rules
that it was chosen over. The exit code is 1 where a promise is missed. `--save` writes bench/results/judge-<date>.json.

A score is an optimizer's mean, plus the luck of the seed, which all optimizers share, plus noise of its own. Differences are told in
standard deviations of the paired differences, which is sqrt(2) times the noise.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from thalweg.study.statistics import ALPHA, MOST_SEEDS, Contest, at_most, contest, half_width, paired, power, seeds_needed

ALIKE = (0.0,) * 5
TWO = (0.0, 0.0, -20.0, -20.0, -20.0)
ONE = (1.3, 0.0, 0.0, 0.0, 0.0)
SPACED = (1.3, 0.0, -1.0, -2.0, -3.0)
EVEN = (1.0,) * 5
STEADY_BUT_ONE = (0.2, 0.2, 0.2, 0.2, 3.0)
ERRATIC_PAIR = (3.0, 3.0, 0.2, 0.2, 0.2)

FIELDS = {
    "five alike": (ALIKE, EVEN),
    "two alike": (ALIKE[:2], EVEN[:2]),
    "two alike, three far behind": (TWO, EVEN),
    "five alike, one erratic": (ALIKE, STEADY_BUT_ONE),
    "one better by 0.3": ((0.3, 0.0, 0.0, 0.0, 0.0), EVEN),
    "one better by 1.3": (ONE, EVEN),
}

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Exponential, as of runs that now and then end badly; variance 1."""
    return 1 - rng.standard_exponential(shape)


def draw(means: Sequence[float], spreads: Sequence[float], seeds: int, studies: int, seed: int, noise: Noise = normal) -> np.ndarray:
    """Scores (studies, optimizers, seeds); means in standard deviations of the paired differences of two of spread 1."""
    rng = np.random.default_rng([seed, seeds, *(round(100 * abs(x)) for x in (*means, *spreads))])
    own = noise(rng, (studies, len(means), seeds)) * np.asarray(spreads)[:, None] * math.sqrt(0.5)
    return np.asarray(means)[:, None] + 2 * rng.standard_normal((studies, 1, seeds)) + own


# --- the rules: scores -> whether each optimizer is told apart from the best one, (studies, optimizers), true at the best


def thalweg(scores: np.ndarray) -> np.ndarray:
    found = contest(scores)
    return _own(found, found.adjusted <= ALPHA)


def holm_t(scores: np.ndarray) -> np.ndarray:
    """Paired t-tests of the best against each other one, Holm-adjusted for their number."""
    found = contest(scores)
    p = np.sort(found.p_value, axis=1)[:, :-1]
    m = p.shape[1]
    ranks = np.argsort(np.argsort(found.p_value, axis=1), axis=1)
    adjusted = np.maximum.accumulate(p * (m - np.arange(m)), axis=1)
    return _own(found, np.take_along_axis(np.hstack([adjusted, np.full((len(p), 1), 2.0)]), ranks, 1) <= ALPHA)


def all_pairs_t(scores: np.ndarray) -> np.ndarray:
    """Paired t-tests, Bonferroni-adjusted for all pairs."""
    found = contest(scores)
    k = scores.shape[1]
    return _own(found, found.p_value * k * (k - 1) / 2 <= ALPHA)


def pooled(critical: Callable[[int, int], float]) -> Callable[[np.ndarray], np.ndarray]:
    """One residual variance for all, of the two-way layout without interaction: (k - 1)(n - 1) degrees of freedom."""

    def rule(scores: np.ndarray) -> np.ndarray:
        found = contest(scores)
        _, k, n = scores.shape
        rest = scores - scores.mean(1, keepdims=True) - scores.mean(2, keepdims=True) + scores.mean((1, 2), keepdims=True)
        df = (k - 1) * (n - 1)
        error = np.sqrt(2 * (rest**2).sum((1, 2)) / df / n)
        return _own(found, np.abs(found.difference) / error[:, None] >= critical(k, df))

    return rule


def dunnett(k: int, df: int) -> float:
    """The one-sided 5 % point of k - 1 comparisons with one (Hsu's multiple comparisons with the best), by simulation."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((200_000, k))
    t = (z[:, :1] - z[:, 1:]).max(1) / np.sqrt(2 * rng.chisquare(df, len(z)) / df)
    return float(np.quantile(t, 1 - ALPHA))


def tukey(k: int, df: int) -> float:
    return float(stats.studentized_range.ppf(1 - ALPHA, k, df)) / math.sqrt(2)


RULES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "thalweg": thalweg,
    "holm-t": holm_t,
    "all pairs-t": all_pairs_t,
    "pooled, t": pooled(lambda k, df: float(stats.t.ppf(1 - ALPHA / 2, df))),
    "pooled, Dunnett (Hsu MCB)": pooled(dunnett),
    "pooled, Tukey": pooled(tukey),
}


KEPT = ("thalweg",)


def _own(found: Contest, apart: np.ndarray) -> np.ndarray:
    return apart | (np.arange(apart.shape[1]) == found.best[:, None])


# --- what is measured


def coverage(seeds: int, studies: int, noise: Noise = normal) -> dict[str, float]:
    """How often intervals hold the truth: of a mean; of a pair named in advance; of the best, picked in the same data, against each."""
    found = {}
    for name, means in (("alike", ALIKE), ("one better", ONE)):
        scores = draw(means, EVEN, seeds, studies, 1, noise)
        truth = np.asarray(means)
        found[f"mean, {name}"] = float(np.mean(np.abs(scores.mean(2) - truth) <= half_width(scores)))
        mean, half, _, _ = paired(scores[:, 0], scores[:, 1], True)
        found[f"pair named in advance, {name}"] = float(np.mean(np.abs(mean - (truth[1] - truth[0])) <= half))
        best = contest(scores)
        own = np.take_along_axis(np.abs(scores.mean(2) - truth) <= half_width(scores), best.best[:, None], 1)
        found[f"mean of the best, {name}"] = float(np.mean(own))
        others = np.arange(len(means)) != best.best[:, None]
        miss = np.abs(best.difference - (truth - truth[best.best][:, None]))
        found[f"best against each, {name}"] = float(np.mean((miss <= best.half)[others]))
        margin = at_most(best.difference, best.sd, best.seeds)
        found[f"margin of equivalence, {name}"] = float(np.mean((np.abs(truth - truth[best.best][:, None]) <= margin)[others]))
    return found


def bootstrapped(seeds: int, studies: int) -> float:
    """How often the percentile bootstrap of a mean, which thalweg does not use, holds the truth where it says 95 %."""
    rng = np.random.default_rng([5, seeds])
    values = rng.standard_normal((studies, seeds))
    drawn = rng.integers(seeds, size=(500, seeds))
    low, high = np.quantile(values[:, drawn].mean(2), [0.025, 0.975], axis=1)
    return float(np.mean((low <= 0) & (high >= 0)))


def judged(
    means: Sequence[float], spreads: Sequence[float], seeds: int, studies: int, names: Sequence[str] = tuple(RULES)
) -> dict[str, dict[str, float]]:
    """By rule: how often a winner is declared, rightly, and how often anything false is said of the best (a winner or a
    separation from one that is as good or better).
    """
    scores = draw(means, spreads, seeds, studies, 2)
    truth = np.asarray(means)
    best = scores.mean(2).argmax(1)
    false = (truth >= truth[best][:, None]) & (np.arange(len(means)) != best[:, None])
    found = {}
    for name in names:
        apart = RULES[name](scores)
        won = apart.all(1)
        right = won & ~false.any(1)
        found[name] = {"winner": won.mean(), "right winner": right.mean(), "something false": (apart & false).any(1).mean()}
    return {name: {key: float(value) for key, value in row.items()} for name, row in found.items()}


def left_out(means: Sequence[float], spreads: Sequence[float], seeds: int, studies: int) -> dict[str, float]:
    """How often the truly best (of equals, one of them: the limit of a tiny lead) is no candidate, and how many candidates there are."""
    found = contest(draw(means, spreads, seeds, studies, 4))
    best = int(np.argmax(means))
    return {"left out": float(np.mean(~found.candidate[:, best])), "candidates": float(found.candidate.sum(1).mean())}


def planned(effect: float, rivals: int, studies: int) -> dict[str, float]:
    """Whether as many seeds as the power analysis asks for find a true winner as often as it says."""
    n = seeds_needed(np.full(rivals, effect))
    assert n is not None
    means = (effect, *(0.0,) * rivals)
    return {"seeds": n, "winner": judged(means, (1.0,) * (rivals + 1), n, studies, ["thalweg"])["thalweg"]["right winner"]}


def advised(effect: float, pilot: int, studies: int) -> dict[str, float]:
    """What the advice is worth that two optimizers get whose pilot study found no winner: seeds, and the true power with these."""
    found = contest(draw((effect, 0.0), (1.0, 1.0), pilot, studies, 3))
    other = 1 - found.best
    effects = np.abs(np.take_along_axis(found.difference / found.sd, other[:, None], 1)[:, 0])[~found.won]
    asked = [seeds_needed(np.array([e])) for e in effects]
    chances = [float(power(np.array(effect), n)) if n is not None else 1.0 for n in asked]
    middle = np.quantile([n if n is not None else MOST_SEEDS for n in asked], [0.1, 0.5, 0.9])
    return {"no winner": len(asked) / studies, "10 %": middle[0], "median": middle[1], "90 %": middle[2],
            "mean power": float(np.mean(chances))}  # fmt: skip


def measure(studies: int, rules: Sequence[str] = tuple(RULES)) -> dict[str, Any]:
    """Every figure, of these rules."""
    return {
        "coverage": {f"{n} seeds": coverage(n, studies) for n in (5, 10)},
        "coverage of a bootstrap": {f"{n} seeds": bootstrapped(n, studies) for n in (5, 10)},
        "coverage, skewed noise": {f"{n} seeds": coverage(n, studies, skewed) for n in (5, 10)},
        "five alike": {f"{n} seeds": judged(ALIKE, EVEN, n, studies, rules) for n in (5, 10)},
        "two alike": {f"{n} seeds": judged(ALIKE[:2], EVEN[:2], n, studies, rules) for n in (5, 10)},
        "two alike, three far behind": {f"{n} seeds": judged(TWO, EVEN, n, studies, rules) for n in (5, 10)},
        "five alike, one erratic": {f"{n} seeds": judged(ALIKE, STEADY_BUT_ONE, n, studies, rules) for n in (5, 10)},
        "two alike and erratic, three steady, far behind": {f"{n} seeds": judged(TWO, ERRATIC_PAIR, n, studies, rules) for n in (5, 10)},
        "one better by 1.3, four alike": {f"{n} seeds": judged(ONE, EVEN, n, studies, rules) for n in (5, 10)},
        "one better by 1.3, the others spaced": {f"{n} seeds": judged(SPACED, EVEN, n, studies, rules) for n in (5, 10)},
        "one better by 1.3, one other": {f"{n} seeds": judged(ONE[:2], EVEN[:2], n, studies, rules) for n in (5, 10)},
        "the best among the candidates": {
            f"{case}, {n} seeds": left_out(means, spreads, n, studies) for case, (means, spreads) in FIELDS.items() for n in (5, 10)
        },
        "seeds asked for": {f"{e} sd, {m} rivals": planned(e, m, studies) for e in (0.7, 1.3) for m in (1, 4)},
        "seeds advised after 5 without a winner": {f"{e} sd": advised(e, 5, min(studies, 1000)) for e in (0.7, 1.3)},
    }


def promises(found: Mapping[str, Any], studies: int) -> list[tuple[str, float, float, float, bool]]:
    """(what, figure, least, most, kept).

    Where fewer than 5,000 studies were drawn, the bounds are widened by 2.6 binomial standard errors.
    """

    def check(what: str, figure: float, least: float = 0.0, most: float = 1.0) -> tuple[str, float, float, float, bool]:
        slack = [0.0 if studies >= 5000 else 2.6 * math.sqrt(b * (1 - b) / studies) for b in (least, most)]
        low, high = least - slack[0], most + slack[1]
        return what, figure, low, high, low <= figure <= high

    made = []
    for n in ("5 seeds", "10 seeds"):
        cover = found["coverage"][n]
        for what in ("mean", "pair named in advance"):
            made += [check(f"coverage of the interval: {what}, {case}, {n}", cover[f"{what}, {case}"], 0.93, 0.97) for case in CASES]
        made.append(
            check(f"coverage of the interval: best against each, one better, {n}", cover["best against each, one better"], 0.93, 0.97)
        )
        made += [check(f"margin of equivalence, {case}, {n}", cover[f"margin of equivalence, {case}"], 0.93) for case in CASES]
        made.append(check(f"a winner among five alike, {n}", found["five alike"][n]["thalweg"]["winner"], 0.0, 0.06))
        for case in [case for case in found if "alike" in case and "better" not in case]:
            made.append(check(f"something false said: {case}, {n}", found[case][n]["thalweg"]["something false"], 0.0, 0.06))
    for case in [case for case in found if case.startswith("one better")]:
        made.append(check(f"found with 10 seeds: {case}", found[case]["10 seeds"]["thalweg"]["right winner"], 0.75))
    for case, row in found["the best among the candidates"].items():
        made.append(check(f"the truly best left out of the candidates: {case}", row["left out"], 0.0, 0.05))
    for case, row in found["seeds asked for"].items():
        made.append(check(f"found with the {row['seeds']} seeds asked for: {case}", row["winner"], 0.78))
    return made


CASES = ("alike", "one better")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1,000 studies instead of 5,000")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there")
    parser.add_argument("--save", action="store_true", help="write the figures to bench/results")
    options = parser.parse_args()
    studies = 1000 if options.quick else 5000
    found = measure(studies)
    kept = promises(found, studies)
    for what, figure, least, most, held in kept:
        print(f"{'    ' if held else 'MISS'} {figure:7.4f} in [{least:.3f}, {most:.3f}]  {what}")
    for case, rows in found.items():
        if case.startswith(("five", "two", "one")):
            print(f"\n{case}")
            for n, by_rule in rows.items():
                for name, row in by_rule.items():
                    print(f"  {n:>8}  {name:26}" + "  ".join(f"{key} {value:.4f}" for key, value in row.items()))
    figures = {"date": datetime.date.today().isoformat(), "studies": studies, **found}
    figures["promises"] = [{"what": w, "figure": f, "least": a, "most": b, "kept": h} for w, f, a, b, h in kept]
    path = options.json or (Path(__file__).parent / "results" / f"judge-{figures['date']}.json" if options.save else None)
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0 if all(held for *_, held in kept) else 1


if __name__ == "__main__":
    sys.exit(main())
