"""Weight decay pulls the weights to zero harder than the data pulls them away. Krogh and Hertz 1991"""

from __future__ import annotations

import math

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(explains=("rate_too_high", "rate_too_low", "dead_units", "vanishing_gradients", "exploding_gradients", "batch_too_small"))
def decay_too_strong(settings, trials, slopes=None, course=None, outputs=None) -> Finding | None:
    if settings.decay <= 0:
        return None
    own, without = trials.run(trials.long), trials.run(trials.long, weight_decay=0.0)
    end = course.end if course is not None and not course.diverged else own
    gained = trials.start - without
    if not math.isfinite(without) or not gained > 0.05 * abs(trials.start) or min(own, end) - without < 0.4 * gained:
        return None
    said = f"From fresh weights, {trials.long} steps end at a loss of {own:.3g}, without decay at {without:.3g}."
    numbers = {"weight_decay": settings.decay, "loss": own, "without": without}
    if slopes is not None:
        said += f" Decay's pull on the weights, of norm {slopes.weights:.3g}, is {slopes.pull:.2g} times the gradient of the loss"
        said += " against which it stands." if slopes.along < -0.5 else "."
        numbers["pull"] = slopes.pull
    if course is not None:
        said = f"{course.words} {said}"
    usual = 0.01 if settings.decoupled else 1e-4
    return Finding(
        "decay_too_strong", f"The weight decay {settings.decay:.3g} is too strong.", said, settings.line(weight_decay=usual), 0.92,
        {"weight_decay": usual}, numbers,
    )  # fmt: skip
