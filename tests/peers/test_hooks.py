"""Hooks around steps, state dicts and loading: when they run, in which order, what they may change, and that they can be taken off."""

from copy import deepcopy

import pytest
import torch
from cases import DEFAULTS, PLAIN, named, over, play, same, states, step
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


@over(PLAIN)
def test_step_hooks(case):
    """One before the step sees the points before it, one after it those after it; each once a step, with the arguments of the call."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    seen = []

    def hook(word):
        def record(self, args, kwargs):
            assert self is optimizer
            seen.append((word, len(args), sorted(kwargs), problem.points()))

        return record

    before = optimizer.register_step_pre_hook(hook("before"))
    after = optimizer.register_step_post_hook(hook("after"))
    start = problem.points()
    play(optimizer, problem, steps=1)
    assert [word for word, *_ in seen] == ["before", "after"]
    # the optimizer itself, and the closure of those that must have one
    assert {count for _, count, *_ in seen} == {1 + case.info.step_requires_closure}
    same(seen[0][3], start, 0.0)
    same(seen[1][3], problem.points(), 0.0)
    assert not torch.equal(seen[0][3][0], seen[1][3][0])
    before.remove()
    play(optimizer, problem, steps=1)
    assert [word for word, *_ in seen] == ["before", "after", "after"]
    after.remove()
    optimizer.step(closure=problem.loss)
    assert len(seen) == 3


@over(DEFAULTS)
def test_step_hooks_of_all_optimizers(case):
    """Those of every optimizer surround the optimizer's own: first before the step, last after it."""
    seen = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: seen.append("all before")),
        register_optimizer_step_post_hook(lambda *_: seen.append("all after")),
    ]
    try:
        problem, other = case.problem(), case.problem()
        optimizer, plain = case.ours(problem.params), case.ours(other.params)
        optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
        optimizer.register_step_post_hook(lambda *_: seen.append("after"))
        play(optimizer, problem, steps=1)
        assert seen == ["all before", "before", "after", "all after"]
        seen.clear()
        play(plain, other, steps=1)
        assert seen == ["all before", "all after"]
    finally:
        for handle in handles:
            handle.remove()
    play(plain, other, steps=1)
    assert seen == ["all before", "all after"]


@over(DEFAULTS)
def test_a_hook_changes_what_the_step_is_given(case):
    """What one before the step gives back are the step's arguments; anything but a pair of them is an error."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    handle = optimizer.register_step_pre_hook(lambda self, args, kwargs: ((self, problem.loss), {}))
    first = problem.loss()
    assert float(optimizer.step(lambda: torch.tensor(-1.0))) == float(first)
    handle.remove()
    optimizer.register_step_pre_hook(lambda *_: 1)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        optimizer.step(problem.loss)


@over(DEFAULTS)
def test_a_hook_changes_gradients_and_options(case):
    """What one does to gradients and rates before the step is what the step works with."""
    seen = []
    for hooked in (True, False):
        problem = case.problem()
        optimizer = case.ours(problem.params)

        def change(self, args, kwargs, problem=problem):
            for param in problem.params:
                param.grad.clamp_(-0.5, 0.5)
            self.param_groups[0]["lr"] = 0.001

        if hooked:
            optimizer.register_step_pre_hook(change)
        for _ in range(3):
            problem.loss()
            if not hooked:
                change(optimizer, (), {}, problem)
            step(optimizer)
        seen.append([problem.points(), states(optimizer)])
    same(*seen, 0.0)


@over(DEFAULTS)
def test_hooks_of_a_copy(case):
    """A deep copy steps without the hooks of the one copied, as torch's do."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    copied = deepcopy(optimizer)
    assert len(copied._optimizer_step_post_hooks) == len(deepcopy(case.torchs(problem.params))._optimizer_step_post_hooks) == 0
    play(optimizer, problem, steps=1)
    assert seen == [1]


@over(DEFAULTS)
def test_hooks_around_a_state_dict(case):
    """Before: the optimizer alone. After: the dict too, to change or to replace. Those prepended come first."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    play(optimizer, problem, steps=1)
    seen = []
    handles = [
        optimizer.register_state_dict_pre_hook(lambda self: seen.append(("before", self is optimizer))),
        optimizer.register_state_dict_pre_hook(lambda self: seen.append(("before, prepended", self is optimizer)), prepend=True),
        optimizer.register_state_dict_post_hook(lambda self, saved: saved["param_groups"][0].update(mine=1)),
        optimizer.register_state_dict_post_hook(lambda self, saved: {"replaced": saved["param_groups"][0]["mine"]}),
        optimizer.register_state_dict_post_hook(lambda self, saved: seen.append(("after, prepended", sorted(saved))), prepend=True),
    ]
    assert optimizer.state_dict() == {"replaced": 1}
    assert seen == [("before, prepended", True), ("before", True), ("after, prepended", ["param_groups", "state"])]
    for handle in handles:
        handle.remove()
    saved = optimizer.state_dict()
    assert set(saved) == {"state", "param_groups"}
    assert "mine" not in saved["param_groups"][0]
    assert len(seen) == 3


@over(DEFAULTS)
def test_hooks_before_loading(case):
    """They may change the dict that they are given, a copy of the outermost only, or give another; those prepended come first."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    play(optimizer, problem, steps=1)
    saved = optimizer.state_dict()
    seen = []

    def rate(value):
        def change(self, given):
            assert self is optimizer
            seen.append(value)
            return given | {"param_groups": [group | {"lr": value} for group in given["param_groups"]]}

        return change

    def watch(self, given):
        seen.append(given["param_groups"][0]["lr"])
        given["new"] = 1

    first = optimizer.register_load_state_dict_pre_hook(rate(0.25))
    second = optimizer.register_load_state_dict_pre_hook(rate(0.5), prepend=True)
    optimizer.register_load_state_dict_pre_hook(watch)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert seen == [0.5, 0.25, 0.25]
    assert set(saved) == {"state", "param_groups"}
    first.remove()
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.5
    second.remove()
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == case.default("lr")


@over(DEFAULTS)
def test_hooks_after_loading(case):
    """They see the optimizer as loaded, and may change it; those prepended come first."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    play(optimizer, problem, steps=1)
    saved = deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["lr"] = 0.125
    seen = []

    def double(self):
        seen.append(self.param_groups[0]["lr"])
        self.param_groups[0]["lr"] *= 2

    handle = optimizer.register_load_state_dict_post_hook(double)
    optimizer.register_load_state_dict_post_hook(lambda self: seen.append(named(self).name), prepend=True)
    optimizer.load_state_dict(saved)
    assert seen == [case.name, 0.125]
    assert optimizer.param_groups[0]["lr"] == 0.25
    handle.remove()
    optimizer.load_state_dict(saved)
    assert seen == [case.name, 0.125, case.name]
    assert optimizer.param_groups[0]["lr"] == 0.125
    play(optimizer, problem, steps=1)


@over(PLAIN)
def test_steps_in_a_profile(case):
    """A profile shows every step under the class's name, and zero_grad."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    play(optimizer, problem, steps=1)
    with torch.autograd.profiler.profile() as profile:
        step(optimizer)
        optimizer.zero_grad()
    names = [event.name for event in profile.function_events]
    assert names.count(f"Optimizer.step#{case.name}.step") == 1
    assert names.count(f"Optimizer.zero_grad#{case.name}.zero_grad") == 1
