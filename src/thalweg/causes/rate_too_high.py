"""The learning rate is too high: steps jump over the valley, and the loss oscillates, stays up or grows without bound."""

from __future__ import annotations

import math

from thalweg.core.cause import cause
from thalweg.core.finding import Finding

TIMES = 6.0
"""Rates that differ by less than this are alike."""


@cause(explains=("dead_units", "exploding_gradients", "vanishing_gradients"))
def rate_too_high(settings, rates, course=None, curvature=None) -> Finding | None:
    if not settings.lr > 0 or not rates.learns:
        return None
    user = settings.begun
    times = user / rates.tried
    diverged = course is not None and course.diverged
    gained = rates.gained
    missed = (rates.own - rates.lowest) / gained if math.isfinite(rates.own) else 1.0
    ended = course is None or course.diverged or course.end > rates.lowest + 0.1 * gained
    if times < 3 or (times < TIMES and not diverged) or missed < 0.3 or not ended:
        return None
    ratio = getattr(curvature, "ratio", None)
    numbers = {"lr": user, "best": rates.best, "loss": rates.own, "lowest": rates.lowest}
    said = f"From fresh weights, {rates.steps} steps at {user:.3g} end at a loss of {rates.own:.3g}, at {rates.tried:.2g} at "
    said += f"{rates.lowest:.3g}."
    if ratio is not None and math.isfinite(ratio):
        numbers["ratio"] = float(ratio)
        if ratio > 1:
            said += f" The curvature is {curvature.value:.3g}, {ratio:.2g} times what the optimizer bears at its rate."
            if getattr(curvature, "stable_rate", None):
                said += f" The largest stable rate is {curvature.stable_rate:.2g}."
    if course is not None:
        said = f"{course.words} {said}"
    return Finding(
        "rate_too_high", f"The learning rate {user:.3g} is too high.", said, settings.line(lr=rates.best),
        min(0.92, 0.7 + 0.1 * math.log10(max(times, 1)) + 0.1 * missed), {"lr": float(rates.best)}, numbers,
    )  # fmt: skip
