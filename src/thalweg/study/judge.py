"""The judge: from a study's runs to a verdict in words. Pure functions of `Results`."""

from __future__ import annotations

import math

import numpy as np

from thalweg.study.findings import Findings, find
from thalweg.study.results import Results
from thalweg.study.sentences import headline, sentences
from thalweg.study.standings import Basis, Verdict, choose, missing, seeds_planned, standings
from thalweg.study.statistics import ALPHA

__all__ = ["Findings", "Verdict", "choose", "judge", "missing", "seeds_planned", "standings"]


def judge(results: Results, goal: float | None = None) -> Verdict:
    """The verdict of a study, finished or not.

    A winner is declared when the study is finished, no final run of it diverged, and it is better than every other optimizer whose
    final runs are whole: each paired difference is significant at 5 % (two-sided t-test; two-sided, because which one is the best
    was seen in the same data). Which of the others are told apart from the best is adjusted for that choice: `statistics.contest`.
    goal: a validation score to be reached, for the findings; by default a rule sets it.
    """
    table = standings(results)
    basis: Basis = table.attrs["basis"]
    unfinished = bool(missing(results))
    sound = table[table["sound"]]
    ranked = sound if len(sound) else table[np.isfinite(table["mean"].astype(float))]
    top = ranked.iloc[0] if len(ranked) else None
    winner = None
    if basis == "final" and not unfinished and len(sound) and len(table) > 1 and sound.iloc[0]["seeds"] > 1:
        apart = (sound.iloc[1:]["p_value"] <= ALPHA).all()  # also where no other is sound
        winner = str(sound.iloc[0]["optimizer"]) if apart else None
    verdict = Verdict(
        winner=winner,
        leader=None if top is None else str(top["optimizer"]),
        config=None if top is None else top["config"],
        mean=math.nan if top is None else float(top["mean"]),
        half=math.nan if top is None else float(top["half"]),
        seeds=0 if top is None else int(top["seeds"]),
        basis=basis,
        unfinished=unfinished,
        standings=table,
        findings=find(results, table, goal),
        headline="",
        sentences=(),
    )
    values = {**vars(verdict), "headline": headline(results, verdict), "sentences": tuple(sentences(results, verdict))}
    return Verdict(**values)
