"""Batches are so small that their gradients are mostly noise. McCandlish et al. 2018, arXiv:1812.06162"""

from __future__ import annotations

import math

from thalweg.core.cause import cause
from thalweg.core.finding import Finding

SMALL = 8
TIMES = 32


@cause(explains=("rate_too_high", "dead_units", "exploding_gradients", "vanishing_gradients"))
def batch_too_small(settings, trials, slopes=None, course=None, outputs=None) -> Finding | None:
    size = settings.batch_size
    if size > SMALL or settings.rows < 4 * size:
        return None
    larger = min(TIMES * size, settings.rows // 2)
    own, other = trials.run(trials.long), trials.run(trials.long, batch_size=larger)
    end = course.end if course is not None and not course.diverged else own
    level = outputs.loss if outputs is not None and outputs.finite else end
    gained = trials.start - other
    if not math.isfinite(other) or not gained > 0.05 * abs(trials.start) or min(own, max(end, level)) - other < 0.25 * gained:
        return None
    said = f"From fresh weights, {trials.long} steps with batches of {_rows(size)} end at a loss of {own:.3g}, of {larger} rows "
    said += f"at {other:.3g}."
    numbers = {"batch_size": float(size), "loss": own, "larger": other}
    if slopes is not None and math.isfinite(slopes.scale):
        said += f" Noise and gradient are equal in batches of about {slopes.scale:.2g} rows."
        numbers["noise_scale"] = slopes.scale
    if course is not None:
        said = f"{course.words} {said}"
    return Finding(
        "batch_too_small", f"Batches of {_rows(size)} are too small for this rate: the gradient drowns in noise.", said,
        settings.line(batch_size=larger) if settings.command else f"DataLoader(data, batch_size={larger}, shuffle=True)", 0.88,
        {"batch_size": int(larger)}, numbers,
    )  # fmt: skip


def _rows(count: int) -> str:
    return "one row" if count == 1 else f"{count} rows"
