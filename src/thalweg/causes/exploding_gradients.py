"""The gradient, or the signal, grows from layer to layer or from step to step of a sequence: the weights are too large. Pascanu et al.
2013, arXiv:1211.5063"""

from __future__ import annotations

import math

from thalweg.core.cause import cause, learnt
from thalweg.core.finding import Finding

RADIUS = 1.7
"""Recurrent weights whose largest eigenvalue is larger turn a small difference into a large one within a few steps."""

START = 6.0
"""A net drawn as usual starts with a loss below so many times that at fresh weights."""


@cause(explains=("dead_units", "batch_too_small", "gradients_accumulate", "rate_too_low"))
def exploding_gradients(flow=None, memory=None, course=None, outputs=None, rates=None) -> Finding | None:
    if learnt(outputs, course):
        return None
    numbers: dict[str, float] = {}
    said = []
    if memory is not None and memory.radius > RADIUS:
        numbers["radius"] = memory.radius
        said.append(f"The recurrent weights' largest eigenvalue has the size {memory.radius:.3g}; above 1, what goes through them grows.")
        if memory.steps and math.isfinite(memory.factor):
            said.append(f"The gradient changes by {memory.factor:.2g} a step back in time.")
    fresh = outputs.first_loss if outputs is not None else math.nan
    if course is not None and fresh > 0 and course.start > START * fresh:
        numbers |= {"start": course.start, "fresh": fresh}
        said.append(f"The first loss was {course.start:.3g}; with weights as the layers draw them it is {fresh:.3g}.")
    if flow is not None and flow.exploding and not said:
        said.append(f"{flow.text[0].upper()}{flow.text[1:]}.")
        numbers["activation_factor"] = flow.activation_factor
    if not said:
        return None
    # where fresh weights do no better under the same settings, it is not they that are to blame
    blamed = rates is None or rates.works or not rates.learns or "start" in numbers
    if rates is not None and rates.works:
        said.append(f"From fresh weights, {rates.steps} steps at the same settings end at a loss of {rates.own:.3g}.")
    if course is not None:
        said.insert(0, course.words)
    through = "through time " if memory is not None else ""
    remedy = (
        "torch.nn.init.orthogonal_(rnn.weight_hh_l0)"
        if memory is not None
        else "torch.nn.init.kaiming_uniform_(layer.weight) for each layer"
    )
    return Finding(
        "exploding_gradients", f"Signal and gradient explode {through}because the initial weights are too large.", " ".join(said),
        f"draw the weights anew: {remedy}, and torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) before each step", 0.9 if blamed
        else 0.5,
        {"init": "orthogonal" if memory is not None else "fitting"}, numbers,
    )  # fmt: skip
