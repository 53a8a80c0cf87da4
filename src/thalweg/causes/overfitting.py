"""The validation loss rises while the training loss falls: the model learns its training rows by heart. Goodfellow, Bengio and Courville
2016, section 7.8"""

from __future__ import annotations

import numpy as np

from thalweg.core.cause import cause
from thalweg.core.finding import Finding

RISE = 0.25
"""The validation loss has risen when it lies above its least by so large a share of its fall until then."""

LEAST = 0.05
"""Smaller falls and rises, as shares of the loss, are those of chance."""


@cause
def overfitting(course, settings=None) -> Finding | None:
    train, valid = course.valid.get("loss", (np.zeros(0), np.zeros(0)))
    if len(valid) < 4 or course.diverged:
        return None
    place = int(valid.argmin())
    fall = valid[0] - valid[place]
    rise = valid[-1] - valid[place]
    if fall < LEAST * abs(valid[0]) or rise < LEAST * abs(valid[place]):
        return None
    if rise < RISE * fall or place > 0.7 * len(valid) or train[-1] >= train[place]:
        return None
    said = f"The validation loss was least at evaluation {place + 1} of {len(valid)}, {valid[place]:.3g}, and is {valid[-1]:.3g} "
    said += "now, while the "
    said += f"training loss fell from {train[place]:.3g} to {train[-1]:.3g}."
    remedy = (
        settings.line(early_stopping=3) if settings is not None and settings.command else "keep the weights of the least validation loss"
    )
    return Finding(
        "overfitting", "The model overfits: the validation loss rises while the training loss falls.", said,
        f"{remedy} (early stopping); more rows, weight decay or dropout lower it further", 0.75 if rise > fall else 0.6,
        {"early_stopping": 3}, {"least": float(valid[place]), "last": float(valid[-1])},
    )  # fmt: skip
