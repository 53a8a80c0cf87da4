"""Wrappers: what can be put around any rule. A wrapper's signature is its declaration, as a rule's is.

    @wrapper(stage="gradient")
    def clip_value(step, x, g, *, clip_value: Threshold = 1.0):
        return step(x, g.clamp(-clip_value, clip_value))

`step(x, g)` is the rule inside and returns the new point. A positional parameter behind g is a state with its start, as a rule has
them; the function then returns the new point and its states. A keyword without a default is a request to the engine, or a
hyperparameter of the rule inside (`lr`). The stage says in which order wrappers nest, from outside: "point" (averages of points), "loss"
(the penalty is part of the loss), "gradient" (clipping, of the whole gradient). Two stages lie outside the step: "ascent", a function of
x and g that returns the point at which the gradient is taken again (sharpness-aware minimisation), and "model", a number that the forward
takes from the lane (a dropout probability), whose function is not called. A configuration that names a wrapper's hyperparameter is
wrapped in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from thalweg.core.rule import Hyper, Start, hypers_of, read_by, requests_of, states_of
from thalweg.errors import UserError

Stage = Literal["model", "ascent", "point", "loss", "gradient"]
STAGES: tuple[Stage, ...] = ("model", "ascent", "point", "loss", "gradient")


@dataclass(frozen=True)
class Wrapper:
    """A wrapper as read from its function; see the module. shelf: "wrappers" or "regularizers".

    scope: "element" where each number is treated by itself, "group" where the whole gradient counts.
    """

    name: str
    function: Callable
    stage: Stage
    hypers: Mapping[str, Hyper]
    requests: tuple[str, ...]
    doc: str = ""
    shelf: str = "wrappers"
    scope: Literal["element", "group"] = "group"
    states: Mapping[str, Start] = field(default_factory=dict)
    readers: list[Callable] = field(default_factory=list, compare=False, repr=False)

    @property
    def reader(self) -> Callable | None:
        """The function declared with `@wrapper.readout`: (x, states by name) -> the answer, where that is not x."""
        return self.readers[-1] if self.readers else None

    def readout(self, function: Callable) -> Callable:
        """Declare what is answered when that is not `x` itself; parameters are `x` and states, by name."""
        return read_by(self.name, self.states, self.readers, function)


def wrapper(*, stage: Stage, shelf: str = "wrappers", scope: Literal["element", "group"] = "group") -> Callable[[Callable], Wrapper]:
    """Read a wrapper from a function `(step, x, g, *, ...) -> new x`."""

    def read(function: Callable) -> Wrapper:
        name = function.__name__
        first = {"model": [], "ascent": ["x", "g"]}.get(stage, ["step", "x", "g"])
        if list(inspect.signature(function).parameters)[: len(first)] != first:
            raise UserError(f"{name}: the first parameters of a wrapper of stage {stage} are {', '.join(first)}")
        module = inspect.getmodule(function)
        doc = inspect.getdoc(function) or (module and inspect.getdoc(module)) or ""
        hypers = hypers_of(function, name)
        states = states_of(function, name, len(first), hypers)
        return Wrapper(name, function, stage, hypers, requests_of(function, name, extra=("lr",)), doc, shelf, scope, states)

    return read
