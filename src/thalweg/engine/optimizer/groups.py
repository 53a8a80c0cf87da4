"""Groups of parameters: which structure of the rule each has, and which parameters have no weight decay."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.bound import Bound, Layout, nested
from thalweg.engine.optimizer import before
from thalweg.engine.optimizer.naming import Naming
from thalweg.engine.optimizer.stepping import real, wide
from thalweg.errors import UserError

NAMES = ("params", "param_names")
"""Keys of a group that are no options of its rule."""


@dataclass(frozen=True)
class Kind:
    """A structure of the rule as a group has it. before: wrappers that only change the whole gradient. singles: states of one number."""

    token: Any
    bound: Bound
    before: Bound | None
    singles: frozenset[str]


class Kinds:
    """The structures that the groups of an optimizer have had.

    decaying: whether weight decay is part of the formula also where it is 0, so that a schedule may pass there without another compilation.
    """

    def __init__(self, naming: Naming, decaying: bool = False) -> None:
        self.naming, self.decaying = naming, decaying
        self.known: dict[Any, Kind] = {}
        self.last: dict[int, tuple[Any, tuple[Any, ...], tuple[Kind, dict[str, Any]]]] = {}

    def of(self, group: Mapping[str, Any], p: Tensor) -> tuple[Kind, dict[str, Any]]:
        """The structure of a group, and its numbers by hyperparameter, not to be changed. p: one of its parameters."""
        own, values, found = self.last.get(id(group), (None, (), None))
        if found is None or own is not group or values != _values(group, p):
            found = self._of(group, p)
            values = _values(group, p)
            if p.device.type == "cpu" and all(map(_still, values)):
                self.last[id(group)] = group, values, found
        return found

    def _of(self, group: Mapping[str, Any], p: Tensor) -> tuple[Kind, dict[str, Any]]:
        fluid = p.device.type != "cpu" or group["differentiable"]
        dtype = real(p).dtype
        config = {
            n: _number(v, fluid) if isinstance(v, Tensor) else float(v) if isinstance(v, int) and not isinstance(v, bool) else v
            for n, v in self.naming.config(group, dtype).items()
        }
        rule, used = self.naming.variant(group), self.naming.used(group)
        hypers = {**rule.hypers, **{n: h for w in used for n, h in w.hypers.items()}}
        structure = {n: int(v) if hypers[n].domain.kind == "int" else v for n, v in config.items() if hypers[n].domain.structural}
        switches = {"weight_decay", *(start.option for start in rule.states.values() if hasattr(start, "option"))} & config.keys()
        active = frozenset(n for n in switches if n not in structure and (_on(config[n]) or (self.decaying and n == "weight_decay")))
        sign = bool(group["maximize"]), bool(group["differentiable"])
        token = (rule.decay, tuple(structure.items()), active, tuple(w.name for w in used), sign)
        if token not in self.known:
            bound = Bound(rule, tuple(nested(used)), structure, active, Layout(("x",), (torch.Size([3]),), wide(dtype)))
            first, bound = before.divided(bound)
            self.known[token] = Kind(token, bound, first, self.naming.singles)
        return self.known[token], {n: v for n, v in config.items() if n not in structure}


def _values(group: Mapping[str, Any], p: Tensor) -> tuple[Any, ...]:
    """What decides about a structure and its numbers."""
    return p.dtype, len(group), *(v for n, v in group.items() if n not in NAMES)


def _still(value: Any) -> bool:
    """Whether what equals this value is this value, now and later: no tensor, and no list of numbers."""
    return all(map(_still, value)) if type(value) is tuple else value is None or isinstance(value, float | int | str | torch.dtype)


def _number(value: Tensor, fluid: bool) -> Any:
    """A hyperparameter given as a tensor: a float, or still a tensor where reading it would block a device or cut a graph."""
    return value.reshape(()) if fluid else float(value)


def _on(value: Any) -> bool:
    return isinstance(value, Tensor) or bool(value)


def without_decay(params: Any, patterns: str | Iterable[str]) -> list[dict[str, Any]]:
    """Groups in which the parameters whose name matches a pattern have no weight decay.

    params: (name, parameter) pairs, or groups of them. patterns: as in file names, such as "*.bias" or "*norm*".
    Raises ValueError where there are no names, or a pattern matches none of them.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    given = list(params)
    groups = [dict(g) for g in given] if given and isinstance(given[0], dict) else [{"params": given}]
    found: list[dict[str, Any]] = []
    seen = set()
    for group in groups:
        pairs = list(group["params"])
        if not all(isinstance(pair, tuple) for pair in pairs):
            raise UserError("no_decay matches names: give model.named_parameters() in place of model.parameters()")
        matches = {name: [pattern for pattern in patterns if fnmatch.fnmatchcase(name, pattern)] for name, _ in pairs}
        seen |= {pattern for names in matches.values() for pattern in names}
        kept, bare = ([pair for pair in pairs if bool(matches[pair[0]]) is without] for without in (False, True))
        found += [{**group, "params": kept}] if kept else []
        found += [{**group, "params": bare, "weight_decay": 0.0}] if bare else []
    lost = sorted(set(patterns) - seen)
    if lost:
        raise UserError(f"no_decay: no parameter's name matches {', '.join(map(repr, lost))}")
    return found
