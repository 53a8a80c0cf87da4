"""The probes against dense Hessians, torch's own, and numbers worked by hand; and what they leave as it was."""

from __future__ import annotations

import copy
import inspect
import math
import random
import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from torch import nn
from torch.func import functional_call
from torch.utils.data import TensorDataset

import thalweg as tw
from thalweg import Problem, UserError, optim
from thalweg.core import catalogue
from thalweg.core.hessian import Hessian
from thalweg.core.lanczos import Lanczos
from thalweg.core.probe import problem_of, untouched
from thalweg.core.stability import bears
from thalweg.probes import conditioning, critical_point, gap, gradcheck, noise, order, sharpness, spectrum

CROSS = nn.functional.cross_entropy


class Point(nn.Module):
    """A module that is its own parameter, for losses of it alone."""

    def __init__(self, *at):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(at, dtype=torch.float64))

    def forward(self, _):
        return self.w


ONE_ROW = (torch.zeros(1, 1), torch.zeros(1))


def bowl(matrix, **more):
    """The spectrum of half w A w, whose Hessian is A."""
    A = torch.as_tensor(matrix, dtype=torch.float64)
    return spectrum(Point(*[0.3] * len(A)), lambda w, _: 0.5 * w @ A @ w, ONE_ROW, **more)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        x = x.reshape(-1, 2, 4)
        return self.out(self.mix(x, x, x, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(2, 3, batch_first=True)
        self.out = nn.Linear(3, 3)

    def forward(self, x):
        return self.out(self.cell(x.reshape(-1, 4, 2))[0][:, -1])


def conv():
    return nn.Sequential(nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3))


NETS = {
    "tanh": lambda: nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)),
    "relu": lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)),
    "norm": lambda: nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3)),
    "conv": conv,
    "attention": Attention,
    "recurrent": Recurrent,
}


def made(name, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NETS[name]()


def classes(rows=60):
    draw = torch.Generator().manual_seed(1)
    X = torch.randn(rows, 8, generator=draw)
    return X, (X @ torch.randn(8, 3, generator=draw)).argmax(1)


def dense(model, loss, X, y):
    """The whole Hessian by torch's own function, in double precision and evaluation mode, (n, n)."""
    model = model.double().eval()
    names, points = zip(*model.named_parameters(), strict=True)
    sizes = [p.numel() for p in points]

    def of(flat):
        parts = {n: part.view_as(p) for n, part, p in zip(names, flat.split(sizes), points, strict=True)}
        return loss(functional_call(model, parts, (X.double(),)), y)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return torch.autograd.functional.hessian(of, torch.cat([p.detach().flatten() for p in points]))


def train(model, data, steps, lr=0.3):
    points = list(model.parameters())
    for _ in range(steps):
        slopes = torch.autograd.grad(CROSS(model(data[0]), data[1]), points)
        with torch.no_grad():
            for p, g in zip(points, slopes, strict=True):
                p -= lr * g
    return model


# --- the numbers


def test_a_quadratic_to_the_last_digits():
    # eigenvalues of [[2, 1], [1, 2]] are 3 and 1; beside it -5 and 0
    found = bowl([[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, -5, 0], [0, 0, 0, 0]], k=4, tolerance=0)
    np.testing.assert_allclose(found.values, [3, 1, 0, -5], atol=1e-12)
    assert (found.largest, found.smallest) == pytest.approx((3, -5), abs=1e-12)
    assert (found.trace, found.trace_error) == pytest.approx((-1, 0), abs=1e-12)
    assert (found.products, found.converged) == (4, True)
    assert found.residuals.max() < 1e-13


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("steps", [0, 100])
def test_against_the_dense_hessian_of_torch(name, steps):
    data = classes()
    model = train(made(name).eval(), data, steps)
    found = spectrum(model, CROSS, data, k=3, tolerance=1e-3, samples=20)
    whole = dense(model, CROSS, *data)
    exact = torch.linalg.eigvalsh(whole).numpy()
    size = np.abs(exact).max()
    assert found.largest == pytest.approx(exact[-1], abs=1e-3 * size)
    assert found.smallest == pytest.approx(exact[0], abs=1e-3 * size)
    nearest = np.abs(found.values[:, None] - exact).min(1)
    assert (nearest <= found.residuals + 1e-12).all()  # an eigenvalue is where the residual says
    v = found.vector.double()
    off = float((whole @ v - found.largest * v).norm())
    assert off <= 1.5 * found.residuals[0] + 4e-6 * size
    assert found.converged
    assert abs(found.trace - float(whole.trace())) <= 5 * found.trace_error + 1e-5 * size


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("steps", [0, 30, 300])
def test_the_largest_is_within_1_percent_after_15_products(name, steps):
    data = classes(200)
    model = train(made(name, seed=2).eval(), data, steps)
    found = spectrum(model, CROSS, data, k=1, products=15, samples=0)
    exact = torch.linalg.eigvalsh(dense(model, CROSS, *data))[-1]
    assert found.products <= 15
    assert found.largest == pytest.approx(float(exact), rel=0.01)


def test_a_saddle_whose_steepest_direction_curves_down():
    # x^2 - 4 y^2: 2 along x, -8 along y, which is larger in size
    found = spectrum(Point(1.0, 0.0), lambda w, _: w[0] ** 2 - 4 * w[1] ** 2, ONE_ROW, k=1)
    assert (found.largest, found.smallest) == pytest.approx((2, -8))
    np.testing.assert_allclose(found.values, [-8])
    np.testing.assert_allclose(found.vector.abs(), [1, 0], atol=1e-6)


def test_a_flat_loss_and_a_linear_one_have_no_curvature():
    for loss in (lambda w, _: (w * 0).sum(), lambda w, _: 3 * w.sum()):
        found = spectrum(Point(1.0, 2.0, 3.0), loss, ONE_ROW, k=2)
        assert (found.largest, found.smallest, found.trace) == (0, 0, 0)
        assert found.converged


def test_multiple_eigenvalues_are_all_found_where_all_are_asked_for():
    found = bowl(np.diag([2.0, 2, 2, 1, 1]), k=5, tolerance=0)
    np.testing.assert_allclose(found.values, [2, 2, 2, 1, 1], atol=1e-12)
    assert bowl(np.diag([2.0, 2, 2, 1, 1]), k=1, samples=0, which="largest").products <= 5


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-10, 10).map(lambda v: round(v, 3)), min_size=1, max_size=12), st.integers(0, 1000))
def test_any_symmetric_matrix(eigenvalues, seed):
    draw = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(draw.standard_normal((len(eigenvalues),) * 2))
    found = bowl(Q @ np.diag(eigenvalues) @ Q.T, k=3, tolerance=0, seed=seed)
    ranked = sorted(eigenvalues, key=abs)[-3:]
    np.testing.assert_allclose(sorted(np.abs(found.values)), sorted(np.abs(ranked)), atol=1e-8)
    assert (found.largest, found.smallest) == pytest.approx((max(eigenvalues), min(eigenvalues)), abs=1e-8)
    assert found.trace == pytest.approx(sum(eigenvalues), abs=1e-8)


def test_the_trace_of_many_directions_and_its_error():
    draw = np.random.default_rng(0)
    A = draw.standard_normal((80, 80))
    A = A @ A.T / 80
    found = [bowl(A, k=1, samples=8, seed=seed, which="largest") for seed in range(20)]
    assert all(f.products < 80 for f in found)
    z = [(f.trace - np.trace(A)) / f.trace_error for f in found]
    assert np.abs(z).max() < 5
    assert 0.4 < np.std(z) < 2.5  # the standard error is about as large as the errors are
    assert np.abs(np.mean([f.trace for f in found]) / np.trace(A) - 1) < 0.02
    assert math.isnan(bowl(A, k=1, samples=0).trace)


def test_an_earlier_vector_is_a_shorter_way():
    data = classes(300)
    model = train(made("tanh"), data, 50)
    first = spectrum(model, CROSS, data, k=1, tolerance=1e-3, samples=0)
    again = spectrum(train(model, data, 1, lr=0.01), CROSS, data, k=1, tolerance=1e-3, samples=0, start=first.vector, products=4)
    cold = spectrum(model, CROSS, data, k=1, tolerance=1e-3, samples=0, products=4, seed=3)
    assert again.residuals[0] < 0.5 * cold.residuals[0]
    # a start among other eigenvectors than the one that is looked for does not hide it
    beside = torch.tensor([1.0, 1, 1, 0, 0, 0])
    assert bowl(np.diag([1.0, 1.1, 1.2, 5, 2, 3]), k=1, start=beside).largest == pytest.approx(5, rel=0.01)


# --- the loss


def test_chunks_are_the_whole():
    data = classes(50)
    model = made("tanh")
    whole, cut = (spectrum(model, CROSS, data, k=2, tolerance=0, chunk=chunk, double=True) for chunk in (50, 16))
    np.testing.assert_allclose(cut.values, whole.values, rtol=1e-10)
    assert cut.trace == pytest.approx(whole.trace)


def test_data_and_losses_of_every_kind():
    X, y = classes()
    model = made("tanh")
    plain = spectrum(model, CROSS, (X, y), k=1).largest
    named = {"x": X, "y": y}
    assert spectrum(model, None, named, k=1, step=lambda m, b: CROSS(m(b["x"]), b["y"])).largest == plain
    assert spectrum(model, CROSS, TensorDataset(X, y), k=1).largest == plain
    problem = Problem(lambda: made("tanh"), CROSS, train=(X, y))
    assert spectrum(model, problem, k=1).largest == plain
    assert spectrum(model, problem, (X[:20], y[:20]), k=1).largest == spectrum(model, CROSS, (X[:20], y[:20]), k=1).largest != plain


def test_parameters_without_gradient_are_constants():
    X, y = classes()
    model = made("tanh")
    model[0].requires_grad_(False)
    found = spectrum(model, CROSS, (X, y), k=1)
    assert len(found.vector) == 18
    last = dense(made("tanh")[2], CROSS, made("tanh")[:2](X).detach(), y)
    assert found.largest == pytest.approx(float(torch.linalg.eigvalsh(last)[-1]), rel=1e-4)


def test_double_precision_on_request():
    data = classes()
    found = spectrum(made("tanh"), CROSS, data, k=1, tolerance=0, double=True)
    exact = torch.linalg.eigvalsh(dense(made("tanh"), CROSS, *data))[-1]
    assert found.largest == pytest.approx(float(exact), rel=1e-12)
    assert found.vector.dtype is torch.float64


def test_training_mode_is_a_surface_of_its_own():
    data = classes()
    model = made("norm")
    calm, trained = spectrum(model, CROSS, data, k=1), spectrum(model, CROSS, data, k=1, train=True)
    assert trained.largest != pytest.approx(calm.largest, rel=1e-3)
    assert trained.converged
    for chunk in (60, 20):  # the same masks in every product, else products would belong to different Hessians
        once = spectrum(model, CROSS, data, k=1, tolerance=1e-4, train=True, chunk=chunk)
        with torch.random.fork_rng():
            torch.manual_seed(chunk)  # torch's own random state plays no part
            twice = spectrum(model, CROSS, data, k=1, tolerance=1e-4, train=True, chunk=chunk)
        assert once.converged
        assert once.values.tolist() == twice.values.tolist()


# --- what is left alone


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_random_state_are_left_as_they_were(train, fails):
    data = classes()
    model = made("norm").train()
    model[1].eval()
    CROSS(model(data[0]), data[1]).backward()
    modes = [m.training for m in model.modules()]
    before = {n: t.clone() for n, t in model.state_dict().items()}
    slopes = [p.grad.clone() for p in model.parameters()]
    state = torch.get_rng_state()

    def loss(out, y):
        assert out.requires_grad
        return CROSS(out, y) * (math.nan if fails else 1)

    try:
        with torch.no_grad():
            spectrum(model, loss, data, k=1, train=train, chunk=16)
        assert not fails
    except UserError:
        assert fails
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), slopes, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_twice():
    data = classes()
    once, twice = (spectrum(made("relu"), CROSS, data, seed=3) for _ in range(2))
    assert once.values.tolist() == twice.values.tolist()
    assert once.trace == twice.trace


# --- mistakes


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, d: spectrum(m, CROSS), "data is missing: give a pair"),
        (lambda m, d: spectrum(lambda x: x, CROSS, d), "takes a module at whose weights to measure, not function"),
        (lambda m, d: spectrum(m, CROSS, d, k=0), "k = 0 must be a whole number of at least 1"),
        (lambda m, d: spectrum(m, CROSS, d, products=2.5), "products = 2.5 must be a whole number"),
        (lambda m, d: spectrum(m, CROSS, d, tolerance=-1), "tolerance = -1 must be"),
        (lambda m, d: spectrum(m, CROSS, d, start=torch.zeros(63)), "start must be 63 finite numbers"),
        (lambda m, d: spectrum(m, lambda out, y: out, d), r"must be one number, but it came out as \(60, 3\)"),
        (lambda m, d: spectrum(m, lambda out, y: out.sum() / 0 * 0, d), "the loss is nan at the model's weights"),
        (lambda m, d: spectrum(m, lambda out, y: y.double().mean(), d), "does not depend on any trainable parameter"),
        (lambda m, d: spectrum(m.requires_grad_(False), CROSS, d), "no parameter that needs a gradient"),
        (lambda m, d: spectrum(m, CROSS, (d[0][:0], d[1][:0])), "the data has no rows"),
        (lambda m, d: spectrum(Point(0.0), lambda w, _: w.abs().sqrt().sum(), ONE_ROW), "second derivative is not finite"),
    ],
)
def test_mistakes_are_told_in_a_sentence(call, words):
    with pytest.raises(UserError, match=words):
        call(made("tanh"), classes())


def test_a_function_without_second_derivative_is_named():
    ends = {"targets": torch.tensor([[1]]), "input_lengths": (4,), "target_lengths": (1,)}
    with pytest.raises(UserError, match=r"second derivatives of this model cannot be taken: .*ctc_loss_backward"):
        spectrum(Point(*range(8)), lambda w, _: nn.functional.ctc_loss(w.view(4, 1, 2).log_softmax(-1), **ends), ONE_ROW)


# --- the promises: how near, in how many products


def digits(rows=150):
    table = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(table.target))[:rows]
    return torch.tensor(table.data[order] / 16, dtype=torch.float32), torch.tensor(table.target[order])


def regression():
    draw = torch.Generator().manual_seed(3)
    X = torch.randn(200, 30, generator=draw) * torch.logspace(-1, 1, 30)
    return X, X @ torch.randn(30, 1, generator=draw) + 0.1 * torch.randn(200, 1, generator=draw)


def binary():
    X, y = regression()
    return X / 10, (y > 0).float()


def even():
    """A logistic regression whose largest eigenvalues lie close together."""
    draw = torch.Generator().manual_seed(3)
    X = torch.randn(300, 200, generator=draw)
    return X, (X @ torch.randn(200, 1, generator=draw) > 0).float()


def twenty():
    """Twenty classes, six rows of ten in the first."""
    draw = np.random.default_rng(3)
    X = draw.standard_normal((400, 40)) * np.logspace(-0.3, 0.3, 40)
    y = draw.choice(20, 400, p=[0.6] + [0.4 / 19] * 19)
    return torch.tensor(X + 1.5 * draw.standard_normal((20, 40))[y], dtype=torch.float32), torch.tensor(y)


def rare():
    """All benign tumours, and eight malignant ones."""
    table = datasets.load_breast_cancer()
    kept = np.concatenate([np.flatnonzero(table.target == 1), np.flatnonzero(table.target == 0)[:8]])
    X = (table.data - table.data.mean(0)) / table.data.std(0)
    return torch.tensor(X[kept], dtype=torch.float32), torch.tensor(table.target[kept, None], dtype=torch.float32)


BCE, MSE = nn.functional.binary_cross_entropy_with_logits, nn.functional.mse_loss
PROMISED = {
    "linear": (lambda: nn.Linear(30, 1), MSE, regression, 1e-3),
    "logistic": (lambda: nn.Linear(30, 1), BCE, binary, 0.1),
    "softmax": (lambda: nn.Linear(64, 10), CROSS, digits, 0.3),
    "mlp": (lambda: nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)), CROSS, digits, 0.3),
    "deep": (lambda: nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 10)), CROSS, digits, 0.3),
    "twenty": (lambda: nn.Linear(40, 20), CROSS, twenty, 0.1),
}
CLOSE = {
    "even": (lambda: nn.Linear(200, 1), BCE, even, 0.3),
    "rare": (lambda: nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 1)), BCE, rare, 0.1),
}


def exactly(model, loss, data):
    """Every eigenvalue in double precision, rising."""
    whole = Hessian(model, problem_of(model, loss, data), double=True)
    return torch.linalg.eigvalsh(whole.dense()).numpy()


@pytest.mark.parametrize("name", PROMISED)
@pytest.mark.parametrize("steps", [0, 20, 200])
def test_both_ends_within_1_percent_in_few_products(name, steps):
    make, loss, rows, lr = PROMISED[name]
    data = rows()
    torch.manual_seed(0)
    model = make()
    descend(model, loss, data, steps, lr)
    exact = exactly(model, loss, data)
    allowed = 0.01 * max(abs(exact[0]), exact[-1] / 100)
    for seed in range(2):
        top, bottom, both = (
            spectrum(model, loss, data, k=k, which=which, samples=0, seed=seed)
            for k, which in ((1, "largest"), (1, "smallest"), (5, "both"))
        )
        assert top.products <= 15
        assert max(bottom.products, both.products) <= 60
        assert top.largest == pytest.approx(exact[-1], rel=0.01)
        assert both.largest == pytest.approx(exact[-1], rel=0.01)
        assert bottom.smallest == pytest.approx(exact[0], abs=allowed)
        assert both.smallest == pytest.approx(exact[0], abs=allowed)
        values = [top.largest, bottom.smallest, *both.values]
        bounds = [top.largest_residual, bottom.smallest_residual, *both.residuals]
        assert all(np.abs(exact - value).min() <= bound for value, bound in zip(values, bounds, strict=True))
    if steps == 200:
        return
    descend(model, loss, data, 3, lr / 10)
    exact = exactly(model, loss, data)
    for seed in range(2):
        warm = spectrum(model, loss, data, k=1, which="largest", samples=0, start=top.vector, seed=seed)
        assert warm.products <= 5
        assert warm.largest == pytest.approx(exact[-1], rel=0.01)


@pytest.mark.parametrize(
    ("name", "steps", "which", "seeds"),
    [
        ("even", 0, "largest", (1, 32)),
        ("softmax", 30, "largest", (31,)),
        ("twenty", 600, "largest", (27,)),
        ("rare", 0, "smallest", (4, 6, 14)),
    ],
)
def test_an_end_is_not_taken_for_the_next_one(name, steps, which, seeds):
    # a start almost beside the eigenvector shows for some steps the next value, as if it were the end
    make, loss, rows, lr = (PROMISED | CLOSE)[name]
    data = rows()
    torch.manual_seed(0)
    model = make()
    descend(model, loss, data, steps, lr)
    exact = exactly(model, loss, data)[-1 if which == "largest" else 0]
    for seed in seeds:
        found = spectrum(model, loss, data, k=1, which=which, samples=0, seed=seed)
        assert getattr(found, which) == pytest.approx(exact, rel=0.01)
        assert found.products <= (15 if which == "largest" else 60)


class Diagonal:
    """A matrix in its eigenvectors."""

    dtype, device, products = torch.float64, torch.device("cpu"), 0

    def __init__(self, values):
        self.values = torch.tensor(np.asarray(values), dtype=torch.float64)
        self.size = len(values)

    def __call__(self, v):
        self.products += 1
        return self.values * v


@pytest.mark.parametrize("least", [0.1, 0.03, 0.01])
def test_a_value_is_waited_for_while_the_next_one_moves(least):
    # the start has hardly a part along the eigenvector of 1, so that 0.94 seems to be the largest
    values = np.concatenate([[1, 0.94], np.linspace(-0.5, 0.6, 198)])
    start = torch.ones(200, dtype=torch.float64)
    start[0] = least

    def run(most):
        krylov = Lanczos(Diagonal(values), most, torch.Generator().manual_seed(0))
        return krylov.run(start, lambda seen: len(seen.theta) > 2 and seen.met([-1], 0.01))

    found = run(60)
    assert found.theta[-1] == pytest.approx(1, rel=0.01)
    assert found.product.products < 30
    assert run(found.product.products - 1).met([-1], 0.01)  # what the last product shows is not waited for as long


def test_an_end_that_was_not_reached_is_beyond_what_was_seen():
    draw = np.random.default_rng(1)
    A = draw.standard_normal((150, 400))
    A = A @ A.T / 400
    low, high = np.linalg.eigvalsh(A)[[0, -1]]
    nearer = []
    for seed in range(8):
        found = bowl(A, products=12, samples=0, seed=seed)
        assert not found.converged
        for v, value, residual in (
            (found.vector.numpy(), found.largest, found.largest_residual),
            (found.bottom.numpy(), found.smallest, found.smallest_residual),
        ):
            seen = v @ A @ v
            assert residual == pytest.approx(np.linalg.norm(A @ v - value * v), rel=1e-6)
            assert 0 <= (value - seen) * np.sign(seen - 1) <= 0.11 * residual
            exact = high if seen > 1 else low
            nearer.append(abs(value - exact) < abs(seen - exact))
        assert found.values[0] == found.largest
    assert np.mean(nearer) > 0.9


def test_no_value_is_negative_that_was_not_seen():
    # half of the values are nearly 0: what is seen of the end is so near 0 that beyond it is less
    values = np.concatenate([np.linspace(1e-6, 1e-3, 200), np.linspace(0.1, 1, 200)])
    found, turned = (bowl(np.diag(sign * values), products=30, samples=0, k=1) for sign in (1, -1))
    assert found.smallest_residual > 1e-3
    assert 0 <= found.smallest < 1e-4
    assert -1e-4 < turned.largest <= 0


@pytest.mark.parametrize("chunk", [1024, 40, 7])
def test_a_start_costs_one_gradient_and_lies_with_the_largest(chunk):
    make, loss, rows, lr = PROMISED["mlp"]
    data = rows()
    torch.manual_seed(0)
    model = make()
    descend(model, loss, data, 20, lr)
    whole = Hessian(model, problem_of(model, loss, data)).dense().double()
    _, vectors = torch.linalg.eigh(whole)
    counted = []

    def seen(out, y):
        counted.append(len(y))
        return loss(out, y)

    hessian = Hessian(model, problem_of(model, seen, data), chunk)
    shares = []
    for seed in range(10):
        counted.clear()
        v = hessian.lead(torch.Generator().manual_seed(seed)).double()
        assert sum(counted) == len(data[0])
        assert hessian.products == 0
        shares.append(float((vectors[:, -20:].T @ v).square().sum() / v.square().sum()))
    assert np.mean(shares) > 0.3  # 20 of 610 directions; of a random one, 0.03


def test_a_start_where_no_part_has_a_loss():
    X, y = classes(16)

    def loss(out, y):
        if len(y) < 16:
            raise ValueError("all rows or none")
        return CROSS(out, y)

    found = spectrum(made("tanh"), loss, (X, y), k=1, tolerance=0)
    assert found.largest == pytest.approx(spectrum(made("tanh"), CROSS, (X, y), k=1, tolerance=0).largest, rel=1e-5)
    point = Point(1.0, 2.0)
    flat = Hessian(point, problem_of(point, lambda w, _: 0 * w.sum(), ONE_ROW))
    assert bool(flat.lead(torch.Generator()).isnan().all())


def descend(model, loss, data, steps, lr):
    points = list(model.parameters())
    for _ in range(steps):
        slopes = torch.autograd.grad(loss(model(data[0]), data[1]), points)
        with torch.no_grad():
            for p, g in zip(points, slopes, strict=True):
                p -= lr * g


def test_a_small_negative_value_among_thousands_near_zero_is_found():
    # one of -3e-4 of the largest beside 3000 within 1e-5 of 0
    draw = np.random.default_rng(0)
    values = torch.tensor(np.concatenate([[1, 0.6, 0.3, 0.1, 0.05, -3e-4], 1e-5 * draw.standard_normal(3000)]))
    turn = torch.tensor(draw.standard_normal(len(values)))
    turn /= turn.norm()

    def loss(w, _):  # a reflection of the diagonal
        w = w - 2 * turn * (turn @ w)
        return 0.5 * (values * w * w).sum()

    found = spectrum(Point(*[0.0] * len(values)), loss, ONE_ROW, k=1, samples=0, which="smallest")
    assert found.smallest == pytest.approx(-3e-4, abs=1e-4)
    assert found.products <= 60


def test_the_density_of_known_eigenvalues():
    values = torch.cat([torch.zeros(60, dtype=torch.float64), torch.linspace(1, 2, 30, dtype=torch.float64), torch.tensor([8.0, -1])])
    found = spectrum(Point(*[0.1] * 92), lambda w, _: 0.5 * (values * w * w).sum(), ONE_ROW, k=1, samples=0, density=8).density
    assert found.weights.sum() == pytest.approx(1)
    assert found.share(0.5, 2.5) == pytest.approx(30 / 92, abs=0.08)
    assert float(found.nodes @ found.weights) == pytest.approx(float(values.mean()), abs=0.1)
    grid, height = found.curve()
    assert np.trapezoid(height, grid) == pytest.approx(1, abs=0.01)


# --- sharpness


def companion(kind, h, lr, b, decay=0.0, dampening=0.0):
    """The map of one step of (x, buffer) on h x^2 / 2."""
    if kind == "ema":  # m' = b m + (1 - b) h x, x' = (1 - lr decay) x - lr m'
        return np.array([[1 - lr * decay - lr * (1 - b) * h, -lr * b], [(1 - b) * h, b]])
    heavy = np.array([[0, 0], [(1 - dampening) * (h + decay), b]])
    if kind == "nesterov":  # x' = x - lr (g + b v')
        return np.array([[1 - lr * (h + decay), 0], [0, 0]]) + heavy + np.array([[-lr * b * (h + decay), -lr * b * b], [0, 0]])
    return heavy + np.array([[1 - lr * (1 - dampening) * (h + decay), -lr * b], [0, 0]])


@pytest.mark.parametrize(
    ("name", "config", "kind", "more"),
    [
        ("sgd", {"lr": 0.1}, "heavy", {"b": 0}),
        ("sgd", {"lr": 0.1, "weight_decay": 3.0}, "heavy", {"b": 0, "decay": 3.0}),
        ("momentum", {"lr": 0.1}, "heavy", {"b": 0.9}),
        ("sgd", {"lr": 0.1, "momentum": 0.8, "dampening": 0.5}, "heavy", {"b": 0.8, "dampening": 0.5}),
        ("nesterov", {"lr": 0.1}, "nesterov", {"b": 0.9}),
        ("adam", {"lr": 0.1}, "ema", {"b": 0.9}),
        ("adam", {"lr": 0.1, "beta1": 0.5}, "ema", {"b": 0.5}),
        ("adamw", {"lr": 0.1, "weight_decay": 0.5}, "ema", {"b": 0.9, "decay": 0.5}),
    ],
)
def test_a_bound_is_where_a_step_ceases_to_shrink(name, config, kind, more):
    bound = bears(name, config)
    below, above = (np.abs(np.linalg.eigvals(companion(kind, f * bound, config["lr"], **more))).max() for f in (0.999, 1.001))
    assert below < 1 < above


def test_bounds_as_they_are_published():
    assert bears("adam", {"lr": 1e-3, "beta1": 0.9}) == pytest.approx(38 / 1e-3)
    assert bears("rmsprop", {"lr": 0.1}) == bears("adagrad", {"lr": 0.1}) == pytest.approx(20)
    assert bears("nadam", {"lr": 0.1}, t=1e9) == pytest.approx(2 / (0.1 * (0.9 * 0.1 / 1.9 + 0.1)))
    assert bears("lion", {"lr": 0.1}) is None


@pytest.mark.parametrize("home", [torch.optim, optim], ids=["torch", "thalweg"])
@pytest.mark.parametrize("title", ["Adam", "AdamW", "NAdam", "RMSprop", "Adagrad"])
def test_the_preconditioned_hessian_against_the_dense_one(home, title):
    data = classes()
    model = made("tanh")
    optimizer = getattr(home, title)(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        CROSS(model(data[0]), data[1]).backward()
        optimizer.step()
    found = sharpness(model, CROSS, data, optimizer, products=60, tolerance=1e-4)
    name = {"RMSprop": "square_avg", "Adagrad": "sum"}.get(title, "exp_avg_sq")
    root = torch.cat([optimizer.state[p][name].flatten() for p in model.parameters()])
    root = (root / (1 - 0.999**20 if name == "exp_avg_sq" else 1)).sqrt() + 1e-8
    scale = root.double().rsqrt()
    H = dense(model, CROSS, *data)
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(scale[:, None] * H * scale)[-1]), rel=1e-3)
    assert found.preconditioned
    assert found.ratio == pytest.approx(found.value / found.bound)
    if title == "Adam":  # the mean of gradients is still short
        assert found.bound == pytest.approx(3800 * (1 - 0.9**20))


def test_groups_with_rates_of_their_own():
    # curvatures 1 and 10; at rates 1 and 0.01 what counts is 1 and 0.1
    A = torch.diag(torch.tensor([1.0, 10], dtype=torch.float64))
    model = nn.ParameterList([torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)])
    model.forward = lambda _: torch.cat(list(model))
    groups = [{"params": [model[0]], "lr": 1.0}, {"params": [model[1]], "lr": 0.01}]
    found = sharpness(
        model, None, ONE_ROW, torch.optim.SGD(groups), step=lambda m, _: 0.5 * torch.cat([m[0], m[1]]) @ A @ torch.cat([m[0], m[1]])
    )
    assert (found.value, found.bound, found.stable_rate) == pytest.approx((1, 2, 2))


def test_what_is_not_known_is_said():
    data, model = classes(), made("tanh")
    fresh = sharpness(model, CROSS, data, torch.optim.Adam(model.parameters()))
    assert fresh.bound is None
    assert "is not known" in fresh.text
    assert sharpness(model, CROSS, data, optim.Lion(model.parameters())).bound is None
    assert sharpness(model, CROSS, data, optim.SGD(model.parameters(), lr=0.1, clip_norm=1.0)).bound is None
    assert sharpness(model, CROSS, data, ("momentum", {"lr": 0.1})).bound == pytest.approx(38)
    with pytest.raises(UserError, match="optimizer must be one of torch"):
        sharpness(model, CROSS, data, "sgd")


@pytest.mark.parametrize(("lr", "steps"), [(0.4, 6000), (0.2, 12000)])
def test_the_edge_of_stability(lr, steps):
    # Cohen et al. 2021, appendix: 20 points, Chebyshev's polynomial of degree 4, a net 1-100-1; gradients in closed form
    x = np.linspace(-1, 1, 20)[:, None]
    y = 8 * x**4 - 8 * x**2 + 1
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 100), nn.Tanh(), nn.Linear(100, 1, bias=False)).double()
    nn.init.xavier_uniform_(net[0].weight, gain=1.9)
    nn.init.zeros_(net[0].bias)
    W, b, v = (p.detach().numpy() for p in net.parameters())  # the net's own memory
    half, data = (lambda out, t: 0.5 * (out - t).square().mean()), (torch.from_numpy(x), torch.from_numpy(y))
    losses, ratios, start = [], [], None
    for k in range(steps):
        h = np.tanh(x @ W.T + b)
        r = h @ v.T - y
        losses.append(float((r * r).mean() / 2))
        d = (r @ v) * (1 - h * h) / 20
        v -= lr * (h.T @ r).T / 20
        W -= lr * (x.T @ d).T
        b -= lr * d.sum(0)
        if k + 1 > steps - 1000 and (k + 1) % 250 == 0:
            found = sharpness(net, half, data, torch.optim.SGD(net.parameters(), lr=lr), history=losses, start=start)
            ratios.append(found.ratio)
            start = found.vector
    assert found.bound == pytest.approx(2 / lr)
    assert ratios == pytest.approx([1] * 4, abs=0.05)
    assert np.mean(losses[-steps // 4 :]) < 0.7 * np.mean(losses[steps // 4 : steps // 2])
    assert found.edge
    assert found.rises > 0.1
    assert found.trend == "falls"
    assert "at the edge of stability" in found.text
    # the same sharpness is a failure where the loss grows
    assert not sharpness(net, half, data, torch.optim.SGD(net.parameters(), lr=lr), history=list(1.3 ** np.arange(40))).edge


# --- critical points


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda w: w[0] ** 2 - w[1] ** 2, "saddle"),
        (lambda w: w[0] ** 2 + 3 * w[1] ** 2, "minimum"),
        (lambda w: -(w[0] ** 2) - w[1] ** 2, "maximum"),
        (lambda w: w[0] ** 2 + 0 * w[1], "minimum"),
        (lambda w: (w**4).sum(), "flat"),
        (lambda w: w[0] ** 2 + 0.01 * w[1], "not critical"),
    ],
)
def test_kinds_of_critical_points(function, kind):
    model = Point(0.0, 0.0)
    found = critical_point(model, lambda w, _: function(w), ONE_ROW)
    assert found.kind == kind
    assert (found.escape is not None) == (found.smallest < -1e-3)
    assert kind in found.text
    if found.escape is not None:
        with torch.no_grad():
            assert function(0.1 * found.escape) < function(model.w)


def newton(model, loss, data, steps=30):
    """Down to where round-off ends it: damped by what is left of the gradient."""
    problem = problem_of(model, loss, data)
    for _ in range(steps):
        hessian = Hessian(model, problem)
        g, H = hessian.gradient(), hessian.dense()
        values, vectors = torch.linalg.eigh(H)
        step = vectors @ ((vectors.T @ g) / (values.abs() + float(g.norm())).clamp(min=1e-9))
        with torch.no_grad():
            for p, part in zip(model.parameters(), step.split([p.numel() for p in model.parameters()]), strict=True):
                p -= part.view_as(p)


def test_a_trained_net_with_flat_directions_is_a_minimum_and_not_before():
    # 3 rows, 31 weights, one unit dead: most directions are flat where the loss is 0
    X, y = torch.tensor([[0.0, 1], [1, 0], [1, 1]], dtype=torch.float64), torch.tensor([[1.0], [-1], [0.5]], dtype=torch.float64)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    nn.init.zeros_(net[2].weight[:, 0])
    early = critical_point(net, MSE, (X, y))
    assert early.kind == "not critical"
    newton(net, MSE, (X, y), 60)
    found = critical_point(net, MSE, (X, y))
    assert (found.kind, found.strict, found.escape) == ("minimum", False, None)
    assert "flat" not in found.kind


def test_softmax_regression_at_its_optimum_is_a_minimum_in_single_precision():
    X, y = classes(200)
    y = torch.where(torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.3, (y + 1) % 3, y)  # so that it is finite
    model = nn.Linear(8, 3)
    twin = copy.deepcopy(model).double()
    newton(twin, CROSS, (X.double(), y), 20)
    model.load_state_dict(twin.state_dict())
    found = critical_point(model, CROSS, (X, y))
    assert (found.kind, found.strict) == ("minimum", False)  # a constant added to all scores changes nothing


def test_a_symmetric_net_at_zero_is_a_saddle_whose_escape_lowers_the_loss():
    data = (torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [-1.0]]))
    net = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Tanh(), nn.Linear(3, 1, bias=False))
    for p in net.parameters():
        nn.init.zeros_(p)
    found = critical_point(net, MSE, data)
    assert found.kind == "saddle"
    before = MSE(net(data[0]), data[1])
    with torch.no_grad():
        for p, part in zip(net.parameters(), found.escape.split([3, 3]), strict=True):
            p += 0.1 * part.view_as(p)
    assert MSE(net(data[0]), data[1]) < before


# --- conditioning, noise, gap, order, gradcheck


def test_conditioning_by_hand():
    # 1/2 mean (x w)^2 with second moments 9 and 1
    X = torch.tensor([[3.0, 1], [-3, 1]])
    found = conditioning(nn.Linear(2, 1, bias=False), lambda out, y: 0.5 * (out - y).square().mean(), (X, torch.zeros(2, 1)))
    assert (found.number, found.stable_rate, found.best_rate) == pytest.approx((9, 2 / 9, 0.2))
    assert (found.best_momentum, found.rate_with_momentum) == pytest.approx((0.25, 0.25))
    assert found.exact
    assert found.badly_scaled == ()
    part = conditioning(made("tanh"), CROSS, classes(), exact=1)
    assert not part.exact
    assert math.isnan(part.number) or part.number > 1


def test_conditioning_of_advertising(data_folder):
    problem = tw.problem("advertising-linear", all_rows=True, data=data_folder)
    found = conditioning(problem.model(), problem)
    X = torch.cat([torch.ones(200, 1), problem.train[0]], 1).double()
    exact = np.linalg.eigvalsh(2 * (X.T @ X).numpy() / 200)
    assert found.number == pytest.approx(exact[-1] / exact[0], rel=1e-6)
    assert 1.5e5 < found.number < 2.5e5
    assert found.stable_rate == pytest.approx(2 / exact[-1], rel=1e-6)
    assert found.badly_scaled == ("TV", "newspaper", "radio")
    assert found.standardized_number < 3
    assert "TV (mean 147, deviation 85.6)" in found.text
    standard = tw.problem("advertising-linear", all_rows=True, standardize=True, data=data_folder)
    assert conditioning(standard.model(), standard).badly_scaled == ()


def test_rates_of_conditioning_are_those_of_descent():
    values = torch.tensor([1.0, 4, 25], dtype=torch.float64)
    found = conditioning(Point(1.0, 1.0, 1.0), lambda w, _: 0.5 * (values * w * w).sum(), ONE_ROW)
    rate, b = found.rate_with_momentum, found.best_momentum
    worst = max(np.abs(np.linalg.eigvals(companion("heavy", float(h), rate, b))).max() for h in values)
    assert worst == pytest.approx(math.sqrt(b), rel=1e-6)
    assert max(abs(1 - found.best_rate * float(h)) for h in values) == pytest.approx((25 - 1) / (25 + 1))


def test_the_noise_scale_of_a_regression_with_known_noise():
    # gradients -(y - w x) x with x of signs: slope noise of deviation s about d: scale s^2 / d^2 per weight
    draw = torch.Generator().manual_seed(0)
    n, d, s = 40_000, 4, 2.0
    X = torch.randn(n, d, generator=draw).sign()
    y = X @ torch.full((d, 1), 0.5) + s * torch.randn(n, 1, generator=draw)
    model = nn.Linear(d, 1, bias=False)
    nn.init.zeros_(model.weight)
    # g = -(x.w* + e) x: mean -w*, |G|^2 = 1, covariance: w*w*' off the diagonal and (1 + s^2) - 1/4 on it; trace 4 (1 + s^2 - 1/4)
    exact = d * (1 + s * s - 0.25)
    found = noise(model, lambda out, t: 0.5 * (out - t).square().mean(), (X, y), batch_size=19, most=n)
    assert found.scale == pytest.approx(exact, abs=4 * found.error)
    assert found.error < 0.2 * exact
    assert found.critical_batch == found.scale
    assert found.share == pytest.approx(0.5, abs=0.05)
    spread = [noise(model, lambda out, t: 0.5 * (out - t).square().mean(), (X, y), most=4096, seed=k) for k in range(12)]
    z = [(one.scale - exact) / one.error for one in spread]
    assert np.abs(np.mean(z)) < 1
    assert 0.4 < np.std(z) < 2


def test_gaps_of_every_kind():
    falling = list(np.geomspace(2, 0.1, 20))
    assert gap({"train_loss": falling, "valid_loss": [v + 0.1 for v in falling]}).kind == "fine"
    over = gap(pd.DataFrame({"step": range(20), "loss": falling, "valid_loss": [*falling[:10], *np.linspace(0.6, 1.2, 10)]}))
    assert (over.kind, over.best) == ("overfitting", 9)
    assert gap({"train_loss": [2, 1.9, 1.85], "valid_loss": [2, 1.95, 1.9]}).kind == "underfitting"
    assert gap({"train_accuracy": [0.1, 0.99], "valid_accuracy": [0.1, 0.5]}, metric="accuracy").kind == "overfitting"
    assert gap([{"train_loss": 1.0, "valid_loss": 1.0}]).kind == "unknown"
    assert gap({"train_loss": [1, 0.5, math.nan], "valid_loss": [1, 0.5, math.nan]}).kind == "unknown"
    with pytest.raises(UserError, match="needs train_loss and valid_loss; it has loss"):
        gap([1.0, 0.5])


def test_orders_of_descent_and_newton():
    x, errors = 3.0, []
    for _ in range(8):  # Newton on cosh(x / 2): x - 2 tanh(x / 2) is x^3 / 12 for small x
        errors.append(abs(x))
        x -= 2 * math.tanh(x / 2)
    assert order(errors).order == pytest.approx(3, abs=0.1)
    assert order(errors).word == "cubic"
    x, errors = 2.0, []
    for _ in range(8):  # and on the root of x^2 - 2
        errors.append(abs(x - math.sqrt(2)))
        x -= (x * x - 2) / (2 * x)
    assert order(errors).order == pytest.approx(2, abs=0.1)
    assert order([0.6**k for k in range(40)]).order == pytest.approx(1, abs=0.01)
    found = order([*[0.5**k for k in range(30)], 1e-17, 2e-17, 0.0])
    assert found.constant == pytest.approx(0.5, rel=0.01)
    assert math.isnan(order([1.0, 2.0, 3.0]).order)
    with pytest.raises(UserError, match="three errors at least"):
        order([1.0, 0.5])


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return 1.5 * g


def test_gradcheck_names_the_offending_parameter():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 4), nn.Linear(4, 3)

        def forward(self, x):
            return nn.functional.linear(self.first(x).relu(), Wrong.apply(self.second.weight), self.second.bias)

    data = classes()
    found = gradcheck(Net(), CROSS, data)
    assert found.offending == ("second.weight",)
    assert all(gradcheck(made(name), CROSS, data) for name in ("tanh", "relu", "attention"))
    kinked = gradcheck(Point(0.0, 1.0), lambda w, _: w.relu().sum(), ONE_ROW)
    assert kinked
    assert kinked.kinks == ("w[0]",)


# --- the contract of the shelf

GIVEN = {"history": {"loss": [2.0, 1.0], "train_loss": [2.0, 1.0], "valid_loss": [2.0, 1.5]}, "errors": [0.5, 0.25, 0.0625]}
PROBES = catalogue.shelf("probes")
OVER_MODELS = [name for name, one in PROBES.items() if "model" in inspect.signature(one).parameters]


def asked(entry, **given):
    names = inspect.signature(entry).parameters
    needed = {k: v for k, v in {**GIVEN, **given}.items() if k in names and (k in given or names[k].default is inspect.Parameter.empty)}
    return entry(**needed)


def everything(model, optimizer):
    """All that a probe must leave, as bytes and plain values."""

    def plain(value):
        return (value.dtype, value.detach().cpu().numpy().tobytes()) if isinstance(value, torch.Tensor) else value

    return {
        "state": {k: plain(v) for k, v in model.state_dict().items()},
        "slopes": [None if p.grad is None else (id(p.grad), plain(p.grad)) for p in model.parameters()],
        "needs": [p.requires_grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "groups": [{k: plain(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
        "states": [{k: plain(v) for k, v in optimizer.state[p].items()} for p in model.parameters() if p in optimizer.state],
        "random": (torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())),
    }  # fmt: skip


@pytest.mark.parametrize("fails", [False, True], ids=["answers", "raises"])
@pytest.mark.parametrize("name", OVER_MODELS)
def test_a_probe_changes_nothing(name, fails):
    data = classes()
    model = made("norm").train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters())
    CROSS(model(data[0]), data[1]).backward()
    optimizer.step()
    calls = []

    def loss(out, y):
        calls.append(torch.rand(1) + np.random.rand() + random.random())  # the user's own noise
        if fails and len(calls) > 2:
            raise KeyError("the user's own mistake")
        return CROSS(out, y)

    before = everything(model, optimizer)
    try:
        with torch.no_grad():
            asked(PROBES[name], model=model, loss=loss, data=data, optimizer=optimizer)
    except (KeyError, UserError):
        assert fails or name == "gradcheck"  # which tells that the loss draws numbers of its own, or not
    assert calls
    assert everything(model, optimizer) == before


@pytest.mark.parametrize("name", OVER_MODELS)
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"model": nn.Flatten()}, "no parameter"),
        ({"loss": lambda out, y: out}, "number|scalar|shape"),
        ({"loss": lambda out, y: CROSS(out, y) * math.nan}, "nan|finite"),
        ({"data": (torch.zeros(0, 8), torch.zeros(0, dtype=torch.long))}, "no rows"),
        ({"data": None}, "data is missing"),
        ({"loss": None}, "loss is missing"),
        ({"model": abs}, "takes a module"),
    ],
    ids=["no parameters", "not scalar", "not finite", "no rows", "no data", "no loss", "no module"],
)
def test_a_probe_says_what_is_wrong_in_a_sentence(name, broken, words):
    model = made("tanh")
    given = {"model": model, "loss": CROSS, "data": classes(), "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), **broken}
    try:
        asked(PROBES[name], **given)
    except UserError as told:
        assert re.search(words, str(told))
        assert "\n" not in str(told)
    else:
        assert name in ("gradients", "landscape")  # which have something to say of such models too


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_declared_and_described(name):
    assert PROBES[name].shelf == "probes"
    assert PROBES[name].name == name
    assert len(PROBES[name].doc) > 50


def test_untouched_puts_back_what_was_changed():
    model = made("norm")
    optimizer = torch.optim.Adam(model.parameters())
    CROSS(model(classes()[0]), classes()[1]).backward()
    optimizer.step()
    before = everything(model, optimizer)

    def spoil():
        with untouched(model, optimizer):
            model.train(not model.training)
            model[0].bias.requires_grad_(False)
            with torch.no_grad():
                model[0].weight.mul_(2)
                model[1].running_mean.fill_(math.nan)
            optimizer.zero_grad()
            optimizer.param_groups[0]["lr"] = 5.0
            optimizer.state[model[0].weight]["exp_avg"].zero_()
            optimizer.state[model[0].weight]["new"] = 1
            for seed in (torch.manual_seed, np.random.seed, random.seed):
                seed(5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        spoil()
    assert everything(model, optimizer) == before


def test_a_graph_of_the_callers_can_be_walked_after_a_probe():
    data, model = classes(), made("norm").train()
    loss = CROSS(model(data[0]), data[1])
    spectrum(model, CROSS, data, k=1)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
