"""The schedule brought the learning rate to nothing long before the end."""

from __future__ import annotations

import math

from thalweg.core.cause import cause
from thalweg.core.finding import Finding

NOTHING = 1e-3
"""Of the first rate, so much is nothing."""

LONG = 0.4
"""A schedule ends early when the rate was below a hundredth for so large a share of the steps."""

LESS = 0.5
"""And when the training went less than so much of the way that half of its steps go at the first rate."""


@cause(explains=("rate_too_low", "vanishing_gradients", "dead_units"))
def schedule_ended(settings, course=None, trials=None) -> Finding | None:
    if settings.begun <= 0 or settings.lr > NOTHING * settings.begun:
        return None
    said = f"It began at {settings.begun:.3g} and is {settings.lr:.3g} now."
    if course is not None and math.isfinite(course.at_nothing):
        if course.at_nothing < LONG:
            return None
        said += f" In {course.at_nothing:.0%} of the steps it was below a hundredth of its largest."
    elif trials is None or course is None or course.diverged:
        return None
    else:
        # most schedules end with the training, and on the way go about as far as half of its steps at the first rate do
        half = max(1, min(course.steps, trials.long) // 2)
        own = trials.run(half, lr=settings.begun)
        if not own < trials.start or trials.start - course.end > LESS * (trials.start - own):
            return None
        said += f" From fresh weights, {half} steps at the first rate end at a loss of {own:.3g}."
    if course is not None:
        said = f"{course.words} {said}"
    return Finding(
        "schedule_ended", "The schedule has brought the learning rate to nothing too early.", said,
        "let the schedule end when the training ends, such as CosineAnnealingLR(optimizer, T_max=steps), or leave it out: "
        + settings.line(lr=settings.begun, **({"schedule": None} if settings.command else {})),
        0.93, {"schedule": None, "lr": settings.begun}, {"begun": settings.begun, "lr": settings.lr},
    )  # fmt: skip
