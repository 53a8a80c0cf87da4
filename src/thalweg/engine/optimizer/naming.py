"""Names: how a class of torch.optim calls what a rule calls otherwise, in its arguments, in its groups and in its states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from thalweg.core.rule import Hyper, Rule
from thalweg.core.wrapper import Wrapper
from thalweg.errors import UserError

Group = Mapping[str, Any]

FLAGS: dict[str, Any] = {"maximize": False, "foreach": None, "fused": None, "capturable": False, "differentiable": False}
"""What every class takes and every group holds, as in torch.optim; foreach, fused and capturable are hints that change nothing here."""
LABELS = {"lr": "learning rate", "eps": "epsilon value", "betas": "beta"}


class UnknownArgument(UserError, TypeError):
    """An argument that the class does not have."""


@dataclass(frozen=True)
class Naming:
    """A rule under the names of a class.

    arguments: argument -> hyperparameter, or several where the argument is a tuple; in the class's order. states: ours -> theirs.
    says: argument -> the words in which a value outside its domain is refused, where they are not "Invalid ... value".
    check: raises ValueError where arguments do not go together. decoupled: whether the class takes `decoupled_weight_decay`.
    matrices: whether only tensors of two dimensions are stepped. more: flags that the class also takes by position, behind its arguments.
    shown: arguments whose default is None in the groups and stands for the rule's. eager: whether states begin with the optimizer.
    sparse: whether sparse gradients are made dense where the rule cannot step their rows alone.
    """

    title: str
    rule: Rule
    arguments: Mapping[str, str | tuple[str, ...]]
    states: Mapping[str, str] = field(default_factory=dict)
    says: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Group], None] | None = None
    decoupled: bool = False
    matrices: bool = False
    more: tuple[str, ...] = ()
    shown: dict[str, Any] = field(default_factory=dict)
    eager: bool = False
    sparse: bool = False
    wrappers: tuple[Wrapper, ...] = ()

    @cached_property
    def places(self) -> dict[str, tuple[str, int | None]]:
        """hyperparameter -> the argument that holds it, and where in it."""
        found: dict[str, tuple[str, int | None]] = {}
        for argument, hypers in self.arguments.items():
            found |= {hypers: (argument, None)} if isinstance(hypers, str) else {h: (argument, i) for i, h in enumerate(hypers)}
        return found | {n: (n, None) for n in self.rule.hypers if n not in found}

    @cached_property
    def around(self) -> dict[str, Wrapper]:
        """argument -> the wrapper that it puts around the rule."""
        return {n: w for w in self.wrappers for n in w.hypers if n not in self.places and w.stage != "model"}

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """argument -> default, in the class's order; then what all classes take."""
        values = {n: h.default for n, h in self.rule.hypers.items()}
        named = {a: values[h] if isinstance(h, str) else tuple(values[n] for n in h) for a, h in self.arguments.items()}
        named |= {n: values[n] for n in self.rule.hypers if self.places[n][0] == n and n not in named}
        if self.decoupled:
            named["decoupled_weight_decay"] = self.rule.decay == "decoupled"
        return named | self.shown | FLAGS

    def given(self, positional: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults of all groups, from the arguments of a call; raises TypeError where there is no such argument."""
        names = [*self.arguments, *self.more]
        if len(positional) > len(names):
            raise TypeError(
                f"{self.title} takes {len(names)} arguments by position behind params ({', '.join(names)}), not {len(positional)}"
            )
        values = dict(zip(names, positional, strict=False))
        for name in keywords:
            if name in values:
                raise TypeError(f"{self.title} got the argument '{name}' twice")
            self.known(name)
        values |= keywords
        used = {w.name: w for n, w in self.around.items() if n in values}.values()
        return {**self.defaults, **{n: h.default for w in used for n, h in w.hypers.items()}, **values}

    def known(self, name: str, alike: float = 0.0) -> None:
        """Raise TypeError where this is no argument of the class, offering the nearest; alike: only where one is so near."""
        options = [*self.defaults, *self.around]
        if name not in options and (not alike or get_close_matches(name, options, n=1, cutoff=alike)):
            near = get_close_matches(name, options, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UnknownArgument(f"{self.title} has no argument '{name}'{hint} (it takes {', '.join(n for n in self.defaults)})")

    def checked(self, group: Group) -> None:
        """Raise ValueError or TypeError where a value of a group is outside its domain."""
        for name, hyper in self._hypers(group).items():
            argument, i = self.places.get(name, (name, None))
            value = group[argument]
            if i is not None:
                self._several(argument, value)
                value = value[i]
            self._inside(argument, i, hyper, value, group[argument])
        if group["fused"] and group["foreach"]:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        if group["fused"] and group["differentiable"]:
            raise RuntimeError("`fused` does not support `differentiable`")
        if self.check is not None:
            self.check(group)
        for p in group["params"] if self.matrices else ():
            if p.ndim != 2:
                raise ValueError(
                    f"{self.title} only supports 2D parameters; one has the shape {tuple(p.shape)}: give it to another optimizer"
                )

    def _several(self, argument: str, value: Any) -> None:
        wanted = self.arguments[argument]
        if not isinstance(value, tuple | list) or len(value) != len(wanted):
            raise ValueError(f"Invalid {argument}: {value!r}; {self.title} takes {len(wanted)} numbers there, ({', '.join(wanted)})")
        if argument == "betas" and len({isinstance(v, Tensor) for v in value}) > 1:
            raise ValueError("betas must be either both floats or both Tensors")

    def _inside(self, argument: str, i: int | None, hyper: Hyper, value: Any, whole: Any) -> None:
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"Tensor {argument} must be 1-element")
            value = float(value.detach())
        if value is None and argument in self.shown:
            return
        try:
            hyper.domain.check(value, argument)
        except UserError as error:
            shown = ", ".join(str(v) for v in whole) if i is not None else str(whole)
            if argument == "betas":
                first = f"Invalid beta parameter at index {i}: {value}"
            elif argument in self.says:
                first = self.says[argument].format(shown)
            else:
                singular = f"{argument.removesuffix('s')} values" if i is not None else LABELS.get(argument, f"{argument} value")
                first = f"Invalid {singular}: {shown}"
            raise UserError(f"{first} ({self.title}: {error})") from None

    def _hypers(self, group: Group) -> dict[str, Hyper]:
        return {**self.rule.hypers, **{n: h for w in self.used(group) for n, h in w.hypers.items()}}

    def used(self, group: Group) -> list[Wrapper]:
        """The wrappers that a group names."""
        return list({w.name: w for n, w in self.around.items() if n in group}.values())

    def variant(self, group: Group) -> Rule:
        """The rule with its states under the class's names, and with the weight decay that the group asks for."""
        if not self.decoupled:
            return self._renamed
        decay = "decoupled" if group["decoupled_weight_decay"] else "l2"
        return self._renamed if decay == self.rule.decay else replace(self._renamed, decay=decay)  # type: ignore[arg-type]

    @cached_property
    def singles(self) -> frozenset[str]:
        """The states of one number for a tensor, or for all of them, under the class's names."""
        return frozenset(self.states.get(n, n) for n, start in self.rule.states.items() if getattr(start, "scalar", False))

    @cached_property
    def _renamed(self) -> Rule:
        return replace(self.rule, states={self.states.get(n, n): start for n, start in self.rule.states.items()})

    def config(self, group: Group, dtype: torch.dtype) -> dict[str, Any]:
        """hyperparameter -> value, of a group; dtype: of the parameters, whose round-off stands for an eps of None."""
        found = {}
        for name in self._hypers(group):
            argument, i = self.places.get(name, (name, None))
            value = group[argument] if i is None else group[argument][i]
            if value is None and argument in self.shown:
                value = torch.finfo(dtype).eps if argument == "eps" else self.rule.hypers[name].default
            found[name] = value
        return found


def plain(rule: Rule, title: str, wrappers: Iterable[Wrapper] = ()) -> Naming:
    """A rule under its own names."""
    return Naming(title, rule, {n: n for n in rule.hypers}, wrappers=tuple(wrappers))
