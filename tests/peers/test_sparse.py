"""Sparse gradients: steps on them, and refusals in words."""

import pytest
import torch
from cases import DEFAULTS, FLAGGED, INFOS, INPUTS, PLAIN, REALS, Case, Problem, advance, both, over, same
from torch import nn

SHAPES = [(5, 3), (4,), (4, 2, 2)]


@pytest.fixture(autouse=True)
def checked():
    """Torch warns where nobody has said whether sparse tensors are to be checked."""
    with torch.sparse.check_sparse_tensor_invariants(True):
        yield


def sparse_of(grad):
    """Some rows of a gradient as a sparse tensor, one of them in two halves."""
    rows = torch.tensor([0, 2, 0])
    shares = torch.tensor([0.5, 1.0, 0.5], dtype=grad.dtype).view(-1, *[1] * (grad.dim() - 1))
    return torch.sparse_coo_tensor(rows[None], grad[rows] * shares, grad.shape)


def sparse_steps(optimizer, problem, schedulers=(), dense=False, steps=6):
    """Steps on sparse gradients, or on the same written out with their zeros."""
    made = [maker(optimizer) for maker in schedulers]
    losses = []
    for _ in range(steps):
        losses.append(problem.loss().item())
        for param in problem.params:
            param.grad = sparse_of(param.grad).to_dense() if dense else sparse_of(param.grad)
        optimizer.step()
        advance(made, losses[-1])
    return losses


@REALS
@pytest.mark.parametrize("more", [{}, {"foreach": True}, {"foreach": False}], ids=["", "foreach", "no_foreach"])
@pytest.mark.parametrize("name", [name for name, info in INFOS.items() if info.supports_sparse])
def test_sparse_gradients(name, more, dtype):
    """As torch, and as the same gradients written out; with the schedulers of the data base and without."""
    options, schedulers = INFOS[name].metadata_for_sparse
    case = Case(INFOS[name], "sparse", options | more)
    for makers in ([], schedulers):

        def do(optimizer, problem, makers=makers):
            losses = sparse_steps(optimizer, problem, makers)
            assert losses[-1] < losses[0]
            return losses

        both(case, do, shapes=SHAPES, dtype=dtype)
        seen = []
        for dense in (False, True):
            problem = Problem(SHAPES, dtype)
            sparse_steps(case.ours(problem.params), problem, makers, dense)
            seen.append(problem.points())
        same(*seen)


@over([case for case in PLAIN if not case.info.supports_sparse and not case.info.step_requires_closure])
def test_sparse_gradients_refused(case):
    problem = Problem(SHAPES[:1])
    for make in (case.ours, case.torchs):
        with pytest.raises(RuntimeError, match="sparse"):
            sparse_steps(make(problem.params), problem)


@over([case for case in INPUTS + FLAGGED if case.info.supports_sparse and "differentiable" not in case.options])
def test_sparse_gradients_under_any_option(case):
    """What torch's class takes ours takes, to the same points; what it refuses ours may take, without a flag's making a difference."""

    def outcome(make, **more):
        problem = Problem(SHAPES)
        try:
            sparse_steps(make(problem.params, **more), problem, steps=3)
        except Exception as error:
            return error
        return problem.points()

    ours, theirs = outcome(case.ours), outcome(case.torchs)
    if isinstance(theirs, list):
        assert isinstance(ours, list), ours
        same(ours, theirs)
    elif isinstance(ours, list):
        same(ours, outcome(case.ours, foreach=None, fused=None))


@over([case for case in DEFAULTS if case.info.step_requires_closure])
def test_sparse_gradients_in_a_search(case):
    """The rules that lay all gradients into one vector write sparse ones out."""

    def do(optimizer, problem):
        def closure():
            loss = problem.loss()
            for param in problem.params:
                param.grad = sparse_of(param.grad)
            return loss

        return [optimizer.step(closure).item() for _ in range(2)]

    both(case, do, shapes=SHAPES)


@pytest.mark.parametrize("name", [name for name, info in INFOS.items() if info.supports_sparse])
def test_sparse_embedding(name):
    """A model's own sparse gradient; zero_grad clears it either way."""
    case = Case(INFOS[name], "sparse", dict(INFOS[name].metadata_for_sparse[0]))
    seen = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Embedding(7, 3, sparse=sparse)
        optimizer = case.ours(model.parameters())
        for k in range(5):
            optimizer.zero_grad(set_to_none=k % 2 == 0)
            model(torch.tensor([1, 5, 1])).pow(2).sum().backward()
            assert model.weight.grad.is_sparse == sparse
            optimizer.step()
        seen.append(model.weight)
    same(*seen)
