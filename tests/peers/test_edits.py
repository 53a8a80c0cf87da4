"""What a script does to an optimizer between two steps: new rates, other states, other tensors. Each as in torch from the next step on."""

import torch
from cases import DEFAULTS, PLAIN, Case, both, over, play, same, step
from torch import nn


def edited(change, steps=2):
    """Steps, a change, steps; the change once more, steps: rules that remember a step by heart have to notice."""

    def do(optimizer, problem):
        points = play(optimizer, problem, steps)
        for k in range(2):
            change(optimizer, problem, k)
            points += play(optimizer, problem, steps)
        return points

    return do


OTHER = {
    "lr": (0.005, 0.02), "eps": (1e-3, 0.1), "betas": ((0.8, 0.9), (0.5, 0.7)), "momentum": (0.8, 0.5), "rho": (0.5, 0.8),
    "alpha": (0.9, 0.5), "lambd": (0.1, 0.01), "momentum_decay": (0.1, 0.01), "weight_decay": (0.1, 0.0), "maximize": (True, False),
    "d": (2.0, 1.0), "beta2_decay": (-0.5, -1.0), "etas": ((0.25, 3.0), (0.5, 1.5)), "step_sizes": ((1e-3, 0.1), (1e-2, 0.2)),
    "lr_decay": (0.1, 0.0), "dampening": (0.5, 0.0), "nesterov": (False, True), "ns_steps": (3, 4), "max_iter": (4, 6),
    "adjust_lr_fn": ("match_rms_adamw", "original"),
}  # fmt: skip
"""option -> what it becomes, first and then."""


@over(PLAIN)
def test_other_options(case):
    """Every option of a group may change; one at a time, so that nothing else tells of it."""
    start = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.9}}.get(case.name, {})
    for option, values in OTHER.items():
        if case.takes(option) and not (case.name == "Adafactor" and option == "eps"):

            def change(optimizer, problem, k, option=option, values=values):
                optimizer.param_groups[0][option] = values[k]

            both(Case(case.info, option, case.options | start), edited(change))


@over([case for case in PLAIN if case.name == "SGD"])
def test_momentum_comes_and_goes(case):
    def change(optimizer, problem, k):
        optimizer.param_groups[0]["momentum"] = (0.9, 0.5)[k]

    both(case, edited(change))


@over([case for case in PLAIN if "foreach" not in case.options])
def test_a_rate_becomes_a_tensor(case):
    """And a number again; a tensor that is written into counts from the next step on. (Foreach of some classes takes numbers only.)"""
    seen = []
    for number in (False, True):
        problem = case.problem()
        optimizer = case.ours(problem.params)
        play(optimizer, problem, 2)
        rate = torch.tensor(0.01)
        optimizer.param_groups[0]["lr"] = 0.01 if number else rate
        play(optimizer, problem, 2)
        rate.mul_(0.5)
        if number:
            optimizer.param_groups[0]["lr"] = 0.005
        play(optimizer, problem, 2)
        optimizer.param_groups[0]["lr"] = 0.02
        play(optimizer, problem, 2)
        seen.append(problem.points())
    same(*seen)


@over(PLAIN)
def test_states_written_into(case):
    """States are tensors that anyone may write into, or put others for."""

    def change(optimizer, problem, k):
        for state in list(optimizer.state.values()):
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim():
                    if k:
                        state[name] = value / 2
                    else:
                        value.mul_(0.5)

    both(case, edited(change))


@over([case for case in PLAIN if case.name != "Adagrad"])
def test_states_forgotten(case):
    """An optimizer whose states are cleared begins anew. (Torch's Adagrad makes its own with the optimizer, and no more.)"""

    def change(optimizer, problem, k):
        if k:
            optimizer.state.pop(problem.params[0], None)
        else:
            optimizer.state.clear()

    both(case, edited(change))


@over(PLAIN)
def test_parameters_written_into(case):
    """Other numbers in place, and another tensor behind the parameter, as on a move to another device."""

    def change(optimizer, problem, k):
        for param in problem.params:
            if k:
                param.data = param.data.clone().mul_(0.5)
            else:
                with torch.no_grad():
                    param.mul_(0.5)

    both(case, edited(change))


@over([case for case in PLAIN if "fused" not in case.options])
def test_parameters_lie_elsewhere(case):
    """Another layout behind a parameter in the middle of a run, where states keep theirs. (Torch's fused kernels mix them up.)"""

    def change(optimizer, problem, k):
        for param in problem.params:
            wide = torch.empty((*param.shape, 2), dtype=param.dtype)[..., 0]
            param.data = wide.copy_(param.data) if k == 0 else param.data.contiguous()

    both(case, edited(change))


@over([case for case in PLAIN if case.name != "LBFGS"])
def test_parameters_leave_and_come(case):
    """Taken out of a group, a parameter stands; put back, it goes on."""

    def change(optimizer, problem, k):
        params = optimizer.param_groups[0]["params"]
        if k:
            params.append(problem.params[0])
        else:
            params.pop(0)

    both(case, edited(change))


@over([case for case in PLAIN if case.name != "LBFGS"])
def test_a_parameter_for_another(case):
    """Another tensor in a parameter's place, with its state or without."""

    def change(optimizer, problem, k):
        old = problem.params[0]
        new = nn.Parameter(old.detach() / 2)
        problem.params[0] = optimizer.param_groups[0]["params"][0] = new
        state = optimizer.state.pop(old, {})
        if k or case.name == "Adagrad":
            optimizer.state[new] = state

    both(case, edited(change))


@over(PLAIN)
def test_gradients_in_the_same_place(case):
    """Gradients written into one buffer, and new ones each time: the same points."""
    seen = []
    for kept in (True, False):
        problem = case.problem()
        optimizer = case.ours(problem.params)
        buffers = [torch.empty_like(param) for param in problem.params]
        for _ in range(5):
            problem.loss()
            if kept:
                for param, buffer in zip(problem.params, buffers, strict=True):
                    param.grad = buffer.copy_(param.grad)
            step(optimizer)
        seen.append(problem.points())
    same(*seen, 0.0)


@over(PLAIN)
def test_two_optimizers_over_parts(case):
    """Two optimizers of one class, one step after the other, know nothing of each other."""
    seen = []
    for apart in (True, False):
        first, second = case.problem(), case.problem()
        one, two = case.ours(first.params), case.ours(second.params, lr=0.005)
        for turn in ([0, 1] * 3) if apart else ([0] * 3 + [1] * 3):
            play((one, two)[turn], (first, second)[turn], 1)
        seen.append([first.points(), second.points()])
    same(*seen, 0.0)


@over(PLAIN)
def test_parameters_are_views(case):
    """Parameters that are pieces of one vector: the vector holds their points."""
    seen = []
    for pieces in (True, False):
        flat = torch.zeros(64)
        taken = 0

        def piece(shape, dtype, flat=flat):
            nonlocal taken
            size = torch.Size(shape).numel()
            taken += size
            return flat[taken - size : taken].view(shape)

        problem = case.problem(**({"make": piece} if pieces else {}))
        play(case.ours(problem.params), problem)
        if pieces:
            same(torch.cat([param.detach().flatten() for param in problem.params]), flat[:taken], 0.0)
            assert not flat[taken:].any()
        seen.append(problem.points())
    same(*seen)


@over(DEFAULTS)
def test_a_subclass(case):
    """A class derived from ours, whose step does something more, takes the same steps."""
    base = type(case.ours(case.problem().params))
    seen = []

    class Counted(base):
        steps = 0

        def step(self, closure=None):
            self.steps += 1
            return super().step(closure)

    for make in (base, Counted):
        problem = case.problem()
        optimizer = make(problem.params)
        for _ in range(3):
            optimizer.step(problem.loss)
        seen.append(problem.points())
    assert optimizer.steps == 3
    same(*seen, 0.0)


@over(DEFAULTS)
def test_two_steps_on_one_gradient(case):
    """A gradient that nobody clears is taken again."""

    def do(optimizer, problem):
        problem.loss()
        for _ in range(4):
            step(optimizer)

    both(case, do)
