"""There are nan or infinite numbers among the data: one such row makes every weight nan."""

from __future__ import annotations

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(explains=("rate_too_high", "features_unscaled", "exploding_gradients", "gradients_accumulate", "dead_units"))
def data_not_finite(table) -> Finding | None:
    if not table.not_finite:
        return None
    return Finding(
        "data_not_finite",
        "The data holds numbers that are not finite.",
        f"{table.not_finite} rows or targets are nan or infinite; the loss of a batch with one of them is, and so are "
        f"all weights after it.",
        "keep = X.isfinite().flatten(1).all(1); X, y = X[keep], y[keep], or fill the gaps",
        0.99,
        {"finite": True},
        {"rows": float(table.not_finite)},
    )
