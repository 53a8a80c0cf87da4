"""Which way gradients are taken: all lanes together, lane by lane, or lane by lane on a thread a core."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.engine.fleet.apart import Apart
from thalweg.engine.fleet.gradient import Gradient, measure
from thalweg.engine.fleet.together import Together
from thalweg.engine.recording.cache import remembered
from thalweg.engine.work import user_code

logger = logging.getLogger(__name__)

WAYS = ("auto", "together", "apart", "threads")

DISPATCH = 1e-6
"""Seconds that an operation of a tape takes at the very least; lane by lane is not tried where this alone would make it slower."""

LONG = 8e-3
"""Seconds of one lane's gradient from which its operations, and not the calling of them, take the time."""

WORTH = 100
"""Steps from which finding out pays."""

MANY = 2000
"""Steps of single lanes from which finding out pays for convolutions, whose forms are many."""


def pick(
    together: Together, apart: Apart, batch: Any, masks: Sequence[Tensor], way: str, steps: int, seconds: float, may: bool = True
) -> Gradient:
    """The way named, or for "auto" the fastest on a first batch; what was found for a shape is remembered.

    seconds: of one lane's gradient without a tape. may: whether short runs may go without one, since it is not worth recording.
    Few steps are not worth finding out: then a lane that takes long goes apart. What vmap cannot take goes apart in any case.
    """
    device, lanes = together.lanes.loss.device, len(together.lanes)
    cores = torch.get_num_threads() if device.type == "cpu" else 1
    shapes = [(n, tuple(p.shape)) for n, p in together.lanes.points.items()]
    what = (shapes, repr(together.stepper.module), together.key(batch, masks), together.slopes, lanes, cores, device.type)

    def known(question: str, options: tuple[str, ...], find: Callable[[], str]) -> str:
        # remembered, so that a study taken up again goes the way it went
        return remembered((question, steps, *what) if question != "way" else (question, *what), options, find)

    if may and apart.taped:
        pays = known("taped", ("yes", "no"), lambda: "yes" if recording_pays(steps * lanes, seconds) else "no")
        together.taped = apart.taped = pays == "yes"
    # convolutions of several lanes are no faster as one, on a processor
    heavy = device.type == "cpu" and any(isinstance(m, nn.modules.conv._ConvNd) for m in together.stepper.modules())
    if lanes == 1 and way == "auto":  # what calls cost counts most, and together they are fewest
        brief = apart.taped and not heavy and known("lone", ("yes", "no"), lambda: "no" if seconds > LONG else "yes") == "yes"
        way = "together" if brief else "apart"
    elif way == "auto" and (not apart.taped or steps < WORTH or (heavy and steps * lanes < MANY)):
        # few cores share an operation well, many do not
        long = "threads" if apart.taped and (cores > 4 or not heavy) else "apart"
        way = known("guess", WAYS[1:], lambda: long if seconds > LONG or heavy else "together")
    elif way == "auto":
        way = known("way", WAYS[1:], lambda: _fastest(together, apart, batch, masks, heavy, cores))
    if way == "together" and _runs(together, batch, masks):
        return together
    return apart.spread_over(cores if way != "apart" and apart.taped and lanes > 1 else 1)


def recording_pays(count: int, seconds: float) -> bool:
    """Whether a tape pays for `count` gradients of a lane, each of which takes so many seconds without one.

    A tape saves the calling of operations, half of the time or more where they are short and little where they are long. It costs
    a part of a second, for compiling among other things, and several gradients, for timing forms.
    """
    return count * (0.05 if seconds > LONG else 0.5) * seconds > 0.3 + 8 * seconds


def _runs(together: Together, batch: Any, masks: Sequence[Tensor]) -> bool:
    try:
        together(batch, masks, range(len(together.lanes)))
    except Exception as error:
        logger.debug("lanes are trained one by one: %s: %s", type(error).__name__, error)
        return False
    return True


def _fastest(together: Together, apart: Apart, batch: Any, masks: Sequence[Tensor], heavy: bool, cores: int) -> str:
    """The way that takes the least time."""
    device, lanes = together.lanes.loss.device, len(together.lanes)

    def lone() -> float:
        with user_code("the model's training step failed", apart.slice(batch, masks, 0)[0]):
            apart(batch, masks, range(1))
            return measure(lambda: apart(batch, masks, range(1)), device, most=2)

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
