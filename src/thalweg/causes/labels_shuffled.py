"""The targets have nothing to do with the inputs: near rows agree no more than permuted ones do. Cover and Hart 1967,
doi:10.1109/TIT.1967.1053964"""

from __future__ import annotations

import math

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(explains=("rate_too_low", "rate_too_high", "overfitting", "decay_too_strong", "batch_too_small", "momentum_too_high"))
def labels_shuffled(neighbours, table, outputs=None) -> Finding | None:
    near = neighbours
    if near.score > 3.5 or (table.constant and len(table.constant) == len(table.names)):
        return None
    if table.target_deviation == 0:
        return None
    learnt = outputs is not None and math.isfinite(outputs.level) and outputs.level < 0.5
    what = "have the class of their nearest neighbour" if table.labels else "correlate with their nearest neighbours' mean"
    return Finding(
        "labels_shuffled",
        "The targets look shuffled: they have nothing to do with the inputs.",
        f"The share of rows that {what} is {near.agreement:.3f}; with the targets permuted it is {near.chance:.3f} +- {near.deviation:.3f}."
        if table.labels
        else f"The targets {what} by {near.agreement:.3f}; permuted, by {near.chance:.3f} +- {near.deviation:.3f}.",
        "check that inputs and targets were read, sorted and shuffled with the same order: look at a few rows by eye",
        0.55 if learnt else 0.92,
        {},
        {"agreement": near.agreement, "chance": near.chance, "score": near.score},
    )
