"""The learning rate is too low: the loss falls, and would fall much faster."""

from __future__ import annotations

import math

from thalweg.core.cause import cause
from thalweg.core.finding import Finding

TIMES = 20.0
"""So much larger must a rate be that counts as another."""


@cause
def rate_too_low(settings, rates, course=None, curvature=None) -> Finding | None:
    if not settings.lr > 0 or not math.isfinite(rates.own) or not rates.learns:
        return None
    user, times = settings.begun, rates.tried / settings.begun
    gained = rates.gained
    missed = (rates.own - rates.lowest) / gained
    far = course is None or (not course.diverged and course.end > rates.lowest + 0.2 * gained)
    if times < TIMES or missed < 0.5 or not far:
        return None
    said = f"From fresh weights, {rates.steps} steps at {user:.3g} end at a loss of {rates.own:.3g}, at {rates.tried:.2g} at "
    said += f"{rates.lowest:.3g}."
    numbers = {"lr": user, "best": rates.best, "loss": rates.own, "lowest": rates.lowest}
    stable = getattr(curvature, "stable_rate", None)
    if stable is not None and math.isfinite(stable):
        said += f" The curvature here bears rates up to {stable:.2g}."
        numbers["stable_rate"] = float(stable)
    if course is not None:
        said = f"{course.words} {said}"
    return Finding(
        "rate_too_low", f"The learning rate {user:.3g} is too low.", said, settings.line(lr=rates.best),
        min(0.9, 0.6 + 0.1 * math.log10(times) + 0.1 * missed), {"lr": float(rates.best)}, numbers,
    )  # fmt: skip
