"""Gradients are never set to zero: each step goes along the sum of all gradients so far."""

from __future__ import annotations

import math

from thalweg.core.cause import cause
from thalweg.core.finding import Finding

TIMES = 4.0
"""A gradient of one batch is seldom so many times as long as the longest of others."""


@cause(explains=("rate_too_high", "rate_too_low", "momentum_too_high", "batch_too_small", "exploding_gradients", "dead_units"))
def gradients_accumulate(slopes, course) -> Finding | None:
    if not math.isfinite(slopes.left) or slopes.largest <= 0:
        return None
    times = slopes.left / slopes.largest
    if times < TIMES:
        return None
    return Finding(
        "gradients_accumulate",
        "Gradients add up over the steps: optimizer.zero_grad() is missing.",
        f"What lies in .grad has the norm {slopes.left:.3g}; of the gradients of single batches here the largest has {slopes.largest:.3g}, "
        f"{times:.3g} times less.",
        "call optimizer.zero_grad() before each loss.backward()",
        0.95 if times > 3 * TIMES else 0.9,
        {"zero_grad": True},
        {"left": slopes.left, "largest": slopes.largest, "times": times},
    )
