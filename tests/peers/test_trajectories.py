"""Points, states and losses over some steps: as torch's class of the same name, whatever the flag, the dtype, the shape, the gradient."""

from copy import deepcopy

import pytest
import torch
from cases import (
    DEFAULTS,
    FEWER,
    FLAGGED,
    INFOS,
    INPUTS,
    MATRICES,
    PLAIN,
    REALS,
    VARIED,
    Case,
    Problem,
    advance,
    as_real,
    blank,
    both,
    flagged,
    over,
    play,
    same,
    states,
    step,
)  # fmt: skip
from torch import nn
from torch.profiler import ProfilerActivity, profile

SCALARS = pytest.mark.parametrize("shape", [(), (1,)], ids=["scalar", "one_element"])


def slices(shape, dtype):
    """A tensor with gaps between its numbers."""
    return torch.empty((*shape, 2), dtype=dtype)[..., 0]


def turned(shape, dtype):
    """A tensor whose dimensions lie in memory the other way round."""
    return torch.empty(shape[::-1], dtype=dtype).permute(tuple(reversed(range(len(shape)))))


def images(shape, dtype):
    return torch.empty(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def falls(case, losses):
    """Whether the loss went where the options want it."""
    return losses[-1] > losses[0] if case.options.get("maximize") else losses[-1] < losses[0]


MORE = {
    "SGD": [{"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1, "maximize": True}, {"lr": 0.1, "momentum": 0.5, "nesterov": True}],
    "Adagrad": [{"lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3, "maximize": True}],
    "RMSprop": [{"alpha": 0.5, "momentum": 0.9}, {"centered": True, "eps": 1e-3}],
    "Adadelta": [{"lr": 0.5, "rho": 0.5, "eps": 1e-3, "maximize": True}],
    "Adam": [{"betas": (0.0, 0.5), "eps": 1e-3}, {"decoupled_weight_decay": True, "weight_decay": 0.1}, {"amsgrad": True, "lr": 0.1}],
    "AdamW": [{"betas": (0.5, 0.0)}, {"weight_decay": 0.0}, {"lr": 0.0}],
    "Adamax": [{"betas": (0.5, 0.5), "eps": 0.1}],
    "NAdam": [{"betas": (0.5, 0.9), "momentum_decay": 0.5, "maximize": True}],
    "RAdam": [{"betas": (0.5, 0.9), "maximize": True}],
    "Rprop": [{"lr": 0.3, "etas": (0.25, 3.0), "step_sizes": (1e-2, 0.5)}],
    "ASGD": [{"t0": 1, "lr": 0.1}, {"t0": 3, "alpha": 0.5, "lambd": 0.1}],
    "Adafactor": [{"lr": 0.1, "beta2_decay": -0.5, "eps": (1e-3, 0.1), "d": 2.0, "weight_decay": 0.3}, {"eps": (None, 1.0)}],
    "Muon": [{"adjust_lr_fn": "match_rms_adamw"}, {"adjust_lr_fn": "original", "nesterov": False}, {"lr": 0.1, "eps": 1e-2, "ns_steps": 1}],
    "LBFGS": [{}, {"max_iter": 3, "history_size": 2}, {"max_eval": 4, "tolerance_change": 1e-2}, {"line_search_fn": "strong_wolfe"}],
}
"""Options that the data base leaves out."""


@over([*INPUTS, *(Case(INFOS[name], "_".join(options), options) for name, several in MORE.items() for options in several)])
def test_as_torch(case):
    for dtype in (torch.float32, torch.float64):
        both(case, lambda optimizer, problem: play(optimizer, problem, steps=8), dtype=dtype)


@over(FLAGGED)
def test_as_torch_with_a_flag(case):
    both(case)


@over(FEWER)
def test_as_torch_with_a_closure(case):
    both(case, lambda optimizer, problem: play(optimizer, problem, closure=True))


@over([flag for case in VARIED for flag in flagged(case, without=["differentiable"])])
def test_a_flag_changes_nothing(case):
    """The same points and states as with every way of computing named and off."""
    seen = []
    for more in ({}, {flag: False for flag in ("foreach", "fused") if case.takes(flag)}):
        problem = case.problem(dtype=torch.float64)
        optimizer = case.ours(problem.params, **more)
        seen.append([play(optimizer, problem), states(optimizer)])
    same(*seen, case.tolerance)


@pytest.mark.parametrize("make", [slices, turned])
@over([case for case in PLAIN if "fused" not in case.options])
def test_layouts(case, make):
    """Parameters that do not lie in one piece. (Torch's fused kernels take their numbers for those of gradients elsewhere.)"""
    both(case, make=make)


@over([case for case in PLAIN if case.name != "Muon" and "fused" not in case.options])
def test_layout_of_images(case):
    both(case, shapes=[(2, 3, 4, 4), (2, 1, 3, 3)], make=images)


@over(PLAIN)
def test_shapes(case):
    """No numbers, one, many; in one optimizer. Torch's Adafactor divides by the count of numbers, and takes no parameter without any."""
    shapes = [(1, 1), (33, 7), (3, 70), (130, 2)]
    if case.name != "Muon":
        shapes += [(), (1,), (1025,), (2, 3, 4, 5), (1, 1, 1), (17, 19)]
        shapes += [] if case.name == "Adafactor" else [(0,), (3, 0)]
    both(case, shapes=shapes, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@over(PLAIN)
def test_low_precision(case, dtype):
    eps = {"eps": 0.1} if case.name in {"Adam", "AdamW"} else {}
    both(Case(case.info, case.words, case.options | eps), dtype=dtype)


@over(PLAIN)
def test_several_dtypes(case):
    """Parameters of several dtypes in one optimizer move as each would alone."""
    dtypes = [torch.float64, torch.float32, torch.bfloat16, torch.float32]
    shapes = [(3, 2)] * len(dtypes)
    both(case, shapes=shapes, dtype=dtypes)
    together, alone = Problem(shapes, dtypes), Problem(shapes, dtypes)
    play(case.ours(together.params), together)
    optimizers = [case.ours([param]) for param in alone.params]
    for _ in range(4):
        alone.loss()
        for optimizer in optimizers:
            optimizer.step()
    same(together.points(), alone.points(), case.tolerance)


@over(PLAIN)
def test_a_model(case):
    """A model trained as models are: the gradients come from backward, and add up where nobody clears them."""
    seen = []
    for make in (case.ours, case.torchs):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8, bias=False), nn.Tanh(), nn.Linear(8, 2, bias=False)).double()
        inputs = torch.randn(16, 3, dtype=torch.float64)
        optimizer = make(model.parameters())
        losses = []

        def closure(model=model, inputs=inputs, optimizer=optimizer, losses=losses):
            if len(losses) % 3:
                optimizer.zero_grad(set_to_none=len(losses) % 2 == 0)
            loss = (model(inputs) - inputs[:, :2]).square().mean()
            loss.backward()
            losses.append(loss.item())
            return loss

        for _ in range(6):
            if case.info.step_requires_closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        seen.append([losses, [param.detach() for param in model.parameters()]])
    same(*seen, case.tolerance)


@over(INPUTS)
def test_goes_the_right_way(case):
    problem = case.problem()
    first = problem.loss()
    play(case.ours(problem.params), problem, steps=10)
    assert falls(case, [first, problem.loss()])


def scheduled(case, makers, steps=5, **problem):
    """Steps under schedulers at once on one optimizer, as torch's."""

    def do(optimizer, problem):
        losses, rates = [problem.loss()], []
        schedulers = [maker(optimizer) for maker in makers]
        for _ in range(steps):
            play(optimizer, problem, steps=1)
            losses.append(problem.loss())
            advance(schedulers, losses[-1])
            rates.append([float(group["lr"]) for group in optimizer.param_groups])
        assert falls(case, losses)
        return rates

    both(case, do, **problem)


@over(INPUTS)
def test_goes_the_right_way_under_schedulers(case):
    """Every list of schedulers that the data base has for the class."""
    for makers in case.info.scheduler_inputs:
        scheduled(case, makers, make=slices if len(makers) > 1 else blank)


@over([case for case in VARIED if case.takes("maximize")])
def test_maximize_is_the_loss_negated(case):
    seen = []
    for sign in (1, -1):
        problem = case.problem(dtype=torch.float64)
        optimizer = case.ours(problem.params, maximize=sign < 0)
        for _ in range(4):
            problem.loss()
            for param in problem.params:
                param.grad.mul_(sign)
            optimizer.step()
        seen.append(problem.points())
    same(*seen)


def by_groups(case, option, values):
    """A loss that falls over groups of their own options, and the same points as torch's."""
    seen = []
    for make in (case.ours, case.torchs):
        problem = case.problem()
        first, *rest = problem.params
        losses = [problem.loss()]
        optimizer = make([{"params": [first]}, {"params": rest, option: values[1]}], **{option: values[0]})
        for _ in range(6):
            play(optimizer, problem, steps=1)
            losses.append(problem.loss())
        assert falls(case, losses)
        assert [group[option] for group in optimizer.param_groups] == list(values)
        seen.append([problem.points(), states(optimizer)])
    same(*seen)


@over(VARIED)
def test_group_rates(case):
    by_groups(case, "lr", (0.01, 0.002))


@over([case for case in VARIED if case.takes("weight_decay")])
def test_group_decays(case):
    by_groups(case, "weight_decay", (0.0, 0.05))


@over([case for case in PLAIN if case.info.supports_param_groups])
def test_groups_of_one_class_differ_in_everything(case):
    """Every input of the data base in a group of its own. (Torch's Adagrad starts all groups with what its constructor has.)"""
    options = [each.options for each in INPUTS if each.name == case.name and not isinstance(each.options.get("lr"), torch.Tensor)]
    options = [own for own in options if "initial_accumulator_value" not in own]
    seen = []
    for make in (case.ours, case.torchs):
        problems = [case.problem() for _ in options]
        optimizer = make([{"params": problem.params, **own} for problem, own in zip(problems, options, strict=True)])
        for _ in range(4):
            for problem in problems:
                problem.loss()
            optimizer.step()
        seen.append([[problem.points() for problem in problems], states(optimizer)])
    same(*seen, case.tolerance)


@over([case for case in FEWER if not {"foreach", "differentiable"} & set(case.options)])
def test_rate_as_a_tensor(case):
    """The same points as for the number; the tensor stays what it was."""
    number = float(case.default("lr"))
    seen = []
    for lr in (number, torch.tensor(number, dtype=torch.float64), torch.tensor([number], dtype=torch.float64)):
        problem = case.problem()
        optimizer = case.ours(problem.params, lr=lr)
        seen.append(play(optimizer, problem))
        assert optimizer.param_groups[0]["lr"] is lr
        assert float(lr) == number
    same(seen[1], seen[0])
    same(seen[2], seen[0])


@SCALARS
@over(DEFAULTS)
def test_rate_as_a_tensor_under_schedulers(case, shape):
    """The schedulers write into the tensor; points and rates are those of the number's."""
    for makers in case.info.scheduler_inputs:
        seen = []
        number = float(case.default("lr"))
        for lr in (torch.full(shape, number, dtype=torch.float64), number):
            problem = case.problem()
            optimizer = case.ours(problem.params, lr=lr)
            schedulers = [maker(optimizer) for maker in makers]
            rates = []
            for _ in range(4):
                play(optimizer, problem, steps=1)
                advance(schedulers)
                rates.append(float(optimizer.param_groups[0]["lr"]))
            if isinstance(lr, torch.Tensor):
                assert optimizer.param_groups[0]["lr"] is lr
            seen.append([problem.points(), rates])
        same(*seen)


@over(PLAIN)
def test_no_gradients_move_nothing(case):
    problem = case.problem()
    before = problem.points()
    optimizer = case.ours(problem.params)
    for _ in range(3):
        step(optimizer)
    same(problem.points(), before, tolerance=0)


@over(FEWER)
def test_zero_gradients_move_nothing(case):
    """Without weight decay."""
    problem = case.problem()
    before = problem.points()
    for param in problem.params:
        param.grad = torch.zeros_like(param)
    optimizer = case.ours(problem.params, **({"weight_decay": 0} if case.takes("weight_decay") else {}))
    for _ in range(3):
        step(optimizer)
    same(problem.points(), before, tolerance=0)


@over(FEWER)
def test_gradients_are_read_only(case):
    """A step changes no gradient: neither its numbers nor its version."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    problem.loss()
    for _ in range(3):
        grads = [param.grad for param in problem.params]
        copies = [grad.clone() for grad in grads]
        versions = [grad._version for grad in grads]
        step(optimizer)
        assert all(param.grad is grad for param, grad in zip(problem.params, grads, strict=True))
        same(grads, copies, tolerance=0)
        assert [grad._version for grad in grads] == versions


@over([case for case in PLAIN if "fused" not in case.options])
def test_gradients_of_any_layout(case):
    """Expanded, turned, with gaps, by turns. (Torch's fused kernels read them as if they lay in one piece, and go wrong.)"""

    def do(optimizer, problem):
        for k in range(4):
            for i, param in enumerate(problem.params):
                numbers = torch.arange(param.numel()).reshape(param.shape) / 7 - 0.5
                param.grad = (
                    torch.full((), 0.25 * (i + 1)).expand(param.shape),
                    turned(param.shape, param.dtype).copy_(numbers),
                    slices(param.shape, param.dtype).copy_(numbers),
                )[(i + k) % 3]
            step(optimizer)

    both(case, do)


@over([case for case in FEWER if not {"momentum", "fused"} <= set(case.options)])
def test_some_gradients_missing(case):
    """A parameter without a gradient stands; its own steps count from its first gradient.

    (Torch's fused SGD fails where some momenta are missing.)
    """

    def do(optimizer, problem):
        found = []
        for k in range(4):
            problem.loss()
            problem.params[1].grad = None if k < 2 else problem.params[1].grad
            problem.params[2].requires_grad_(k != 1 and "differentiable" not in case.options)
            step(optimizer)
            assert k >= 2 or not optimizer.state.get(problem.params[1], {}).get("step")
            found.append([problem.points(), deepcopy(states(optimizer))])
        return found

    both(case, do)


@over([case for case in FEWER if case.info.supports_complex and "fused" not in case.options])
def test_complex_is_two_reals(case):
    """A complex parameter moves as its real view does, and as torch's."""
    shapes = [(2, 3), (4,), ()]
    both(case, shapes=shapes, dtype=torch.complex64)
    complexes = case.problem(shapes=shapes, dtype=torch.complex128)
    reals = case.problem(shapes=[(*shape, 2) for shape in shapes], dtype=torch.float64)
    ones, others = play(case.ours(complexes.params), complexes), play(case.ours(reals.params), reals)
    same([[as_real(point) for point in one] for one in ones], others, case.tolerance)


@over([case for case in PLAIN if case.info.supports_complex and "foreach" in case.options])
def test_complex_and_real_together(case):
    dtypes, shapes = [torch.complex64, torch.float32, torch.complex128, torch.float64], [(2, 3), (2, 3), (3, 1), (4,)]
    both(case, shapes=shapes, dtype=dtypes)
    seen = []
    for flag in (True, False):
        problem = Problem(shapes, dtypes)
        seen.append(play(case.ours(problem.params, foreach=flag), problem))
    same(*seen, case.tolerance)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=["default_float64", "default_bfloat16"])
@over(PLAIN)
def test_default_dtype(case, default):
    """The dtype of states, the step's count too, follows torch's default dtype as it does in torch."""
    saved = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        both(case)
    finally:
        torch.set_default_dtype(saved)


@over([case for case in INPUTS if case.name in {"Adam", "AdamW"}])
def test_amsgrad_keeps_the_largest(case):
    problem = case.problem()
    optimizer = case.ours(problem.params, weight_decay=0)
    play(optimizer, problem, steps=1)
    for param in problem.params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for state in states(optimizer):
        if case.options.get("amsgrad"):
            assert (state["max_exp_avg_sq"] > state["exp_avg_sq"]).all()
        else:
            assert "max_exp_avg_sq" not in state


@over(PLAIN)
def test_states_are_there_after_a_step(case):
    """Every class keeps something of every parameter; SGD without momentum need not, LBFGS has all in the first."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    play(optimizer, problem, steps=1)
    first, *rest = states(optimizer)
    assert first or (case.name == "SGD" and "momentum" not in case.options)
    assert all(bool(state) == (bool(first) and case.name != "LBFGS") for state in rest)


@over(PLAIN)
def test_group_added_after_steps(case):
    def do(optimizer, problem):
        late = case.problem()
        points = play(optimizer, problem, steps=3)
        optimizer.add_param_group({"params": late.params, "lr": 0.05})
        for _ in range(3):
            late.loss()
            problem.loss()
            optimizer.step()
            points.append(late.points())
        return points

    both(case, do)


@pytest.mark.parametrize("to_none", [True, False], ids=["none", "zero"])
@over(PLAIN)
def test_zero_grad(case, to_none):
    problem = case.problem()
    optimizer = case.ours(problem.params)
    problem.loss()
    grads = [param.grad for param in problem.params]
    optimizer.zero_grad(set_to_none=to_none)
    if to_none:
        assert all(param.grad is None for param in problem.params)
    else:
        assert all(param.grad is grad and not grad.any() for param, grad in zip(problem.params, grads, strict=True))


@over([case for case in PLAIN if "fused" not in case.options])
def test_autograd_sees_the_step(case):
    """A graph from before the step cannot be walked after it: its parameters have changed. (Torch's fused kernels do not tell.)"""
    param = nn.Parameter(torch.rand(3, 2) + 1)
    optimizer = case.ours([param])
    (param**3).sum().backward()
    stale = (param**3).sum()
    version, place = param._version, param.data_ptr()
    step(optimizer)
    assert param.data_ptr() == place
    assert param._version > version
    assert param.requires_grad
    assert param.is_leaf
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        stale.backward()


@over(PLAIN)
def test_closure_runs_with_gradients_on(case):
    """Its loss comes back; it runs once a step, but for rules that search."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    seen = []

    def closure():
        assert torch.is_grad_enabled()
        seen.append(problem.loss())
        return seen[-1]

    for _ in range(2):
        seen.clear()
        with torch.no_grad():
            loss = optimizer.step(closure)
            assert not torch.is_grad_enabled()
        assert float(loss) == float(seen[0])
        if not case.info.step_requires_closure:
            assert loss is seen[0]
            assert len(seen) == 1
            assert optimizer.step() is None


def memory_peak(make, shapes):
    """Bytes that a step holds at most beyond what stood before it."""
    problem = Problem(shapes)
    optimizer = make(problem.params)
    play(optimizer, problem, steps=2)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        optimizer.step()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@over([case for case in DEFAULTS if case.takes("foreach")])
def test_memory_peak(case):
    """A step, plain or flagged, holds no more than torch's does with foreach."""
    shapes = [(64, 64)] * 12
    most = memory_peak(flagged(case)[0].torchs, shapes)
    for each in (case, *flagged(case, without=["differentiable"])):
        assert memory_peak(each.ours, shapes) <= 1.1 * most + 2**14


@over([case for case in PLAIN if "cpu" in case.info.supports_fused_on and "foreach" not in case.options])
def test_under_a_gradient_scaler(case):
    """Scaled gradients are scaled back; a step on an infinite gradient is left out."""

    def do(optimizer, problem):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        points, scales = [], []
        for k in range(4):
            scale = scaler.scale(torch.ones(()))
            problem.loss()
            for param in problem.params:
                param.grad.mul_(scale)
            if k == 2:
                problem.params[0].grad.view(-1)[0] = float("inf")
            scaler.step(optimizer)
            scaler.update()
            points.append(problem.points())
            scales.append(scaler.get_scale())
        same(points[2], points[1], tolerance=0)
        assert scales[2] < scales[1]
        return points, scales

    both(case, do)


@REALS
@over([case for case in INPUTS if case.name == "LBFGS"])
def test_lbfgs(case, dtype):
    """The number of evaluations, the history, and the minimum itself."""
    both(case, lambda optimizer, problem: play(optimizer, problem, steps=4), dtype=dtype)
    problem = Problem(dtype=dtype)
    play(case.ours(problem.params, lr=1, line_search_fn="strong_wolfe"), problem, steps=20)
    same(torch.cat([point.double().flatten() for point in problem.points()]), problem.centres, 1e-3)
    lengths = []
    for history in (1, 100):
        problem = Problem(MATRICES, dtype)
        optimizer = case.ours(problem.params, history_size=history, max_iter=8, max_eval=6)
        play(optimizer, problem, steps=2)
        state = optimizer.state[problem.params[0]]
        lengths.append(len(state["old_dirs"]))
        assert state["n_iter"] <= 2 * 8
    assert lengths[0] == 1
    assert lengths[1] > 1
    with pytest.raises((TypeError, ValueError)):
        optimizer.step()
