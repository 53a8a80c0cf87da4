"""The loss grew without bound, and no other cause was seen."""

from __future__ import annotations

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(last=True)
def diverged(parts, course=None, settings=None) -> Finding | None:
    if parts.alive and (course is None or not course.diverged):
        return None
    said = course.words if course is not None else f"Weights of {', '.join(parts.not_finite[:3])} are not finite."
    lower = settings.begun / 10 if settings is not None else 0.0
    remedy = "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) before each step"
    if lower:
        remedy = f"{settings.line(lr=lower)}, and {remedy}" if not settings.command else settings.line(lr=lower, clip_norm=1.0)
    return Finding(
        "diverged", "The training has diverged.", f"{said} No other cause was seen; diagnose it again with fewer "
        "steps, before it diverges.",
        remedy, 0.5, {"lr": lower, "clip_norm": 1.0} if lower else {"clip_norm": 1.0}, {},
    )  # fmt: skip
