"""A rule as a `torch.optim.Optimizer`: the user's own parameters, stepped in place.

The class holds what users see (groups, states, checkpoints, closures); `thalweg.engine.optimizer.stepping` has the ways to step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.engine import noise
from thalweg.engine.optimizer import before, checkpoint, states
from thalweg.engine.optimizer.groups import Kind, Kinds, without_decay
from thalweg.engine.optimizer.hooks import watched
from thalweg.engine.optimizer.loops import Loops
from thalweg.engine.optimizer.naming import Naming
from thalweg.engine.optimizer.stepping import Member, cohorts, gathered, graphed, one, real, spread, together
from thalweg.errors import UserError

ENGINES = ("auto", "reference", "flat", "compiled")
OPTIONS = ("engine", "state_dtype", "accumulate", "seed", "no_decay")


class Optimizer(torch.optim.Optimizer):
    """What all classes made from rules share; compare `thalweg.optimizer` and the classes of `thalweg.optim`.

    engine: "auto" chooses; "reference" steps tensor by tensor as the rule is written, "flat" gathers small tensors in one vector,
    "compiled" runs one loop of C over all of them (on other devices: the flat step under torch.compile). Rules that need whole tensors
    are stepped tensor by tensor under every engine. state_dtype: type of the states, by default the parameter's. accumulate: calls of
    `step` whose gradients are averaged before an update. no_decay: patterns of names whose parameters have no weight decay.
    seed: of the numbers that a rule draws.
    """

    naming: ClassVar[Naming]

    def __init__(self, params: Any, *positional: Any, **keywords: Any) -> None:
        own = {n: keywords.pop(n) for n in OPTIONS if n in keywords}
        defaults = self.naming.given(positional, keywords)
        self._options = {"engine": "auto", "state_dtype": None, "accumulate": 1, "seed": 0} | own
        patterns = self._options.pop("no_decay", ())
        self._check_options()
        self._reset()
        if patterns:
            params = without_decay(params, patterns)
        super().__init__(params, defaults)

    def _check_options(self) -> None:
        engine, dtype, parts = (self._options[n] for n in ("engine", "state_dtype", "accumulate"))
        if engine not in ENGINES:
            raise UserError(f"{self.naming.title}: engine = {engine!r} is not one of {', '.join(ENGINES)}")
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise UserError(f"{self.naming.title}: state_dtype = {dtype!r} must be a floating-point type such as torch.float32, or None")
        if not isinstance(parts, int) or isinstance(parts, bool) or parts < 1:
            raise UserError(f"{self.naming.title}: accumulate = {parts!r} must be a whole number of at least 1")

    def _reset(self) -> None:
        """Forget what is worked out anew when it is needed."""
        self._loops = Loops()
        self._kinds = Kinds(self.naming, decaying=self._options["engine"] in ("auto", "compiled"))
        self._graphs: dict[Any, Callable] = {}

    # --- groups, copies, checkpoints

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch.optim's classes do; its values are checked as those of the constructor are."""
        if isinstance(param_group, dict):
            for name in param_group:
                self.naming.known(name, alike=0.8)  # groups may carry keys of the user's own
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self.naming.checked(group)
        except Exception:
            self.param_groups.pop()
            raise
        for p in group["params"] if self.naming.eager else ():
            self._begun(group, p, *self._kinds.of(group, p))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_options": dict(self._options)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset()
        for group in self.param_groups:
            for name, value in self.naming.defaults.items():
                group.setdefault(name, value)
            if self.naming.rule.decay == "decoupled" and self.naming.decoupled:  # also where the state is Adam's
                group["decoupled_weight_decay"] = True
        if self.naming.rule.scope == "group":  # what is one number for all parameters is one tensor
            for name in self.naming.singles:
                held = [found for found in self.state.values() if isinstance(found, dict) and name in found]
                for found in held[1:]:
                    found[name] = held[0][name]
        for p, found in self.state.items():
            if isinstance(p, Tensor) and not isinstance(found.get("step", found), Tensor | dict):
                found["step"] = states.count(p, float(found["step"]), {})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` of this class, or of torch's class of the same name, gave.

        Parameters are matched by name where both have names, else by place. States keep their type; nothing is shared with state_dict.
        Raises ValueError where the groups or shapes differ.
        """
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            found = hook(self, state_dict)
            state_dict = state_dict if found is None else found
        groups, places = checkpoint.matched(self.param_groups, deepcopy(state_dict["param_groups"]))
        for group, own in zip(groups, self.param_groups, strict=True):
            group["params"] = own["params"]
            if "param_names" in own:
                group["param_names"] = own["param_names"]
        loaded = checkpoint.states(state_dict["state"], places, self.naming.singles, self.naming.rule.scope != "tensor")
        self.__setstate__({"state": loaded, "param_groups": groups})
        for last in self._optimizer_load_state_dict_post_hooks.values():
            last(self)

    # --- a step

    @watched
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. closure: computes the loss and its gradients; its answer is given back."""
        if getattr(self, "_evaluating", False):
            raise UserError(f"{self.naming.title} holds its answer in the parameters since eval(); call train() before the next step")
        differentiable = self.defaults["differentiable"]
        with torch.set_grad_enabled(bool(differentiable)):
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            if before.incomplete(self, self._options["accumulate"]):
                return loss
            if self.naming.wrappers:
                self._climb(closure)
            self._update(loss)
        return loss

    def _update(self, loss: Any) -> None:
        if self._loops.again and self._repeated():
            return
        ready = [(i, group, self._members(group)) for i, group in enumerate(self.param_groups)]
        ready = [(i, group, members) for i, group, members in ready if members]
        kinds = [self._kinds.of(group, members[0].p) for _, group, members in ready]
        if any(kind.bound.rule.scope == "group" for kind, _ in kinds):
            self._all_as_one(ready, kinds, loss)
            return
        if any(kind.before is not None for kind, _ in kinds):
            before.change([members for *_, members in ready], [(kind.before, values) for kind, values in kinds])
        for (i, group, members), (kind, values) in zip(ready, kinds, strict=True):
            self._step_group(i, group, members, kind, values, loss)

    def _repeated(self) -> bool:
        """Step as the last time, where nothing but numbers and gradients has changed; else leave it."""
        calls = []
        for i, group in enumerate(self.param_groups):
            known = self._loops.again.get(i)
            if known is None:
                if any(p.grad is not None for p in group["params"]):
                    return False
                continue
            kind, values = self._kinds.of(group, known.params[0])
            places = known.gradients(group["params"], self.state) if kind.token == known.token else None
            if places is None:
                return False
            calls.append((known.tensors, places, values))
        for tensors, places, values in calls:
            tensors(places, values)
        return bool(calls)

    def _step_group(
        self, i: int, group: Mapping[str, Any], members: Sequence[Member], kind: Kind, values: dict[str, Any], loss: Any
    ) -> None:
        engine = self._options["engine"]
        numbers = all(isinstance(v, float) for v in values.values())
        whole = kind.bound.rule.scope == "tensor"
        if engine in ("auto", "compiled") and not whole and numbers and not group["differentiable"]:
            again = self.state if kind.before is None and self._options["accumulate"] == 1 else None
            members = self._loops.step(i, kind.token, kind.bound, values, members, kind.singles, bool(group["maximize"]), again)
        if group["maximize"]:
            members = [Member(m.p, -m.g, m.state) for m in members]
        if engine == "reference" or whole or group["differentiable"]:
            for m in members:
                asked = states.given(kind.bound, m, loss, self.naming.title)
                one(kind.bound, values, m, asked, kind.singles, bool(group["differentiable"]))
            return
        for part in cohorts(members):
            step = self._graph(kind) if part[0].p.device.type not in ("cpu", "meta") and engine != "flat" else None
            gathered(kind.bound, values, part, self._given(kind, part, loss), kind.singles, step)

    def _given(self, kind: Kind, members: Sequence[Member], loss: Any) -> dict[str, list[Any]]:
        """What the rule asks for beside its count, one a member."""
        each = [states.given(kind.bound, m, loss, self.naming.title) for m in members]
        return {n: [found[n] for found in each] for n in each[0]}

    def _graph(self, kind: Kind) -> Callable:
        if kind.token not in self._graphs:
            self._graphs[kind.token] = graphed(kind.bound)
        return self._graphs[kind.token]

    def _members(self, group: Mapping[str, Any]) -> list[Member]:
        """The parameters that have a gradient, with their states; the rows of sparse gradients are stepped at once."""
        found = []
        pairs = [(p, g) for p in group["params"] if (g := before.gradient(self.state, p)) is not None]
        if not pairs:
            return []
        kind, values = self._kinds.of(group, pairs[0][0])
        for p, g in pairs:
            state = self._begun(group, p, kind, values)
            if g.layout is torch.strided:
                found.append(Member(p, g, state))
            else:
                member = Member(p, -g if group["maximize"] else g, state)
                if not before.rows(member, kind, values, self.naming.title, self.naming.sparse):
                    found.append(Member(p, g.to_dense(), state))
        return found

    def _begun(self, group: Mapping[str, Any], p: Tensor, kind: Kind, values: Mapping[str, Any]) -> dict[str, Any]:
        """The states of a parameter; those that it lacks begin now, as when a momentum is switched on."""
        state = self.state[p]
        optional = kind.bound.rule.scope == "tensor"
        if "step" not in state or not all(n in state for n in (*kind.bound.outer, *(() if optional else kind.bound.states))):
            started = states.begin(kind, values, p, self.state, self.naming.title, self._options["state_dtype"], group)
            if "step" not in state and any(n in state for n in kind.bound.states):  # put there as torch's SGD leaves it, uncounted
                started["step"].fill_(1.0)
            state.update({n: s for n, s in started.items() if n not in state})
        return state

    # --- rules and wrappers that see all parameters at once

    def _all_as_one(self, ready: Sequence[Any], kinds: Sequence[Any], loss: Any) -> None:
        """Step a rule that takes all parameters, of all groups, as one vector."""
        if len({kind.token for kind, _ in kinds}) > 1:
            raise UserError(f"{self.naming.title} sees the parameters of all groups as one: their flags and wrappers must be the same")
        kind = kinds[0][0]
        sign = -1 if ready[0][1]["maximize"] else 1
        members = [Member(m.p, sign * m.g, m.state) for *_, part in ready for m in part]
        if len({(m.p.dtype, m.p.device) for m in members}) > 1:
            raise UserError(f"{self.naming.title} sees all parameters as one: they must be of one type and on one device")
        sizes = [sum(real(m.p).numel() for m in part) for *_, part in ready]
        values = {n: spread([v[n] for _, v in kinds], sizes, members[0].p) for n in kinds[0][1]}
        given = self._given(kind, members, loss)
        if "loss" in given:
            given["loss"] = [float(v) for v in given["loss"]]
        if "noise" in kind.bound.requests:
            t = int(members[0].state["step"])
            drawn = noise.normal(self._options["seed"], t, real(members[0].p).new_empty(sum(sizes)))
            given["noise"] = list(drawn.split([real(m.p).numel() for m in members]))
        together(kind.bound, values, members, given, kind.singles)

    def _climb(self, closure: Callable[[], Any] | None) -> None:
        """Take the gradients again where a wrapper says, as sharpness-aware minimisation does."""
        groups = [group for group in self.param_groups if any(w.stage == "ascent" for w in self.naming.used(group))]
        pairs = [(p, g) for group in groups for p in group["params"] if (g := before.gradient(self.state, p)) is not None]
        if not pairs:
            return
        if closure is None:
            raise UserError(
                f"{self.naming.title}: the gradient is taken a second time; give step() a closure that clears and computes gradients"
            )
        kind, values = self._kinds.of(groups[0], pairs[0][0])
        members = [Member(p, g if g.layout is torch.strided else g.to_dense(), {}) for p, g in pairs]  # whose states begin at the update
        points = [m.p.detach().clone() for m in members]
        with torch.no_grad():
            before.climb(kind.bound, values, members)
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            for m, point in zip(members, points, strict=True):
                m.p.copy_(point)

    # --- the answer

    def eval(self) -> None:
        """Put the answer into the parameters where that is not the point itself (averages, schedule-free rules); `train` takes it back."""
        if getattr(self, "_evaluating", False):
            return
        self._points: dict[Tensor, Tensor] = {}
        ours = {theirs: n for n, theirs in self.naming.states.items()}
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state.get(p)
                if not state:
                    continue
                bound = self._kinds.of(group, p)[0].bound
                self._points[p] = p.detach().clone()
                with torch.no_grad():
                    p.copy_(bound.readout(p, {ours.get(n, n): s for n, s in state.items()}))
        self._evaluating = True

    def train(self) -> None:
        """Put the points back that `eval` took out of the parameters."""
        with torch.no_grad():
            for p, point in self._points.items() if getattr(self, "_evaluating", False) else ():
                p.copy_(point)
        self._evaluating, self._points = False, {}
