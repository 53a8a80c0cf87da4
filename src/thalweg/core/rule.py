"""A rule: one update formula, whose signature is its declaration.

    @rule
    def lion(x, g, m=zeros, *, lr: Rate = 1e-4, beta1: Decay = 0.9, beta2: Decay = 0.99): ...

Positional `x`, `g`: the point and its gradient. Positional with a default: a state and how it starts. Keyword with a
default: a hyperparameter, its annotation the domain. Keyword without a default: a request to the engine.
A start may answer None, as Adafactor's do for vectors: this tensor has no such state.
The function returns the new point, or the new point followed by the new states in the order of the signature.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.core.domain import Domain, Penalty, domain_of
from thalweg.errors import UserError, unknown

REQUESTS = MappingProxyType(
    {
        "t": "the count of this update, 1 at the first",
        "loss": "the loss at x on this step's batch",
        "noise": "standard normal numbers in the shape of x, seeded by (seed, step)",
        "x0": "the point before the first update",
        "weights": "1 where a number belongs to a weight (two or more dimensions), 0 at biases and norms",
    }
)

Scope = Literal["element", "tensor", "group"]
Start = Callable[..., Any]


# --- how a state starts: functions whose parameters (x, or a hyperparameter's name) are filled in by name


def zeros(x: Tensor) -> Tensor:
    """A state that starts at 0, in the shape of x."""
    return torch.zeros_like(x)


def ones(x: Tensor) -> Tensor:
    """A state that starts at 1, in the shape of x."""
    return torch.ones_like(x)


def like_point(x: Tensor) -> Tensor:
    """A state that starts as a copy of x."""
    return x.clone()


def filled(name: str) -> Start:
    """A state that starts at the value of the hyperparameter `name`, in the shape of x."""

    def start(x: Tensor, **hypers: Any) -> Tensor:
        return torch.zeros_like(x) + hypers[name]

    start.names = ("x", name)  # type: ignore[attr-defined]
    return start


def scalar(value: float | str) -> Start:
    """A state of one number for the whole scope, such as the best loss seen; it starts at `value`, or at the hyperparameter so named."""

    def start(x: Tensor, **hypers: Any) -> Tensor:
        return x.new_zeros(()) + hypers[value] if isinstance(value, str) else x.new_full((), value)

    start.names = ("x", value) if isinstance(value, str) else ("x",)  # type: ignore[attr-defined]
    start.scalar = True  # type: ignore[attr-defined]
    return start


def when(option: str, start: Start) -> Start:
    """A state that exists only while the hyperparameter `option` is on (true, or not zero in some lane)."""

    def conditional(**named: Any) -> Tensor:
        return start(**named)

    conditional.names = names_of(start)  # type: ignore[attr-defined]
    conditional.option = option  # type: ignore[attr-defined]
    return conditional


def names_of(function: Callable) -> tuple[str, ...]:
    """What a function takes, by name; a start made by a function says so itself."""
    return getattr(function, "names", None) or tuple(inspect.signature(function).parameters)


def states_of(function: Callable, label: str, first: int, hypers: Iterable[str]) -> dict[str, Start]:
    """The states among a function's positional parameters, those behind the first few, with their starts."""
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD][first:]
    for p in positional:
        if p.default is inspect.Parameter.empty or not callable(p.default):
            raise UserError(f"{label}: the state '{p.name}' needs a start as its default, such as zeros")
        option = getattr(p.default, "option", None)
        missing = ({option} if option else set()) | set(names_of(p.default))
        missing -= {"x", *hypers}
        if missing:
            raise UserError(f"{label}: the state '{p.name}' starts from {', '.join(sorted(missing))}, which the rule does not have")
    return {p.name: p.default for p in positional}


def read_by(label: str, states: Iterable[str], readers: list[Callable], function: Callable) -> Callable:
    """Note the function that reads the answer out of x and the states."""
    bad = set(names_of(function)) - {"x", *states}
    if bad:
        raise UserError(f"{label}.readout takes x and the states {', '.join(states)}, not {', '.join(sorted(bad))}")
    readers[:] = [function]
    return function


# --- hyperparameters


@dataclass(frozen=True)
class Hyper:
    """A hyperparameter: its name, its domain and its default."""

    name: str
    domain: Domain
    default: Any


def hypers_of(function: Callable, label: str) -> dict[str, Hyper]:
    """The keywords with a default and a domain, read from a signature."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or parameter.default is inspect.Parameter.empty:
            continue
        domain = domain_of(hints.get(name))
        if domain is None:
            raise UserError(f"{label}: the hyperparameter '{name}' needs a domain as its annotation, such as Rate or Decay")
        found[name] = Hyper(name, domain, domain.check(parameter.default, f"{label}: default {name}"))
    return found


def requests_of(function: Callable, label: str, extra: Iterable[str] = ()) -> tuple[str, ...]:
    """The keywords without a default, each of which must be something the engine can give."""
    names = tuple(
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty
    )
    for name in names:
        if name not in REQUESTS and name not in set(extra):
            raise unknown(f"request of {label}", name, [*REQUESTS, *extra])
    return names


# --- the rule


@dataclass(frozen=True)
class Rule:
    """An update rule, as read from its function. Compare `rule`.

    states: name -> start. hypers: name -> Hyper. requests: names of what the engine must give.
    decay: how `weight_decay`, which every rule takes, acts: "l2" adds `weight_decay * x` to the gradient before the rule
    sees it (as torch.optim does); "decoupled" shrinks x by `lr * weight_decay * x` apart from it (as AdamW does).
    gradient: whether the rule looks at the gradient at all. batched: whether lanes may be stepped as one; not where a product of many
    matrices rounds otherwise than that of one, and the round-off shows, as in bfloat16.
    """

    shelf = "optimizers"

    name: str
    function: Callable
    scope: Scope
    states: Mapping[str, Start]
    hypers: Mapping[str, Hyper]
    requests: tuple[str, ...]
    decay: Literal["l2", "decoupled"] = "l2"
    gradient: bool = True
    batched: bool = True
    doc: str = ""
    readers: list[Callable] = field(default_factory=list, compare=False, repr=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def reader(self) -> Callable | None:
        """The function declared with `@rule.readout`: (x, states by name) -> the rule's answer, where that is not x."""
        return self.readers[-1] if self.readers else None

    def readout(self, function: Callable) -> Callable:
        """Declare what the rule answers when that is not `x` itself; parameters are `x` and states, by name."""
        return read_by(self.name, self.states, self.readers, function)

    def preset(self, name: str, doc: str, *, decay: Literal["l2", "decoupled"] | None = None, **defaults: Any) -> Rule:
        """A named variant: the same function under other defaults.

        >>> from thalweg.optimizers import sgd
        >>> sgd.preset("heavy", "SGD with heavy momentum.", momentum=0.99).hypers["momentum"].default
        0.99
        """
        hypers = dict(self.hypers)
        for key, value in defaults.items():
            if key not in hypers:
                raise unknown(f"hyperparameter of {self.name}", key, hypers)
            hypers[key] = replace(hypers[key], default=hypers[key].domain.check(value, f"{name}: default {key}"))
        return replace(self, name=name, hypers=hypers, decay=decay or self.decay, doc=doc)

    def check(self, config: Mapping[str, Any], extra: Mapping[str, Hyper] = MappingProxyType({})) -> dict[str, Any]:
        """All hyperparameters of a configuration, defaults filled in; `extra` are those of wrappers it may also name.

        >>> from thalweg.optimizers import sgd
        >>> sgd.check({"betas": 0.9})
        Traceback (most recent call last):
            ...
        thalweg.errors.UserError: sgd has no 'betas'; it takes lr, momentum, dampening, nesterov, weight_decay
        """
        full = {name: hyper.default for name, hyper in self.hypers.items()}
        for name, value in config.items():
            hyper = self.hypers.get(name) or extra.get(name)
            if hyper is None:
                raise UserError(f"{self.name} has no '{name}'; it takes {', '.join(self.hypers)}")
            full[name] = hyper.domain.check(value, f"{self.name}: {name}")
        return full


_DECAY = domain_of(Penalty)


def rule(
    function: Callable | None = None,
    *,
    scope: Scope = "element",
    decay: Literal["l2", "decoupled"] = "l2",
    gradient: bool = True,
    batched: bool = True,
) -> Any:
    """Read an update rule from a function's signature.

    scope: "element" (each number by itself; any shape), "tensor" (whole parameters), "group" (the group as one vector).
    Raises UserError when the signature cannot be read.

    >>> from thalweg.core import Rate, rule
    >>> @rule
    ... def signsgd(x, g, *, lr: Rate = 1e-3):
    ...     '''Step along the sign.'''
    ...     return x - lr * g.sign()
    >>> signsgd.name, list(signsgd.hypers), signsgd.states
    ('signsgd', ['lr', 'weight_decay'], {})
    """
    if function is None:
        return lambda later: rule(later, scope=scope, decay=decay, gradient=gradient, batched=batched)
    name = function.__name__
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    if any(p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) for p in parameters):
        raise UserError(f"{name}: a rule names its states and hyperparameters one by one; * and ** say nothing to the engine")
    if [p.name for p in positional[:2]] != ["x", "g"]:
        raise UserError(f"{name}: a rule's first two parameters are x (the point) and g (its gradient)")
    hypers = hypers_of(function, name)
    if gradient and "lr" not in hypers:
        raise UserError(f"{name}: a rule that uses the gradient needs a learning rate, `lr: Rate = ...`")
    if "weight_decay" not in hypers and gradient:
        assert _DECAY is not None
        hypers["weight_decay"] = Hyper("weight_decay", _DECAY, 0.0)
    states = states_of(function, name, 2, hypers)
    module = inspect.getmodule(function)
    doc = inspect.getdoc(function) or (module and inspect.getdoc(module)) or ""
    return Rule(name, function, scope, states, hypers, requests_of(function, name), decay, gradient, batched, doc)
