"""What happens to gradients before an optimizer's rule sees them: parts averaged, the whole clipped, ascent, rows of sparse ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from thalweg.core.wrapper import Wrapper
from thalweg.engine.bound import Bound, Layout
from thalweg.engine.optimizer.stepping import Member, joined, parted, real, spread, wide
from thalweg.errors import UserError

# --- gradients that come in parts


def incomplete(optimizer: torch.optim.Optimizer, parts: int) -> bool:
    """Add the gradients to those of earlier calls; whether more parts are to come before an update.

    The sums and their count are states of the parameters, so that a checkpoint in the middle of a batch loses nothing.
    """
    if parts == 1:
        return False
    params = [p for group in optimizer.param_groups for p in group["params"]]
    done = 1 + max((int(s["parts"]) for p in params if (s := optimizer.state.get(p)) and "parts" in s), default=0)
    with torch.no_grad():
        for p in params:
            if p.grad is None:
                continue
            state = optimizer.state[p]
            if "part_sum" not in state or not int(state["parts"]):
                state["part_sum"] = torch.zeros_like(p)
            state["part_sum"].add_(p.grad, alpha=1 / parts)
            state["parts"] = torch.tensor(float(done))
    if done < parts:
        return True
    for p in params:
        if "parts" in optimizer.state.get(p, {}):
            optimizer.state[p]["parts"] = torch.tensor(0.0) if int(optimizer.state[p]["parts"]) else optimizer.state[p]["parts"]
            optimizer.state[p]["whole"] = optimizer.state[p].pop("part_sum", None)
    return False


def gradient(states: Mapping[Any, Any], p: Tensor) -> Tensor | None:
    """The gradient of a parameter: its own, or the mean of the parts."""
    state = states.get(p)
    if state and "whole" in state:
        return state.pop("whole")
    return p.grad


# --- wrappers of the whole gradient


def divided(bound: Bound) -> tuple[Bound | None, Bound]:
    """The wrappers that see the whole gradient and only change it, and what is left; the former run once over all parameters.

    Raises UserError where a wrapper that sees the whole gradient lies inside one that changes the point too.
    """
    if bound.rule.scope == "group" or all(w.scope == "element" or w.stage == "ascent" for w in bound.wrappers):
        return None, bound
    steps = [w for w in bound.wrappers if w.stage not in ("model", "ascent")]
    last = max(i for i, w in enumerate(steps) if w.scope == "group")
    first = [w for w in steps[: last + 1] if _only_the_gradient(w)]
    rest = [w for w in bound.wrappers if w not in first]
    wrong = [w.name for w in rest if w.scope == "group" and w.stage != "ascent"]
    if wrong:
        raise UserError(
            f"{bound.rule.name}: the wrapper {wrong[0]} needs the whole gradient and changes the point: only a rule of scope 'group' can"
        )
    passing = replace(bound.rule, function=_pass, states={}, hypers={n: h for n, h in bound.rule.hypers.items() if n == "lr"}, requests=())
    return replace(bound, rule=passing, wrappers=tuple(first), active=frozenset()), replace(bound, wrappers=tuple(rest))


def _pass(x: Tensor, g: Tensor, *, lr: Any = 0.0) -> Tensor:
    return g


def _only_the_gradient(w: Wrapper) -> bool:
    """Whether a wrapper gives back the very point that the rule inside gave, so that all it does is done to the gradient."""
    x, end = torch.ones(3), torch.ones(3)
    if w.states:
        return False
    numbers = {n: h.default for n, h in w.hypers.items()}
    return w.function(lambda *_: end, x, torch.ones(3), **numbers, **dict.fromkeys(w.requests, 1.0)) is end


def change(lists: Sequence[Sequence[Member]], kinds: Sequence[tuple[Bound | None, Mapping[str, Any]]]) -> None:
    """Put what the wrappers make of the whole gradient, of all groups, in the gradients' place."""
    members = [m for part in lists for m in part]
    bound = next(b for b, _ in kinds if b is not None)
    kind = wide(real(members[0].p).dtype)
    device = members[0].p.device
    shapes = tuple(real(m.p).shape for m in members)
    layout = Layout(tuple(map(str, range(len(members)))), shapes, kind)

    own = {n for w in bound.wrappers for n in w.hypers}
    sizes = [sum(real(m.p).numel() for m in part) for part in lists]
    values = {n: spread([v[n] for _, v in kinds], sizes, members[0].p) for n in own}
    given = {"weights": layout.weights(device)} if "weights" in bound.requests else {}
    needs_points = any(w.stage == "loss" for w in bound.wrappers)
    g = joined([m.g for m in members], kind)
    x = joined([m.p for m in members], kind) if needs_points else g
    seen: list[Tensor] = []

    def inside(x: Tensor, g: Tensor) -> Tensor:
        seen.append(g)
        return x

    _nested(bound, inside, values, given)(x, g)
    for m, part in zip(members, seen[0].split(layout.sizes), strict=True):
        part = part.to(m.g.device, real(m.g).dtype).view(real(m.p).shape)
        m.g = torch.view_as_complex(part) if m.p.is_complex() else part


def _nested(bound: Bound, call: Callable, values: Mapping[str, Any], given: Mapping[str, Any]) -> Callable:
    for w in reversed(bound.wrappers):
        call = partial(w.function, call, **{n: values[n] for n in w.hypers}, **{n: given[n] for n in w.requests if n != "lr"})
    return call


def climb(bound: Bound, values: Mapping[str, Any], members: Sequence[Member]) -> None:
    """Move every point to where its gradient is taken again, from the gradient of all."""
    kind, points = wide(real(members[0].p).dtype), [m.p for m in members]
    parted(bound.ascent(joined(points, kind), joined([m.g for m in members], kind), values), points)


# --- sparse gradients


def rows(m: Member, kind: Any, values: Mapping[str, Any], title: str, dense: bool) -> bool:
    """Step the rows that a sparse gradient names, where the rule leaves numbers without a gradient as they are.

    dense: whether the gradient may be stepped as a dense one where it does not, which is said by False. Raises RuntimeError where not.
    """
    bound = kind.bound
    if m.g.layout is not torch.sparse_coo or bound.rule.scope != "element" or m.p.is_complex() or not _at_rest(bound, values, kind.singles):
        if dense and not values.get("weight_decay"):
            return False
        decay = ": the weight_decay option is not compatible with sparse gradients" if values.get("weight_decay") else ""
        raise RuntimeError(f"{title} does not support sparse gradients{decay}; step these parameters by SGD without momentum or Adagrad")
    g = m.g.coalesce()
    place = tuple(g.indices())
    x = m.p.detach()[place]
    states = {n: s if n in kind.singles else s[place].reshape(-1) for n, s in m.state.items() if n in bound.states}
    new, after = bound.step(x.reshape(-1), g.values().reshape(-1), states, values, {"t": int(m.state["step"]) + 1})
    with torch.no_grad():
        m.p[place] = new.view(x.shape)
        for n, s in after.items():
            if n in kind.singles:
                m.state[n].copy_(s)
            else:
                m.state[n][place] = s.view(x.shape)
        m.state["step"] += 1
    return True


def _at_rest(bound: Bound, values: Mapping[str, Any], singles: frozenset[str]) -> bool:
    """Whether a number without a gradient stays where it is, and its states too; tried on some numbers."""
    if not bound.requests <= {"t"} or bound.wrappers:
        return False
    x = torch.linspace(0.5, 1.5, 3)
    states = {n: torch.tensor(0.7) if n in singles else torch.linspace(0.3, 0.9, 3) for n in bound.states}
    new, after = bound.step(x, torch.zeros(3), states, values, {"t": 3})
    return torch.equal(new, x) and all(torch.equal(after[n], s) for n, s in states.items() if n not in singles)
