"""All targets are the same: there is nothing to learn."""

from __future__ import annotations

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(explains=("labels_shuffled", "rate_too_high", "rate_too_low"))
def constant_targets(table) -> Finding | None:
    if table.target_deviation != 0 or table.not_finite:
        return None
    return Finding(
        "constant_targets", "All targets are the same.", f"Their standard deviation is 0; each is of the size {table.target_largest:.3g}.",
        "look at how the targets are read: the wrong column, or rows of one class only", 0.97, {}, {"deviation": 0.0},
    )  # fmt: skip
