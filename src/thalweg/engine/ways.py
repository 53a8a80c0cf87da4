"""Which way gradients are taken: all lanes together, lane by lane, or lane by lane on a thread a core."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.engine.apart import Apart
from thalweg.engine.cache import remembered
from thalweg.engine.gradient import Gradient, measure
from thalweg.engine.together import Together
from thalweg.engine.work import user_code

logger = logging.getLogger(__name__)

WAYS = ("auto", "together", "apart", "threads")

DISPATCH = 1e-6
"""Seconds that an operation of a tape takes at the very least; lane by lane is not tried where this alone would make it slower."""

LONG = 5e-3
"""Seconds of one lane's gradient from which lanes are taken apart where there are too few steps to find out."""

WORTH = 100
"""Steps from which finding out pays."""


def pick(together: Together, apart: Apart, batch: Any, masks: Sequence[Tensor], way: str, steps: int) -> Gradient:
    """The way named, or for "auto" the fastest on a first batch; what was found for a shape is remembered.

    Few steps are not worth finding out: then a lane that takes long goes apart. What vmap cannot take goes apart in any case.
    """
    if len(together.lanes) == 1 and way != "together":
        way = "apart"
    if way == "auto":
        way = _found(together, apart, batch, masks, steps)
    if way == "together" and _runs(together, batch, masks):
        return together
    cores = torch.get_num_threads() if together.lanes.loss.device.type == "cpu" else 1
    return apart.spread_over(cores if way != "apart" and apart.taped and len(apart.lanes) > 1 else 1)


def _runs(together: Together, batch: Any, masks: Sequence[Tensor]) -> bool:
    try:
        together(batch, masks, range(len(together.lanes)))
    except Exception as error:
        logger.debug("lanes are trained one by one: %s: %s", type(error).__name__, error)
        return False
    return True


def _found(together: Together, apart: Apart, batch: Any, masks: Sequence[Tensor], steps: int) -> str:
    device, lanes = together.lanes.loss.device, len(together.lanes)
    cores = torch.get_num_threads() if device.type == "cpu" else 1

    def lone() -> float:
        with user_code("the model's training step failed", apart.slice(batch, masks, 0)[0]):
            apart(batch, masks, range(1))
            return measure(lambda: apart(batch, masks, range(1)), device, most=2)

    def guessed() -> str:
        return "threads" if lone() > LONG else "together"

    def fastest() -> str:
        # convolutions of several lanes are no faster as one, on a processor
        heavy = device.type == "cpu" and any(isinstance(m, nn.modules.conv._ConvNd) for m in together.stepper.modules())
        seconds: dict[str, float] = {}
        if not heavy:
            if not _runs(together, batch, masks):
                lone()
                return "threads"
            seconds["together"] = measure(lambda: together(batch, masks, range(lanes)), device)
            if seconds["together"] < DISPATCH * together.operations * lanes / cores:
                return "together"
        seconds["apart"] = lone() * lanes
        if apart.taped and cores > 1:
            apart.spread_over(cores)
            some = range(min(lanes, 2 * cores))
            apart(batch, masks, some)
            seconds["threads"] = measure(lambda: apart(batch, masks, some), device) * lanes / len(some)
        logger.debug("ways of taking gradients: %s", seconds)
        return min(seconds, key=lambda name: seconds[name])

    shapes = [(n, tuple(p.shape)) for n, p in together.lanes.points.items()]
    what = ("way", shapes, repr(together.stepper.module), together.key(batch, masks), together.slopes, lanes, cores, device.type)
    # remembered in both cases, so that a study taken up again goes the way it went
    return remembered(("guess", *what), WAYS[1:], guessed) if steps < WORTH else remembered(what, WAYS[1:], fastest)
