"""A cause: a function of measurements that says whether something is wrong, whose signature is its declaration.

    @cause(explains=("rate_too_high",))
    def features_unscaled(settings, table, rates=None) -> Finding | None: ...

The names of its parameters are requests, as pytest's fixtures are: REQUESTS says what there is. One without a default must be there, else
the cause is not looked for; one with the default None is used where it is there. What the measurements hold is said where they are made,
in `thalweg.explain.measure`. explains: causes whose signs this one brings about, so that they count for less where it is found. last: it
is told only where nothing else is.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from thalweg.core.finding import Finding
from thalweg.errors import unknown

REQUESTS = MappingProxyType(
    {
        "parts": "the module's layers: which are trained, their modes, batch norm's statistics",
        "settings": "the optimizer's rule and hyperparameters",
        "course": "how the loss went, from the history",
        "table": "the data's rows: features, targets, repeated rows",
        "neighbours": "whether rows near each other have like targets",
        "outputs": "the model's outputs, and what the loss makes of them",
        "slopes": "gradients of single batches, and what lies in .grad",
        "flow": "activations and gradients of each layer",
        "flow_fresh": "activations and gradients of each layer at fresh weights",
        "memory": "a recurrent net's gradient at each step of the sequence, and the size of its recurrent weights",
        "curvature": "the largest curvature against the optimizer's bound",
        "rates": "short trainings on copies, a learning rate each",
        "rates_scaled": "the same with standardised features",
        "trials": "short trainings on copies, under other settings",
    }
)

LOW = 0.2
"""A loss below this share of the best constant's is low."""


def cause(function: Callable[..., Finding | None] | None = None, *, explains: tuple[str, ...] = (), last: bool = False) -> Any:
    """Declare a cause: a function of requests, as the module says.

    What is given back has `shelf`, `name`, `doc`, `explains`, `last`, and `requests`, request -> whether it is needed. Raises UserError
    when the signature asks for what there is not.

    >>> @cause
    ... def moon_is_full(table, course=None): ...
    >>> moon_is_full.requests
    {'table': True, 'course': False}
    """
    if function is None:
        return functools.partial(cause, explains=explains, last=last)
    found, name, requests = function, function.__name__, {}
    for key, parameter in inspect.signature(function).parameters.items():
        if key not in REQUESTS:
            raise unknown(f"request of {name}", key, REQUESTS)
        requests[key] = parameter.default is parameter.empty

    @functools.wraps(function)
    def looked(**given: Any) -> Finding | None:
        return found(**given)

    doc = inspect.getdoc(function) or inspect.getdoc(inspect.getmodule(function)) or ""
    looked.__dict__.update(shelf="causes", name=name, doc=doc, requests=requests, explains=explains, last=last, function=function)
    return looked


def learnt(outputs: Any, course: Any) -> bool:
    """Whether the training did what it should: the loss is far below that of the best constant, or of the start."""
    if course is not None and course.diverged:
        return False
    if outputs is not None and outputs.finite and math.isfinite(outputs.level):
        return bool(0 <= outputs.level < LOW)
    return course is not None and 0 <= course.end < LOW * course.start
