"""Validation rows are training rows too, so that the validation score says nothing of new data."""

from __future__ import annotations

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause
def leak(table) -> Finding | None:
    # rows that occur twice by nature, as in coarse data, do so within the training rows too
    if table.repeated < 0.02 + 2 * table.repeated_within or table.alike < 2:
        return None
    return Finding(
        "leak",
        f"{table.repeated:.0%} of the validation rows are training rows too.",
        f"{table.alike} of them equal a training row bit by bit; within the training rows {table.repeated_within:.1%} "
        f"do. The validation score "
        "is then better than on new data.",
        "split before anything else is done with the rows, each row into one part, and rows of one source (a person, a day) into one part",
        0.97 if table.repeated > 0.05 else 0.8,
        {},
        {"share": table.repeated, "rows": float(table.alike)},
    )
