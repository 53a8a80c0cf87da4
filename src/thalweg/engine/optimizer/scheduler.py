"""Drives the hyperparameters of any torch.optim.Optimizer by schedules: pure functions of t, the number of updates already done."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim import Optimizer

from thalweg.core.schedule import Multiplier
from thalweg.engine.optimizer.dials import Dial, dials
from thalweg.errors import UserError, unknown

_DRIVERS: WeakKeyDictionary[Optimizer, dict[tuple[int, str], object]] = WeakKeyDictionary()
"""Who drives which number of which group: the last one made. An older one that goes on would undo what the newer one writes."""


class Scheduler:
    """Writes base value x schedule(t) into an optimizer's groups: at once for t = 0, and anew at every step.

    opt: any torch.optim.Optimizer. Keywords: what is driven, a key of its groups (lr, weight_decay, momentum, ...) or, inside a tuple
    `betas`, beta1 and beta2; each a schedule of `tw.schedules` or any f(t) -> multiplier, or a list of them, one a group, None for a
    group that is left alone. groups: the numbers of the only groups that are driven; a list then has one schedule for each of these.

    t counts the updates already done: call `step()` after `opt.step()`, with t in epochs once an epoch. A base value is what the group
    holds when the scheduler is made. A group added later follows a single schedule, unless `groups` is given, and its base value is
    what it holds when it is first seen: at the next `step()`, or at once by `write()`. A tensor (lr=torch.tensor(1e-3)) is filled in
    place, so that nothing recompiles. Several schedulers may drive different hyperparameters of one optimizer.

    Raises UserError for what is no optimizer, no schedule or no hyperparameter of it; at a step, where a schedule gives what is not a
    finite number of at least 0, and where another Scheduler or Plateau, made later, drives the same; nothing is written then.

    >>> import torch
    >>> from thalweg.schedules import cosine, linear
    >>> opt = torch.optim.Adam([torch.nn.Parameter(torch.zeros(3))], lr=0.1, weight_decay=0.01)
    >>> sched = Scheduler(opt, lr=cosine(total=100, warmup=10), weight_decay=linear(total=100), beta1=lambda t: 1 - 0.5 / (t + 1))
    >>> for _ in range(55):
    ...     opt.step()
    ...     sched.step()
    >>> {name: [round(v, 6) for v in values] for name, values in sched.values().items()}
    {'lr': [0.05], 'weight_decay': [0.0045], 'beta1': [0.891964]}
    """

    def __init__(
        self, opt: Optimizer, *, groups: Sequence[int] | None = None, **schedules: Multiplier | Sequence[Multiplier | None]
    ) -> None:
        if not isinstance(opt, Optimizer):
            raise UserError(f"a Scheduler drives a torch.optim.Optimizer, not {_a(opt)}; pass the optimizer itself")
        if not schedules:
            raise UserError("this Scheduler drives nothing; name a hyperparameter, such as lr=tw.schedules.cosine(total=1000)")
        self.opt = opt
        self._only = None if groups is None else _chosen(groups, len(opt.param_groups))
        self._given = {name: _checked(opt, name, given, self._only) for name, given in schedules.items()}
        self._base: dict[str, list[float | None]] = {name: [] for name in schedules}
        self._dials: dict[str, list[Dial | None]] = {name: [] for name in schedules}
        self._t = 0
        self._me = object()
        self._write(0, first=True)

    def __repr__(self) -> str:
        driven = [f"{name}={' '.join(dict.fromkeys(filter(None, labels)))}" for name, labels in self._labels().items()]
        return f"Scheduler(t={self._t}, {', '.join(driven)})"

    @property
    def t(self) -> int:
        """How many updates are done; the values that stand in the groups are those of this t."""
        return self._t

    @property
    def base(self) -> dict[str, list[float | None]]:
        """The base values by name, one a group; None for a group that is left alone. To change them, see `rebase`."""
        self._see()
        return {name: list(values) for name, values in self._base.items()}

    def step(self) -> None:
        """One more update is done: raise t by one and write its values."""
        self._write(self._t + 1)

    def write(self) -> None:
        """Write the values of t again: after `add_param_group`, or where something else has changed them."""
        self._write(self._t)

    def rebase(self, name: str, values: Sequence[float | None]) -> None:
        """Replace the base values of a hyperparameter, one a group as in `base`, and write what follows from them at once."""
        self._see()
        if name not in self._base:
            raise unknown("hyperparameter of this Scheduler", name, self._base)
        self._write(self._t, self._base | _alike({name: values}, {name: self._base[name]}))

    def values(self) -> dict[str, list[float | None]]:
        """What stands in the groups now, by name, one a group; None for a group that has no such hyperparameter."""
        groups = [(group, dials(group)) for group in self.opt.param_groups]
        return {name: [has[name].read(group) if name in has else None for group, has in groups] for name in self._base}

    def state_dict(self) -> dict[str, Any]:
        """t, the base values and the schedules' labels, as plain numbers and strings by name, one a group."""
        return {"t": self._t, "base": self.base, "schedules": self._labels()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take t and the base values from `state_dict()` and write the values of that t at once.

        The schedules are those that this scheduler was made with. Raises UserError, and changes nothing, where the state is not a
        Scheduler's, or is of other hyperparameters or groups.
        """
        self._see()
        if not isinstance(state, Mapping) or not {"t", "base"} <= state.keys() or not isinstance(state["base"], Mapping):
            raise UserError("this is not the state of a tw.Scheduler; load what its state_dict() gave")
        t = state["t"]
        if isinstance(t, bool) or not isinstance(t, int) or t < 0:
            raise UserError(f"t = {t!r} in this state must be a whole number, at least 0; load what state_dict() gave")
        self._write(t, _alike(state["base"], self._base))

    def _schedule(self, name: str, group: int) -> Multiplier | None:
        given = self._given[name]
        if isinstance(given, dict):
            return given.get(group)
        return given if self._only is None or group in self._only else None

    def _labels(self) -> dict[str, list[str | None]]:
        return {n: [None if b is None else _label(self._schedule(n, i)) for i, b in enumerate(base)] for n, base in self._base.items()}

    def _see(self) -> None:
        """Take note of the groups that are new."""
        groups = self.opt.param_groups
        for name, base in self._base.items():
            if len(groups) < len(base):
                raise UserError(f"the optimizer had {len(base)} groups and has {len(groups)}; make a new Scheduler where groups are gone")
            for i in range(len(base), len(groups)):
                dial = dials(groups[i]).get(name)
                base.append(self._start(name, i, dial))
                self._dials[name].append(dial)

    def _start(self, name: str, i: int, dial: Dial | None) -> float | None:
        """The base value of a group; None where it is left alone. Groups that share a tensor share it: it may hold a later value."""
        if dial is None:
            return None
        held, f = dial.held(self.opt.param_groups[i]), self._schedule(name, i)
        for j, (other, base) in enumerate(zip(self._dials[name], self._base[name], strict=True)):
            if isinstance(held, Tensor) and other is not None and other.held(self.opt.param_groups[j]) is held:
                if self._schedule(name, j) is not f:
                    raise UserError(f"groups {j} and {i} share one tensor as {name} and so cannot be driven apart; give each its own")
                return base
        return None if f is None else dial.read(self.opt.param_groups[i])

    def _write(self, t: int, base: dict[str, list[float | None]] | None = None, first: bool = False) -> None:
        self._see()
        base = self._base if base is None else base
        drivers = _DRIVERS.setdefault(self.opt, {})
        driven = [(i, name, start) for name, values in base.items() for i, start in enumerate(values) if start is not None]
        new = [self._value(name, i, t, start) for i, name, start in driven]
        for i, name, _ in driven:
            if not first and drivers.setdefault((i, name), self._me) is not self._me:
                raise UserError(
                    f"{name} of group {i} is driven by another Scheduler or Plateau, made after this one; step only one of them, or "
                    "make the plateau of the scheduler, tw.Plateau(scheduler), which multiplies the two"
                )
        for (i, name, _), value in zip(driven, new, strict=True):
            drivers[i, name] = self._me
            dial = self._dials[name][i]
            assert dial is not None
            dial.write(self.opt.param_groups[i], value)
        self._base, self._t = base, t

    def _value(self, name: str, i: int, t: int, start: float) -> float:
        f, dial = self._schedule(name, i), self._dials[name][i]
        assert f is not None
        assert dial is not None
        given = f(t)
        number = math.nan
        if isinstance(given, numbers.Real) or (isinstance(given, Tensor) and given.numel() == 1 and not given.is_complex()):
            number = float(given)
        if not (math.isfinite(number) and number >= 0 and math.isfinite(start * number)):
            where = f"the schedule {_label(f)} of {name}, group {i},"
            raise UserError(f"{where} gives {given!r} at t = {t}; a multiplier must be a finite number, at least 0")
        if dial.key == "betas" and start * number >= 1:
            raise UserError(f"{name} of group {i} would be {start:g} x {number:g} at t = {t}, but must stay below 1; take a lower schedule")
        return start * number


def _checked(opt: Optimizer, name: str, given: Any, only: Sequence[int] | None) -> Multiplier | dict[int, Multiplier | None]:
    """A keyword's schedule, or a list's by the numbers of their groups; UserError for what cannot drive or be driven."""
    which = range(len(opt.param_groups)) if only is None else only
    known = [dials(opt.param_groups[i]) for i in which]
    names = {key for each in known for key in each}
    if name not in names:
        held = [opt.param_groups[i][name] for i in which if name in opt.param_groups[i] and name != "params"]
        if not held:
            raise unknown(f"hyperparameter of {type(opt).__name__}", name, names)
        raise UserError(f"{name} = {held[0]!r} is not one number, which a schedule could multiply; those are {_list(sorted(names))}")
    if not isinstance(given, list | tuple):
        _check_callable(name, given)
        return given
    if len(given) != len(which):
        raise UserError(f"{name} has {len(given)} schedules for {len(which)} groups; give one a group, None to leave a group alone")
    for i, f, has in zip(which, given, known, strict=True):
        if f is not None:
            _check_callable(name, f)
            if name not in has:
                raise UserError(f"group {i} has no {name}; give None for it")
    return dict(zip(which, given, strict=True))


def _check_callable(name: str, f: Any) -> None:
    if getattr(f, "shelf", None) == "schedules":
        raise UserError(f"{name}={f.name} names a schedule without its arguments; call it, as in {name}=tw.schedules.cosine(total=1000)")
    if not callable(f):
        raise UserError(f"the schedule of {name} must be a function of t, such as tw.schedules.cosine(total=1000), not {f!r}")


def _chosen(groups: Any, count: int) -> tuple[int, ...]:
    """The numbers of groups, checked."""
    right = isinstance(groups, list | tuple | range) and all(type(i) is int and 0 <= i < count for i in groups)
    if not (right and groups and len(set(groups)) == len(groups)):
        raise UserError(f"groups = {groups!r} must be numbers of groups, each once, such as [0]; the optimizer has 0 to {count - 1}")
    return tuple(groups)


def _alike(given: Mapping[str, Any], base: Mapping[str, Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Base values as floats; UserError unless they are of the same names and the same groups as those that are there."""
    if given.keys() != base.keys():
        raise UserError(f"this state drives {_list(given)}, but this Scheduler {_list(base)}; make it with the same hyperparameters")
    for name, row in given.items():
        if not isinstance(row, list | tuple) or not all(v is None or _is_finite(v) for v in row):
            raise UserError(f"{name} = {row!r} must be base values: a finite number a group, or None")
        if len(row) != len(base[name]):
            raise UserError(f"{name} has base values for {len(row)} groups, but the optimizer has {len(base[name])}; add groups before")
        theirs, ours = ([i for i, v in enumerate(values) if v is not None] for values in (row, base[name]))
        if theirs != ours:
            raise UserError(f"{name} has base values for the groups {_list(theirs)}, but {_list(ours)} are driven here; make it alike")
    return {name: [None if v is None else float(v) for v in row] for name, row in given.items()}


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _list(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names)) or "none"


def _label(f: Any) -> str:
    return str(getattr(f, "label", None) or getattr(f, "__name__", None) or type(f).__name__)


def _a(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"a {type(thing).__name__}"
