"""Batch norm runs in evaluation mode while the model is trained: it scales by statistics that are not the data's. Ioffe and Szegedy 2015,
arXiv:1502.03167"""

from __future__ import annotations

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(explains=("rate_too_high", "rate_too_low", "features_unscaled", "exploding_gradients", "dead_units", "momentum_too_high"))
def norm_in_eval(parts, course=None) -> Finding | None:
    never = parts.norms_at_start if course is not None and course.steps > 1 else ()
    names = never or parts.norms_at_rest
    if not names:
        return None
    what = f"Batch norm ({', '.join(names[:4])}{', ...' * (len(names) > 4)}) was in evaluation mode while the model was trained."
    if never:
        evidence = (
            f"After {course.steps} steps the running statistics of {len(never)} of {len(parts.norms)} batch norms are still the initial "
        )
        evidence += "mean 0 and variance 1: no training batch went through them in training mode."
    else:
        evidence = f"The model is in training mode, and {len(names)} of its {len(parts.norms)} batch norms are in evaluation mode."
    return Finding(
        "norm_in_eval", what, evidence, "call model.train() before the training loop, and again after every evaluation",
        0.97 if never else 0.9, {"mode": "train"}, {"norms": float(len(names))},
    )  # fmt: skip
