"""The targets are off by a row or two against the inputs."""

from __future__ import annotations

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(
    explains=("labels_shuffled", "rate_too_low", "rate_too_high", "overfitting", "decay_too_strong", "batch_too_small", "momentum_too_high")
)
def labels_shifted(neighbours, table) -> Finding | None:
    near = neighbours
    if near.shifted_score < 6 or near.shifted < near.chance + 0.1 or near.shifted < near.agreement + 0.1:
        return None
    way = "down" if near.shift > 0 else "up"
    return Finding(
        "labels_shifted",
        f"The targets are off by {_rows(abs(near.shift))} against the inputs.",
        f"Targets of rows that lie near each other agree by {near.agreement:.2f}, and by chance {near.chance:.2f}; moved {way} by "
        f"{_rows(abs(near.shift))} they agree by {near.shifted:.2f}.",
        f"align inputs and targets: y = y.roll({near.shift}, 0), and look for where a row was lost or a header counted",
        0.97,
        {},
        {"agreement": near.agreement, "chance": near.chance, "shift": float(near.shift), "shifted": near.shifted},
    )


def _rows(count: int) -> str:
    return "one row" if count == 1 else f"{count} rows"
