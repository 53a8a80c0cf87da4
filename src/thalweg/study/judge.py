"""The judge: from a study's runs to a verdict in words. Pure functions of `Results`."""

from __future__ import annotations

import math

import numpy as np

from thalweg.study.results import Results
from thalweg.study.sentences import headline, sentences
from thalweg.study.standings import Basis, Verdict, choose, missing, seeds_planned, standings
from thalweg.study.statistics import ALPHA

__all__ = ["Verdict", "choose", "judge", "missing", "seeds_planned", "standings"]


def judge(results: Results) -> Verdict:
    """The verdict of a study, finished or not.

    A winner is declared when the study is finished, no final run of it diverged, and its paired difference to the
    runner-up is significant at 5 % (two-sided paired t-test, Holm-adjusted over the comparisons of the best with every
    other optimizer). Two-sided, because which one is the best was seen in the same data.
    """
    table = standings(results)
    basis: Basis = table.attrs["basis"]
    unfinished = bool(missing(results))
    sound = table[table["sound"]]
    ranked = sound if len(sound) else table[np.isfinite(table["mean"].astype(float))]
    top = ranked.iloc[0] if len(ranked) else None
    winner = None
    if basis == "final" and not unfinished and len(sound) and len(table) > 1 and sound.iloc[0]["seeds"] > 1:
        rivals = sound.iloc[1:]
        if rivals.empty or rivals.iloc[0]["p_value"] <= ALPHA:
            winner = str(sound.iloc[0]["optimizer"])
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
        headline="",
        sentences=(),
    )
    values = {**vars(verdict), "headline": headline(results, verdict), "sentences": tuple(sentences(results, verdict))}
    return Verdict(**values)
