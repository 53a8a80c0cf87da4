"""From what a user names as an optimizer to one over a model's parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from thalweg import optim
from thalweg.core import catalogue
from thalweg.core.rule import Rule
from thalweg.engine.optimizer.optimizer import Optimizer
from thalweg.engine.work import user_code
from thalweg.errors import UserError, unknown
from thalweg.study.spec import parse_optimizer
from thalweg.study.sweep import all_wrappers, find_rule, known_config

LBFGS = "lbfgs"
INSIDE = ("dropout", "label_smoothing")
"""Settings of the model and the loss rather than of the optimizer."""
_LBFGS: Mapping[str, Callable[[Any], Any]] = {
    "lr": float, "max_iter": int, "max_eval": int, "tolerance_grad": float, "tolerance_change": float, "history_size": int,
    "line_search_fn": str,
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """An optimizer as named. settings: in full. inside: those of the model and the loss. make: a module and a seed -> the optimizer.

    full_batch: whether it is one for full batches. rule: where it is a rule.
    """

    label: str
    settings: Mapping[str, Any]
    make: Callable[[nn.Module, int], torch.optim.Optimizer]
    inside: Mapping[str, float] = field(default_factory=dict)
    full_batch: bool = False
    rule: Rule | None = None


def choose(optimizer: Any, settings: Mapping[str, Any]) -> Choice:
    """Read `name`, `name[key=value]`, a rule, or a function of parameters that makes an optimizer.

    Raises UserError for names that are not known, values outside their domains, and several values where one trains.

    >>> choice = choose("adamw[lr=0.01]", {"weight_decay": "0.1", "dropout": 0.2})
    >>> choice.label, choice.settings["lr"], choice.settings["weight_decay"], choice.inside
    ('adamw', 0.01, 0.1, {'dropout': 0.2})
    """
    if isinstance(optimizer, type) or (callable(optimizer) and not isinstance(optimizer, Rule)):
        return _own(optimizer, settings)
    own: dict[str, Any] = {}
    if isinstance(optimizer, str):
        optimizer, own = parse_optimizer(optimizer)
    for name in own:
        if name in settings:
            raise UserError(f"{name} is given twice, as {own[name]} and as {settings[name]}; give it once")
    given = {**settings, **own}
    patterns = _patterns(given.pop("no_decay", ()))
    for name, value in given.items():
        if isinstance(value, list | tuple | Mapping):
            raise UserError(f"{name} has several values, and a run takes one; to try several, use sweep or compare")
    if optimizer == LBFGS:
        return _lbfgs(given | ({"no_decay": patterns} if patterns else {}))
    if isinstance(optimizer, str) and ".py:" not in optimizer:
        known = catalogue.shelf("optimizers")
        if optimizer not in known:
            raise unknown("optimizer", optimizer, [*known, LBFGS])
    rule = find_rule(optimizer)
    wrappers = all_wrappers()
    hypers = {**{n: h for w in wrappers for n, h in w.hypers.items()}, **rule.hypers}
    read = {n: hypers[n].domain.parse(v, f"{rule.name}: {n}") if isinstance(v, str) and n in hypers else v for n, v in given.items()}
    full = known_config(rule, read, wrappers)
    inside = {n: float(full.pop(n)) for n in INSIDE if n in full}

    def make(module: nn.Module, seed: int) -> torch.optim.Optimizer:
        kind, arguments = _torchs(rule, full)
        return kind(module.named_parameters(), seed=seed, no_decay=patterns, **arguments)

    label = optimizer if isinstance(optimizer, str) else rule.name
    shown = {**full, **inside, **({"no_decay": " ".join(patterns)} if patterns else {})}
    return Choice(label, shown, make, inside, rule=rule)


def _patterns(given: Any) -> tuple[str, ...]:
    """Patterns of the names whose parameters have no weight decay."""
    found = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(pattern, str) for pattern in found):
        raise UserError(f"no_decay = {given!r} must be patterns of parameters' names, such as *.bias")
    return found


def _torchs(rule: Rule, config: Mapping[str, Any]) -> tuple[type[Optimizer], dict[str, Any]]:
    """The class of a rule and its arguments: that of torch's name where there is one, so that torch reads its checkpoints."""
    for kind in vars(optim).values():
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer:
            naming = kind.naming
            if naming.rule is rule and hasattr(torch.optim, naming.title) and not naming.matrices:
                named = {a: config[h] if isinstance(h, str) else tuple(config[n] for n in h) for a, h in naming.arguments.items()}
                taken = {h for several in naming.arguments.values() for h in ((several,) if isinstance(several, str) else several)}
                return kind, {**named, **{n: v for n, v in config.items() if n not in taken}}
    return optim.optimizer(rule), dict(config)


def _lbfgs(given: Mapping[str, Any]) -> Choice:
    settings: dict[str, Any] = {"line_search_fn": "strong_wolfe", "max_iter": 20}
    for name, value in given.items():
        if name not in _LBFGS:
            raise unknown("setting of lbfgs", name, _LBFGS)
        try:
            settings[name] = None if value == "none" else _LBFGS[name](value)
        except (TypeError, ValueError):
            raise UserError(f"lbfgs: {name} = {value!r} must be a number") from None
    optim.LBFGS([nn.Parameter(torch.zeros(1))], **settings)  # says what is wrong now

    def make(module: nn.Module, seed: int) -> torch.optim.Optimizer:
        return optim.LBFGS([p for p in module.parameters() if p.requires_grad], **settings)

    return Choice(LBFGS, settings, make, full_batch=True)


def _own(factory: Callable[[Any], Any], settings: Mapping[str, Any]) -> Choice:
    inside = {n: float(v) for n, v in settings.items() if n in INSIDE}
    given = {n: v for n, v in settings.items() if n not in INSIDE}
    name = getattr(factory, "__name__", type(factory).__name__)

    def make(module: nn.Module, seed: int) -> torch.optim.Optimizer:
        with user_code(f"the optimizer {name} could not be made"):
            made = factory(module.parameters(), **given)
        if not isinstance(made, torch.optim.Optimizer):
            raise UserError(f"{name} gave a {type(made).__name__}; it must give a torch.optim.Optimizer of the parameters it gets")
        return made

    return Choice(name, dict(settings), make, inside, full_batch=isinstance(factory, type) and issubclass(factory, torch.optim.LBFGS))
