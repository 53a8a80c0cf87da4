"""Momentum forgets too slowly for the steps that there are: the weights swing past the minimum. Goh 2017, doi:10.23915/distill.00006"""

from __future__ import annotations

import math

from thalweg.core.cause import cause
from thalweg.core.finding import Finding

HIGH = 0.975


@cause(explains=("rate_too_high", "batch_too_small", "dead_units", "exploding_gradients", "gradients_accumulate"))
def momentum_too_high(settings, trials, course=None) -> Finding | None:
    if settings.momentum < HIGH:
        return None
    steps = course.steps if course is not None else trials.long
    memory = 1 / max(1 - settings.momentum, 1e-12)
    if memory < steps / 10:
        return None
    usual, own = trials.run(trials.long, momentum=0.9), trials.run(trials.long)
    end = course.end if course is not None and not course.diverged else own
    if not math.isfinite(usual) or not usual < trials.start or end < usual + 0.15 * (trials.start - usual):
        return None
    said = f"It remembers about {memory:.3g} steps, and the training had {steps}. From fresh weights, {trials.long} steps end at a loss of "
    said += f"{own:.3g}, with momentum 0.9 at {usual:.3g}."
    if course is not None:
        said = f"{course.words} {said}"
    change = {"momentum": 0.9}
    remedy = settings.line(betas=(0.9, 0.999)) if settings.adaptive and not settings.command else settings.line(**change)
    return Finding(
        "momentum_too_high", f"The momentum {settings.momentum:.6g} is too high for {steps} steps.", said, remedy, 0.93, change,
        {"momentum": settings.momentum, "steps_remembered": memory, "loss": own, "usual": usual},
    )  # fmt: skip
