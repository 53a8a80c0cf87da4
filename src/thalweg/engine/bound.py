"""A rule bound to a structure: wrappers nested, flags fixed, states known. What every engine steps with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from thalweg.core.rule import Hyper, Rule, names_of
from thalweg.core.wrapper import STAGES, Wrapper
from thalweg.errors import UserError

Config = Mapping[str, Any]

LARGE = 1 << 17
"""A parameter of so many numbers in all lanes together has memory of its own, so that its gradient need not be copied."""


def resolve(rule: Rule, config: Config, wrappers: Iterable[Wrapper]) -> dict[str, Any]:
    """A configuration checked against the rule and the wrappers it names, defaults filled in."""
    used = wrapped(rule, config, wrappers)
    extra = {name: hyper for wrapper in used for name, hyper in wrapper.hypers.items()}
    for wrapper in used:
        if "lr" in wrapper.requests and "lr" not in rule.hypers:
            raise UserError(f"{wrapper.name} needs a rule with a learning rate, which {rule.name} does not have")
    defaults = {name: hyper.default for name, hyper in extra.items()}
    return {**defaults, **rule.check(config, extra)}


def wrapped(rule: Rule, config: Config, wrappers: Iterable[Wrapper]) -> list[Wrapper]:
    """The wrappers whose hyperparameters a configuration names, outermost first."""
    used = [w for w in wrappers if any(name in config and name not in rule.hypers for name in w.hypers)]
    return nested(used)


def nested(wrappers: Iterable[Wrapper]) -> list[Wrapper]:
    """Wrappers in the order in which they lie around a rule, outermost first."""
    return sorted(wrappers, key=lambda w: (STAGES.index(w.stage), w.name))


def structure_of(rule: Rule, config: Config, wrappers: Iterable[Wrapper]) -> tuple[Any, ...]:
    """What two runs must share to be lanes of one fleet: flags, counts, names, and the wrappers around the rule."""
    flags = tuple((name, config[name]) for name in _structural(rule, wrapped(rule, config, wrappers)))
    # a state that a number switches on changes the formula: without momentum there is no dampening either
    switches = tuple(bool(config[start.option]) for start in rule.states.values() if hasattr(start, "option"))
    return flags, switches, tuple(w.name for w in wrapped(rule, config, wrappers))


def _structural(rule: Rule, used: Iterable[Wrapper]) -> list[str]:
    return [n for source in (rule.hypers, *(w.hypers for w in used)) for n, hyper in source.items() if hyper.domain.structural]


@dataclass(frozen=True)
class Layout:
    """Where each trainable parameter lies in the flat vector of N numbers."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    dtype: torch.dtype

    @property
    def sizes(self) -> list[int]:
        return [shape.numel() for shape in self.shapes]

    def split(self, flat: Tensor) -> list[Tensor]:
        """(N,) -> the parameters, as views."""
        if len(self.shapes) == 1:
            return [flat.view(self.shapes[0])]
        return [part.view(shape) for part, shape in zip(flat.split(self.sizes), self.shapes, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The parameters -> (N,)."""
        if len(parts) == 1:
            return parts[0].reshape(-1)
        return torch.cat([part.reshape(-1) for part in parts]) if parts else torch.zeros(0, dtype=self.dtype)

    def blocks(self, lanes: int, apart: bool) -> tuple[Layout, ...]:
        """The layout cut into blocks of memory: with `apart`, large parameters by themselves and small ones together; else all in one."""
        large = [apart and len(self.names) > 1 and size * lanes >= LARGE for size in self.sizes]
        cuts = [[i for i, alone in enumerate(large) if not alone], *([i] for i, alone in enumerate(large) if alone)]
        return tuple(Layout(tuple(self.names[i] for i in cut), tuple(self.shapes[i] for i in cut), self.dtype) for cut in cuts if cut)

    def weights(self, device: Any) -> Tensor:
        """(N,): 1 at parameters of two or more dimensions, 0 at biases and norms."""
        return self.join([torch.full(shape, float(len(shape) > 1), dtype=self.dtype, device=device) for shape in self.shapes])


@dataclass(frozen=True)
class Bound:
    """One structure of one rule. `hypers` given to its methods are floats, or 0-dim tensors inside a fleet's vmap."""

    rule: Rule
    wrappers: tuple[Wrapper, ...]
    structure: Mapping[str, Any]
    active: frozenset[str]
    layout: Layout

    @cached_property
    def data(self) -> dict[str, Hyper]:
        """The hyperparameters that are numbers and may differ between lanes."""
        sources = [self.rule.hypers, *(w.hypers for w in self.wrappers)]
        return {n: h for source in sources for n, h in source.items() if not h.domain.structural}

    @cached_property
    def requests(self) -> set[str]:
        """What the engine must give."""
        return {*self.rule.requests, *(name for w in self.wrappers for name in w.requests if name != "lr")}

    @property
    def by_number(self) -> bool:
        """Whether a step treats parameters apart, so that it may be cut into blocks of them."""
        return self.rule.scope != "group" and all(w.scope == "element" for w in self.wrappers)

    @property
    def climbs(self) -> bool:
        """Whether the gradient is taken a second time, at another point."""
        return any(w.stage == "ascent" for w in self.wrappers)

    def ascent(self, x: Tensor, g: Tensor, hypers: Mapping[str, Any]) -> Tensor:
        """The point at which the gradient is taken again: (N,), (N,) -> (N,)."""
        for w in self.wrappers:
            if w.stage == "ascent":
                x = w.function(x, g, **{name: hypers[name] for name in w.hypers})
        return x

    def on(self, block: Layout) -> Bound:
        """The same for some of the parameters."""
        if block not in self._others:
            self._others[block] = replace(self, layout=block)
        return self._others[block]

    @cached_property
    def _others(self) -> dict[Layout, Bound]:
        return {}

    @cached_property
    def states(self) -> dict[str, Callable]:
        """The states that exist under this structure."""
        present = {}
        for name, start in self.rule.states.items():
            option = getattr(start, "option", None)
            if option is None or self.structure.get(option, option in self.active):
                present[name] = start
        return present

    @cached_property
    def outer(self) -> dict[str, Callable]:
        """The states of the wrappers, as `wrapper.state`: they treat every number by itself."""
        return {f"{w.name}.{name}": start for w in self.wrappers for name, start in w.states.items()}

    @property
    def reads(self) -> bool:
        """Whether the answer is another than the point."""
        return self.rule.reader is not None or any(w.reader for w in self.wrappers)

    def start(self, x: Tensor, hypers: Mapping[str, Any]) -> dict[str, Any]:
        """The states before the first update, at x of shape (N,); under scope "tensor" one for each tensor that has it, by its place."""
        outer = self.begin(self.outer, x, hypers)
        if self.rule.scope == "tensor":
            parts = [self.begin(self.states, part, hypers) for part in self.layout.split(x)]
            return {**{n: {i: part[n] for i, part in enumerate(parts) if part[n] is not None} for n in self.states}, **outer}
        return {**self.begin(self.states, x, hypers), **outer}

    def begin(self, starts: Mapping[str, Callable], x: Tensor, hypers: Mapping[str, Any]) -> dict[str, Any]:
        """The states that these starts give at x, of any shape."""
        values = {**self.structure, **hypers, "x": x}
        return {name: start(**{n: values[n] for n in names_of(start)}) for name, start in starts.items()}

    def step(self, x: Tensor, g: Tensor, states: Mapping[str, Any], hypers: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
        """One update of a flat point: (N,), (N,) -> (new x, new states). Pure; g is not modified."""
        new_states: dict[str, Any] = {}

        def inner(x: Tensor, g: Tensor) -> Tensor:
            if "weight_decay" in self.active and "weight_decay" not in self._accepted:
                if self.rule.decay == "l2":
                    g = g + hypers["weight_decay"] * x
                else:
                    x = (1 - hypers["lr"] * hypers["weight_decay"]) * x
            x, states_after = self._rule(x, g, states, hypers, given)
            new_states.update(states_after)
            return x

        def around(w: Wrapper, call: Callable, x: Tensor, g: Tensor) -> Tensor:
            own = {name: f"{w.name}.{name}" for name in w.states}
            named = {name: self.structure[name] if name in self.structure else hypers[name] for name in w.hypers}
            named |= {n: hypers["lr"] if n == "lr" else given[n] for n in w.requests}
            answer = w.function(call, x, g, **{name: states[key] for name, key in own.items()}, **named)
            x, *after = answer if own else (answer,)
            new_states.update((key, new.to(states[key].dtype)) for key, new in zip(own.values(), after, strict=True))
            return x

        call: Callable = inner
        for w in reversed([w for w in self.wrappers if w.stage not in ("model", "ascent")]):
            call = partial(around, w, call)
        return call(x, g).to(x.dtype), new_states

    def _rule(self, x: Tensor, g: Tensor, states: Mapping[str, Any], hypers: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
        values = {n: self.structure[n] if n in self.structure else hypers[n] for n in self.rule.hypers if n in self._accepted}
        asked = {n: given[n] for n in self.rule.requests}
        if self.rule.scope != "tensor":
            return self._once(x, g, {n: states.get(n) for n in self.rule.states}, values, asked)
        points, outcomes = self.layout.split(x), []
        cut = {n: self.layout.split(v) for n, v in asked.items() if isinstance(v, Tensor) and v.shape == x.shape}
        for i, (point, slope) in enumerate(zip(points, self.layout.split(g), strict=True)):
            own = {n: states[n].get(i) if n in states else None for n in self.rule.states}
            outcomes.append(self._once(point, slope, own, values, {n: cut[n][i] if n in cut else v for n, v in asked.items()}))
        new_x = self.layout.join([outcome[0] for outcome in outcomes])
        return new_x, {n: {i: outcome[1][n] for i, outcome in enumerate(outcomes) if n in outcome[1]} for n in self.states}

    def _once(self, x: Tensor, g: Tensor, states: Mapping[str, Any], values: Mapping[str, Any], asked: Mapping[str, Any]) -> Any:
        answer = self.rule.function(x, g, *states.values(), **values, **asked)
        new_x, *rest = answer if isinstance(answer, tuple) else (answer,)
        if not isinstance(new_x, Tensor) or new_x.shape != x.shape:
            raise UserError(f"{self.rule.name} must return the new point in the shape of x, followed by its states")
        # a rule may leave out trailing states that are absent under this structure
        after = dict(zip(states, rest, strict=False))
        lacking = [n for n, s in states.items() if s is not None and after.get(n) is None]
        if lacking or len(rest) > len(states):
            raise UserError(f"{self.rule.name} must return the new point and then its states in order: {', '.join(states)}")
        return new_x, {n: _as(after[n], s) for n, s in states.items() if s is not None}

    @cached_property
    def _accepted(self) -> set[str]:
        """Hyperparameters that the function itself takes (weight decay is ours unless the rule declares it)."""
        return set(names_of(self.rule.function))

    def readout(self, x: Tensor, states: Mapping[str, Any]) -> Tensor:
        """What the rule answers: x, unless it declares a readout."""
        for w in self.wrappers:
            if w.reader is not None:
                return w.reader(**{n: x if n == "x" else states[f"{w.name}.{n}"] for n in names_of(w.reader)})
        reader = self.rule.reader
        if reader is None:
            return x
        return reader(**{n: x if n == "x" else states.get(n) for n in names_of(reader)})


def _as(after: Any, state: Tensor) -> Tensor:
    """A state after a step, in the type that it had; a rule may give a plain number for a state of one number."""
    return after.to(state.dtype) if isinstance(after, Tensor) else state.new_full(state.shape, after)


def bind(rule: Rule, configs: Sequence[Config], wrappers: Iterable[Wrapper], layout: Layout) -> Bound:
    """Bind a rule to the structure that full configurations (from `resolve`) share."""
    wrappers = tuple(wrappers)
    kinds = {structure_of(rule, config, wrappers) for config in configs}
    if len(kinds) != 1:
        raise UserError(f"configurations of {rule.name} differ in structure (flags, counts or wrappers) and cannot share a fleet")
    used = wrapped(rule, configs[0], wrappers)
    structure = {n: configs[0][n] for n in _structural(rule, used)}
    active = frozenset(n for config in configs for n, v in config.items() if n not in structure and v)
    return Bound(rule, tuple(used), structure, active, layout)
