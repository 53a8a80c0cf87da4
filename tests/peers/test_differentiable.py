"""Steps that gradients go through: with respect to the points, the gradients, and the options that may be tensors."""

import pytest
import torch
from cases import DEFAULTS, INFOS, INPUTS, PLAIN, Case, over, same, step

DIFFERENTIABLE = [case for case in INPUTS if "differentiable" in case.info.supported_impls]
NUMBERS = 1e-4
"""Torch's differentiable steps raise their betas to powers in float32, whatever the parameters, and take the powers off one."""
UNROLLED = [
    case for case in DIFFERENTIABLE if case.name not in {"Adamax", "Rprop"} and not {"amsgrad", "centered", "momentum"} & set(case.options)
]
"""Where torch's own graph holds over several steps; the other rules write into what their graph needs."""
OPTIONS = [
    ("SGD", "lr", {}), ("SGD", "weight_decay", {}), ("SGD", "momentum", {}), ("SGD", "lr", {"momentum": 0.9, "nesterov": True}),
    ("Adam", "lr", {}), ("Adam", "weight_decay", {}), ("Adam", "betas", {}), ("Adam", "lr", {"amsgrad": True}),
    ("AdamW", "lr", {}), ("AdamW", "weight_decay", {}), ("AdamW", "betas", {}), ("AdamW", "betas", {"amsgrad": True}), ("RAdam", "lr", {}),
]  # fmt: skip
"""What torch's own classes let gradients through to."""

# where parameters stand in a graph, torch warns about the gradients that are put into them
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def start():
    """A point and the gradients of three steps."""
    torch.manual_seed(0)
    return [(torch.rand(2, 2, dtype=torch.float64) + 0.5).requires_grad_() for _ in range(4)]


def unrolled(make, point, *grads, **options):
    """The point after steps on these gradients."""
    point = point.clone()
    optimizer = make([point], differentiable=True, **options)
    for grad in grads:
        point.grad = grad
        optimizer.step()
    return point


@over(DIFFERENTIABLE)
def test_through_a_step(case):
    """Gradients of the next point to the last, to its gradient and to the states, in the middle of a run: true ones, and torch's."""
    point, grad, *earlier = start()
    begun = case.torchs([point.detach().clone()], differentiable=True)
    for k in range(7):  # of RAdam the sixth step is the first with a variance
        begun.param_groups[0]["params"][0].grad = earlier[k % 2].detach().clone()
        begun.step()
    held = {name: value for name, value in next(iter(begun.state.values()), {}).items() if isinstance(value, torch.Tensor)}
    names = [name for name, value in held.items() if value.dim()]
    given = (point, grad, *(held[name].detach().clone().requires_grad_() for name in names))

    def last(make, point, grad, *values):
        point = point.clone()
        point.grad = grad
        optimizer = make([point], differentiable=True)
        known = {name: value.clone() for name, value in (held | dict(zip(names, values, strict=True))).items()}
        if known:
            optimizer.state[point].update(known)
        optimizer.step()
        return point

    assert torch.autograd.gradcheck(lambda *given: last(case.ours, *given), given, fast_mode=True)
    found = []
    for make in (case.ours, case.torchs):
        after = last(make, *given)
        slopes = torch.autograd.grad(after.square().sum(), given, allow_unused=True)
        found.append([after, [torch.zeros(2, 2).double() if slope is None else slope for slope in slopes]])
    same(*found, NUMBERS)


@over(UNROLLED)
def test_through_steps(case):
    """Gradients to the first point and to the gradients stepped on: true ones, and torch's."""
    given = start()
    assert torch.autograd.gradcheck(lambda *given: unrolled(case.ours, *given), given, fast_mode=True)
    found = []
    for make in (case.ours, case.torchs):
        after = unrolled(make, *given)
        slopes = torch.autograd.grad(after.square().sum(), given, allow_unused=True)
        found.append([after, [torch.zeros(2, 2).double() if slope is None else slope for slope in slopes]])
    same(*found, NUMBERS)


@over([case for case in UNROLLED if case in DEFAULTS])
def test_descent_through_steps(case):
    """A first point learned through three steps: the loss after the steps falls."""
    point = start()[0]
    losses = []
    for _ in range(3):
        moved = point.clone()
        optimizer = case.ours([moved], differentiable=True)
        for _ in range(3):
            moved.grad = 2 * moved
            optimizer.step()
        loss = moved.square().sum()
        losses.append(loss.item())
        point = (point - 0.1 * torch.autograd.grad(loss, point)[0]).detach().requires_grad_()
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize(("name", "option", "more"), OPTIONS, ids=["-".join([name, option, *more]) for name, option, more in OPTIONS])
def test_through_an_option(name, option, more):
    """The gradient of the last point with respect to a rate, a decay, a momentum, as a learned optimizer needs it."""
    case = Case(INFOS[name], option, more)
    point, *grads = (each.detach() for each in start())
    number = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def last(make, value):
        pair = (value, torch.tensor(0.95, dtype=torch.float64))
        steps = [grad.clone() for grad in (grads * 3)[:7]]
        return unrolled(make, point, *steps, **{option: pair if option == "betas" else value})

    assert torch.autograd.gradcheck(lambda value: last(case.ours, value), (number,))
    same(*(torch.autograd.grad(last(make, number).sum(), number) for make in (case.ours, case.torchs)), NUMBERS)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_through_both_betas(name):
    case = Case(INFOS[name], "betas", {})
    point, *grads = (each.detach() for each in start())
    betas = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.6, 0.8)]
    found = [torch.autograd.grad(unrolled(make, point, *grads, betas=tuple(betas)).sum(), betas) for make in (case.ours, case.torchs)]
    same(*found, NUMBERS)
    assert all(slope for slope in found[0])


@over(PLAIN)
def test_no_graph_otherwise(case):
    """Neither points nor states carry one after a step."""
    problem = case.problem()
    optimizer = case.ours(problem.params)
    for _ in range(2):
        problem.loss()
        step(optimizer)
    assert all(param.grad_fn is None for param in problem.params)
    for state in optimizer.state.values():
        assert not any(isinstance(value, torch.Tensor) and value.requires_grad for value in state.values())


@over([case for case in DIFFERENTIABLE if case in DEFAULTS])
def test_leaves_that_train_are_refused(case):
    """As in torch: a differentiable step would write into a leaf of the graph."""
    for make in (case.ours, case.torchs):
        problem = case.problem()
        problem.loss()
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
            make(problem.params, differentiable=True).step()
