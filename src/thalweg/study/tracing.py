"""`tw.trace`: what a user names, functions and rules, as what `thalweg.explain.trace` walks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from thalweg import optim
from thalweg.core import catalogue
from thalweg.core.rule import Rule
from thalweg.errors import UserError, unknown
from thalweg.explain.lectures import LECTURES
from thalweg.explain.trace import Runner, Trace, follow
from thalweg.study import plan
from thalweg.study.spec import parse_optimizer
from thalweg.study.sweep import make_schedules
from thalweg.study.training.optimizers import Choice, choose

STEPS = 50


def trace(
    function: Any,
    optimizers: Any = ("sgd", "momentum", "adam"),
    *,
    steps: int = STEPS,
    start: Sequence[float] | float | None = None,
    noise: float = 0.0,
    bias: float = 0.0,
    schedule: Any = None,
    seed: int = 0,
) -> Trace:
    """The paths of several rules on a function of one or two variables, from one start.

    function: a name (`thalweg list functions`), `file.py:function`, or a function of a tensor (d,). optimizers: names as compare takes
    them, `sgd[momentum=0.9, lr=0.1, schedule=cosine]`, rules, or functions of parameters that make an optimizer; or a mapping label -> one
    of these. start: by default the function's own. noise: standard deviation of what is added to every gradient, bias: what is added
    besides. schedule: of the learning rate of every rule without its own, a name or f(t). seed: of the noise.
    Raises UserError for what is not known, and for functions of more variables.

    >>> found = trace("bowl", ["sgd[lr=0.1]"], steps=20)
    >>> found.paths["sgd (lr=0.1)"][-1].round(6).tolist()
    [-0.057646, -7.3e-05]
    """
    named, make, own, minimisers = _function(function)
    at = own if start is None else start
    if at is None:
        raise UserError(f'{named} needs a start; give start=[...], on the command line --start "0, 0"')
    if isinstance(optimizers, str) or not isinstance(optimizers, Mapping | Sequence):
        optimizers = [optimizers]
    asked = list(optimizers.items()) if isinstance(optimizers, Mapping) else [(None, one) for one in optimizers]
    runners = [_runner(one, label, schedule, steps) for label, one in asked]
    return follow(make, at, runners, name=named, noise=noise, bias=bias, seed=seed, minimisers=minimisers)


def lecture(name: str, seed: int = 0) -> Trace:
    """One of the lecture's pictures."""
    if name not in LECTURES:
        raise unknown("lecture picture", name, LECTURES)
    told = LECTURES[name]
    _, make, _, minimisers = _function(told.function)
    runners = [_runner(text, label, schedule, steps) for label, (text, schedule, steps) in told.runs.items()]
    return follow(make, told.start, runners, name=told.title, seed=seed, **{"minimisers": minimisers, **told.more})


def _function(given: Any) -> tuple[str, Callable[..., Any], Any, Sequence[Sequence[float]]]:
    """A function's name, itself, its start if it has one, and its minimisers where they are known."""
    if isinstance(given, str) and ".py:" not in given:
        known = catalogue.shelf("functions")
        if given not in known:
            raise unknown("function", given, known)
        given = known[given]
    found = catalogue.load(given) if isinstance(given, str) else given
    if not callable(found):
        raise UserError(f"{given} is a {type(found).__name__}; a trace follows a function of a tensor, x -> one number")
    name = str(getattr(found, "name", None) or getattr(found, "__name__", "f"))
    if getattr(found, "shelf", None) != "functions":
        return "f" if name == "<lambda>" else name, found, None, ()
    least = found.minimiser()
    return name, found, found.start(), () if least is None else (least.tolist(),)


def _runner(given: Any, label: str | None, schedule: Any, steps: int) -> Runner:
    own: dict[str, Any] = {}
    if isinstance(given, str):
        given, own = parse_optimizer(given)
    chosen = own.pop("schedule", schedule)
    choice = choose(given, own)
    if choice.inside:
        raise UserError(f"{', '.join(choice.inside)}: a function has no layers and no labels; leave it out")
    schedules: Mapping[str, Any] = {}
    if chosen is not None:
        if choice.rule is None:
            raise UserError(f"a schedule drives the rate of a rule, which {choice.label} is not; leave the schedule out")
        schedules = make_schedules(plan.make_schedule(chosen, steps) if isinstance(chosen, str) else chosen, choice.rule)
    told = ", ".join(f"{key}={value}" for key, value in own.items())
    base = choice.label.rpartition(":")[2]
    return Runner(label or (f"{base} ({told})" if told else base), _make(choice), steps, schedules)


def _make(choice: Choice) -> Callable[[nn.Module, int], torch.optim.Optimizer]:
    if not isinstance(choice.rule, Rule):
        return choice.make
    rule, settings = choice.rule, {n: v for n, v in choice.settings.items() if n not in ("no_decay", *choice.inside)}
    # as the rule is written: for two numbers nothing is worth compiling
    return lambda module, seed: optim.optimizer(rule)(module.parameters(), seed=seed, engine="reference", **settings)
