"""The probes against dense Hessians, torch's own, and numbers worked by hand; and what they leave as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.utils.data import TensorDataset

from thalweg import Problem, UserError
from thalweg.probes import spectrum

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
    assert bowl(np.diag([2.0, 2, 2, 1, 1]), k=1, samples=0).products < 5


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
    found = [bowl(A, k=1, samples=8, seed=seed) for seed in range(20)]
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
