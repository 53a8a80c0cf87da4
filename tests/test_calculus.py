"""Calculus: products and Jacobians, the two recursions against torch.func, gradient checks, the expected step, convexity, the docs page."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from thalweg import calculus, sets
from thalweg.calculus import Layer, Progressive, gradcheck, is_convex, jacobian, kron, vec
from thalweg.core.problem import Problem
from thalweg.datasets import advertising
from thalweg.errors import UserError

PAGE = (Path(__file__).parents[1] / "docs" / "calculus.md").read_text(encoding="utf-8")


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the page and the documented examples


def test_the_page_runs_as_it_is_written():
    names: dict = {}
    runner = doctest.DocTestRunner(verbose=False)
    said = []
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S):
        example = doctest.DocTestParser().get_doctest(block, names, "calculus.md", "calculus.md", None)
        assert example.examples
        runner.run(example, out=said.append, clear_globs=False)
        names = example.globs
    assert runner.tries > 60
    assert not runner.failures, "".join(said)


@pytest.mark.parametrize("name", [info.name for info in pkgutil.iter_modules(calculus.__path__)])
def test_documented_examples(name):
    result = doctest.testmod(importlib.import_module(f"thalweg.calculus.{name}"))
    assert not result.failed


@pytest.mark.parametrize("printed", ["(6, −20)", "0.0525", "b = 0.3", "lower right block", "−11/6", "(Jᵀ J)⁻¹", "10,000 epochs"])
def test_every_misprint_is_on_the_page(printed):
    assert printed in PAGE


def test_the_moments_on_the_page_are_those_of_the_data(data_folder):
    table = advertising(data_folder)
    X, y = torch.cat([torch.ones(200, 1), table.X], 1).double(), table.y.double()
    C, c = X.T @ X / 200, X.T @ y / 200
    printed = [
        float(n) for n in re.findall(r"-?\d+\.?\d*", PAGE[PAGE.index(">>> C = double") : PAGE.index(">>> def error(w)")].replace("...", ""))
    ]
    torch.testing.assert_close(torch.cat([C.flatten(), c, (y @ y / 200).reshape(1)]), double(*printed), rtol=1e-9, atol=1e-9)


# --- matrices


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_vec_and_kron(m, n, p, q):
    X, Y, Z = random(m, n, seed=1), random(n, p, seed=2), random(p, q, seed=3)
    torch.testing.assert_close(vec(X @ Y @ Z), kron(Z.T, X) @ vec(Y))
    assert kron(X, Y).T.equal(kron(X.T, Y.T))
    np.testing.assert_array_equal(kron(X, Y).numpy(), np.kron(X.numpy(), Y.numpy()))
    np.testing.assert_array_equal(vec(X).numpy(), X.numpy().flatten(order="F"))
    assert calculus.unvec(vec(X), (m, n)).equal(X)
    torch.testing.assert_close(jacobian(lambda Y: X @ Y @ Z, Y), kron(Z.T, X))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: vec(torch.zeros(2, 2, 2)), "flatten it yourself"),
        (lambda: calculus.hadamard(torch.zeros(2, 1), torch.zeros(2)), "one shape"),
        (lambda: kron(torch.zeros(1, 1, 1), torch.zeros(1)), "two matrices or vectors"),
        (lambda: calculus.unvec(torch.zeros(3), (2, 2)), "do not fill"),
        (lambda: jacobian(torch.exp, torch.tensor([1, 2])), "tensor of floats"),
        (lambda: jacobian(lambda x: 1.0, torch.zeros(2)), "must give a tensor"),
        (lambda: calculus.chain(torch.zeros(2)), "one or more functions"),
        (lambda: Progressive([], torch.sum), "one or more layers"),
        (lambda: Progressive([Layer(torch.mul, torch.zeros(2, 2))], torch.sum), "must be a vector of floats"),
        (lambda: Progressive.of(nn.Linear(2, 2), torch.sum), "takes an nn.Sequential"),
    ],
)
def test_errors_in_words(call, words):
    with pytest.raises(UserError, match=words):
        call()


# --- forward and reverse


def progressive(depth, seed):
    """A random progressive function and a point for it: matrices, products number by number, and layers without weights."""
    generator = torch.Generator().manual_seed(seed)
    width = int(torch.randint(1, 5, (), generator=generator))
    x, layers = torch.randn(width, generator=generator, dtype=torch.float64), []
    for _ in range(depth):
        out = int(torch.randint(1, 5, (), generator=generator))
        kind = int(torch.randint(4, (), generator=generator))
        if kind == 0:
            layers.append(Layer(lambda z, w: torch.tanh(z), torch.zeros(0, dtype=torch.float64)))
            continue
        if kind == 1:
            layers.append(Layer(lambda z, w: torch.sin(w * z) + z, torch.randn(width, generator=generator, dtype=torch.float64)))
            continue
        weights = torch.randn(out * width, generator=generator, dtype=torch.float64)
        function = (lambda z, w, n=out: torch.sigmoid(w.reshape(n, -1) @ z)) if kind == 2 else (lambda z, w, n=out: w.reshape(n, -1) @ z**2)
        layers.append(Layer(function, weights))
        width = out
    return Progressive(layers, lambda z: (z**3).sum() + z.prod()), x


@given(st.integers(1, 6), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_both_recursions_equal_torch_and_their_products_the_formulas(depth, seed):
    f, x = progressive(depth, seed)

    def whole(*weights):
        z = x
        for layer, w in zip(f.layers, weights, strict=True):
            z = layer.function(z, w)
        return f.loss(z)

    weights = [layer.weights for layer in f.layers]
    expected = torch.cat(torch.func.grad(whole, argnums=tuple(range(depth)))(*weights))
    forward, reverse = f.forward(x), f.reverse(x)
    scale = 1 + float(expected.abs().max()) if expected.numel() else 1.0
    for sweep in (forward, reverse):
        torch.testing.assert_close(torch.cat(sweep.gradient) / scale, expected / scale, rtol=0, atol=1e-12)
        assert sweep.value == whole(*weights)
        assert [g.shape for g in sweep.gradient] == [w.shape for w in weights]
    k, last = [len(w) for w in weights], depth - 1
    assert forward.products == {"A": sum((last - j) * k[j] for j in range(last)), "J": 1}
    assert reverse.products == {"A": last, "B": sum(n > 0 for n in k)}
    assert (forward.A[0], reverse.A[0], reverse.p[0]) == (None, None, None)


def test_the_first_layers_jacobian_is_never_asked_for():
    """x are words, which have no derivative."""
    words = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(0), nn.Linear(6, 1))
    f, x = Progressive.of(words, torch.sum), torch.tensor([2, 5])
    words.double()(x).sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in words.parameters()])
    for sweep in (f.forward(x), f.reverse(x)):
        torch.testing.assert_close(torch.cat(sweep.gradient), expected, rtol=0, atol=1e-14)


def test_an_affine_layer_has_a_kronecker_product():
    linear, z = nn.Linear(3, 2, bias=False).double(), random(3)
    layer = Progressive.of(nn.Sequential(linear), torch.sum).layers[0]
    assert layer.weights.equal(vec(linear.weight.detach().T))
    torch.testing.assert_close(layer.A(z), linear.weight.detach())
    torch.testing.assert_close(layer.B(z), kron(torch.eye(2, dtype=torch.float64), z.reshape(1, 3)))


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_backpropagation_of_an_mlp(depth):
    torch.manual_seed(depth)
    hidden = [part for _ in range(depth) for part in (nn.Linear(4, 4), nn.ReLU())]
    model, x, target = nn.Sequential(*hidden, nn.Linear(4, 3)), random(4), torch.tensor(1)
    sweep = Progressive.of(model, lambda z: functional.cross_entropy(z, target)).reverse(x.float())
    functional.cross_entropy(model.double()(x.float().double()), target).backward()
    torch.testing.assert_close(torch.cat(sweep.gradient), torch.cat([p.grad.reshape(-1) for p in model.parameters()]), rtol=0, atol=1e-12)
    assert len(sweep.rows()) == len(model) + 1
    assert "matrix-vector products" in sweep.table()


# --- three ways


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: torch.exp(-(x**2) / 2) / (1 + x), 1.5),
        (lambda x: torch.sqrt(torch.log(3 - x)) - torch.square(x), 0.5),
        (lambda x: 2 / x + torch.sigmoid(x) * torch.tanh(-x), -1.5),
        (lambda x: torch.sin(x[0] * x[1]) ** 3 + x[2] - 1, [0.3, 2.0, 1.0]),
        (lambda x: x[0] * 0 + 4 - torch.cos(x[1]), [0.3, 2.0]),
    ],
)
def test_all_ways_agree(f, x):
    ways = {way.way: way for way in calculus.compare_derivatives(f, x).ways}
    assert set(ways) == {"automatic", "symbolic", "forward differences", "central differences"}
    assert ways["symbolic"].error < 1e-13
    assert ways["forward differences"].error < 1e-6
    assert ways["central differences"].error < 1e-8


def test_a_formula_that_swells_is_counted_and_not_written():
    def iterated(x):
        for _ in range(40):
            x = 4 * x * (1 - x)
        return x

    symbolic = calculus.compare_derivatives(iterated, 0.3).ways[1]
    assert "17" in symbolic.cost
    assert int(symbolic.cost.split()[0]) > 1e13
    assert symbolic.note == ""


def test_what_has_no_formula_says_so():
    comparison = calculus.compare_derivatives(torch.lgamma, 2.5)
    assert comparison.ways[1].gradient is None
    assert "does not know torch's lgamma" in str(comparison)
    with pytest.raises(UserError, match="up to 26"):
        calculus.compare_derivatives(torch.sum, torch.zeros(3, 3))
    with pytest.raises(UserError, match="must make one number"):
        calculus.compare_derivatives(torch.exp, [1.0, 2.0])


# --- gradient check


class WrongSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, g):
        return g * 2.001 * ctx.saved_tensors[0]


RIGHT = {
    "cubes": (lambda x: (x**3).sum(), [0.0, 1e-9, 1e5]),
    "oscillation": (lambda x: (100 * x).sin().sum(), [1e-7, 2.0, 300.0]),
    "single precision inside": (lambda x: x.float().sin().sum(), [0.3, 2.0, -1.0]),
    "near the edge": (lambda x: x.sqrt().sum(), [1e-7, 2.0]),
    "large and small": (lambda x: x[0] * 1e8 + x[1] * 1e-3, [1.0, 1.0]),
    "constant in one": (lambda x: x[0] + 0 * x[1], [1.0, 1.0]),
}


@pytest.mark.parametrize("differences", ["central", "forward"])
@pytest.mark.parametrize("name", RIGHT)
def test_right_gradients(name, differences):
    f, x = RIGHT[name]
    check = gradcheck(f, double(*x), differences=differences)
    assert check.ok, str(check)
    assert not check.kinks


@pytest.mark.parametrize("differences", ["central", "forward"])
def test_wrong_gradients(differences):
    check = gradcheck(lambda x: WrongSquare.apply(x).sum(), double(1, 2, 0), differences=differences)
    assert not check
    assert [c.verdict for c in check.coordinates] == ["wrong", "wrong", "right"]
    assert check.worst.error == pytest.approx(5e-4, rel=1e-2)
    assert "wrong" in str(check)
    detached = gradcheck(lambda v: (v["a"] * v["b"].detach()).sum(), {"a": double(1, 2), "b": double(3)}, differences=differences)
    assert detached.offending == ("b",)
    pair = gradcheck(lambda v: v[0].sum() * v[1].detach().sum(), (double(1), double([2, 3])), differences=differences)
    assert pair.offending == ("x[1]",)
    assert pair.worst.where in ("x[1][0, 0]", "x[1][0, 1]")


@pytest.mark.parametrize(
    ("f", "x", "gradient", "verdict"),
    [
        (lambda x: x.abs().sum(), 0.0, None, "kink"),
        (lambda x: x.relu().sum(), 0.0, [0.7], "kink"),
        (lambda x: x.relu().sum(), 0.0, [1.3], "wrong"),
        (lambda x: x.relu().sum(), 0.0, [-0.3], "wrong"),
        (lambda x: (x * x.abs()).sum(), 0.0, None, "right"),  # only the second derivative jumps
        (lambda x: (1e4 * x**2).sum(), 0.0, None, "right"),  # curved, no kink
        (lambda x: x.sqrt().sum(), 0.0, None, "not finite"),
    ],
)
def test_kinks(f, x, gradient, verdict):
    check = gradcheck(f, double(x), gradient=gradient and (lambda x: double(*gradient)))
    assert check.coordinates[0].verdict == verdict
    assert bool(check) == (verdict in ("right", "kink"))
    assert check.kinks == (("x[0]",) if verdict == "kink" else ())


def test_a_given_gradient_in_any_form():
    assert gradcheck(lambda v: v["a"].sum() * v["b"], {"a": double(1, 2), "b": double(3)[0]}, gradient=lambda v: {"a": [3, 3], "b": 3.0})
    assert gradcheck(lambda v: v[0] @ v[1], (double(1, 2), double(3, 4)), gradient=lambda v: (v[1], v[0]))
    with pytest.raises(UserError, match=r"gradient= gives x of shape \(2,\); it must have the form of x, there \(3,\)"):
        gradcheck(torch.sum, double(1, 2, 3), gradient=lambda x: double(1, 1))


def test_modules_and_problems():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    data = torch.randn(8, 3), torch.randint(2, (8,))
    check = gradcheck(model, data, loss=functional.cross_entropy, coordinates=5)
    assert check.ok, str(check)
    assert {c.parameter for c in check.coordinates} == {name for name, _ in model.named_parameters()}
    assert sum("random direction" in c.where for c in check.coordinates) == 5  # where there are more than 5 numbers
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.good, self.bad = nn.Linear(3, 2), nn.Linear(2, 1)

        def forward(self, x):
            return functional.linear(self.good(x), self.bad.weight.detach(), self.bad.bias)

    pair = torch.randn(8, 3), torch.randn(8, 1)
    assert gradcheck(Cut(), pair, loss=functional.mse_loss).offending == ("bad.weight",)

    class Counting(nn.Module):
        """Its output depends on how often it was called; a check begins anew every time."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.calls * self.layer(x)

    assert gradcheck(Counting(), pair, loss=functional.mse_loss)
    problem = Problem(model=lambda: nn.Linear(3, 1), loss=functional.mse_loss, train=pair)
    assert gradcheck(problem)
    assert calculus.check_object(problem, differences="forward").ok


def test_inexact_values_are_said():
    check = gradcheck(lambda x: 1e12 + x.sin().sum(), double(0.3, 2))
    assert "cannot be seen" in str(check)
    assert check.resolution > 0.01


def test_the_callers_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    gradcheck(lambda x: (x * torch.rand(2)).sum(), double(1, 2))
    assert torch.rand(2).equal(expected)


def test_the_command_finds_a_point():
    def f(x=(1.0, 2.0)):
        return x.square().sum()

    f.__defaults__ = (double(1, 2),)
    assert calculus.check_object(f).ok
    assert calculus.check_object(f, at="[3, 4, 5]").coordinates[2].analytic == 10
    assert calculus.check_object((torch.sum, double(1))).ok
    assert calculus.check_object((nn.Linear(1, 1), (double([1]), double([2])), functional.mse_loss)).ok
    with pytest.raises(UserError, match="needs a point"):
        calculus.check_object(lambda x: x.sum())
    with pytest.raises(UserError, match="must be a number or numbers"):
        calculus.check_object(f, at="here")
    with pytest.raises(UserError, match="a module alone has no data"):
        calculus.check_object(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gradcheck(torch.exp, double(1, 2)), "give one number"),
        (lambda: gradcheck(lambda x: x.sum().item(), double(1, 2)), "not connected with x"),
        (lambda: gradcheck(torch.sum, torch.tensor([1, 2])), "x has dtype int64"),
        (lambda: gradcheck(torch.sum, double(float("nan"))), "not finite"),
        (lambda: gradcheck(lambda x: x.log().sum(), double(-1)), "give a point where it is finite"),
        (lambda: gradcheck(torch.sum, None), "x is NoneType"),
        (lambda: gradcheck(torch.sum, double()), "no numbers"),
        (lambda: gradcheck(3.0, double(1)), "a function, a module or a Problem"),
        (lambda: gradcheck(torch.sum, double(1), differences="centrl"), "did you mean 'central'"),
        (lambda: gradcheck(torch.sum, double(1), h=-1.0), "h = -1.0 must be a positive number"),
        (lambda: gradcheck(torch.sum, double(1), coordinates=0), "coordinates = 0"),
        (lambda: gradcheck(torch.sum, double(1), loss=torch.sum), "loss= is for a module"),
        (lambda: gradcheck(nn.Linear(1, 1), double(1)), "a module needs a loss"),
        (lambda: gradcheck(nn.Linear(1, 1), double(1), loss=torch.sum), "a pair"),
        (lambda: gradcheck(nn.ReLU(), (1, 2), loss=torch.sub), "no parameters"),
        (lambda: gradcheck(lambda x, seen=[0]: x.sum() + (seen.append(0) or len(seen)), double(1)), "different values at the same point"),
        (lambda: calculus.differences(torch.sum, [1.0], kind="backward"), "no kind of differences"),
    ],
)
def test_gradcheck_errors_in_words(call, words):
    with pytest.raises(UserError, match=words):
        call()


# --- the expected step


@pytest.mark.parametrize("size", [1, 3, 4, 12])
def test_the_expected_step_is_the_full_gradient(size):
    torch.manual_seed(size)
    data = torch.randn(12, 3), torch.randint(2, (12,))
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    check = calculus.expected_step(model, size, loss=functional.cross_entropy, data=data)
    assert check
    assert check.error < 1e-14
    assert check.short < 1e-14  # every batch is whole
    assert check.batches == 12 // size
    assert (check.spread == 0 or check.spread < 1e-15) == (size == 12)


def test_what_is_no_mean_over_rows():
    torch.manual_seed(0)
    data = torch.randn(10, 3), torch.randn(10, 1)
    short = calculus.expected_step(nn.Linear(3, 1), 4, loss=functional.mse_loss, data=data)
    assert short
    assert short.short > 1e-3
    assert "short last one" in str(short)
    normed = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    check = calculus.expected_step(normed, 5, loss=functional.mse_loss, data=data)
    assert not check
    assert "batch normalisation" in str(check)
    problem = Problem(model=lambda: nn.Linear(3, 1), loss=functional.mse_loss, train=data)
    assert calculus.expected_step(problem, 5)
    with pytest.raises(UserError, match="batch_size = 11 must be between"):
        calculus.expected_step(problem, 11)
    with pytest.raises(UserError, match="takes a Problem, or a module"):
        calculus.expected_step(nn.Linear(3, 1), 5)


# --- convexity

CONVEX = {
    "norm": (lambda x: x.abs().sum(), [0.0, 1.0]),
    "-log": (lambda x: -x.log().sum(), [1.0, 2.0]),
    "logsumexp": (lambda x: x.logsumexp(0), [1.0, 2.0, 3.0]),
    "linear": (lambda x: 3 * x[0] - x[1], [1e8, 1.0]),
    "large square": (lambda x: 1e10 * x.square().sum() + 1, [0.0, 0.0]),
    "maximum": (lambda x: x.amax(), [0.0, 0.0, 1.0]),
}
NOT_CONVEX = {
    "saddle": (lambda x: x[0] ** 2 - x[1] ** 2, [0.0, 0.0]),
    "sine": (lambda x: x.sin().sum(), [0.5]),
    "slight well": (lambda x: x[0] ** 4 - 1e-3 * x[0] ** 2, [0.0]),
    "root": (lambda x: x.abs().sqrt().sum(), [1.0]),
    "stairs": (lambda x: x.floor().sum(), [1.0]),
    "rosenbrock": (lambda x: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2, [1.0, 1.0]),
    "product": (lambda x: x[0] * x[1], [0.0, 0.0]),
    # far from x it is a bowl: the Hessian at x tells
    "narrow": (lambda x: x.square().sum() + 1e-5 * torch.exp(-1e6 * x.square().sum()), [0.0, 0.0]),
}


@pytest.mark.parametrize("name", CONVEX)
def test_convex_functions(name):
    f, x = CONVEX[name]
    answer = is_convex(f, x)
    assert answer
    assert not answer.proved
    assert "Jensen" in str(answer)
    assert "no proof" in str(answer)


@pytest.mark.parametrize("name", NOT_CONVEX)
def test_functions_that_are_not_convex_and_the_witness(name):
    f, x = NOT_CONVEX[name]
    answer = is_convex(f, x)
    assert not answer
    w = answer.witness
    torch.testing.assert_close(w.point, w.a + w.t * (w.b - w.a))
    assert float(f(w.point)) == w.value
    assert w.value > (1 - w.t) * float(f(w.a)) + w.t * float(f(w.b))
    assert "above" in str(answer)


def test_the_hessian_finds_what_random_points_miss():
    f, x = NOT_CONVEX["narrow"]
    assert is_convex(f, x).witness.kind == "the Hessian's smallest eigenvalue"


def test_convexity_within_a_set():
    assert not is_convex(lambda x: x[0] ** 3, [1.0])
    assert is_convex(lambda x: x[0] ** 3, [1.0], within=sets.box(0.0, 100.0))
    # bent down on so thin a strip at the edge that the curvature there is only borne out by points outside
    assert is_convex(lambda x: (x[0] - 1e-9) ** 3, [0.0], within=sets.box(0.0, 100.0))
    witness = is_convex(lambda x: x[0] * x[1], [1.0, 1.0], within=sets.box(0.0, 10.0)).witness
    assert sets.box(0.0, 10.0).contains(torch.stack([witness.a, witness.b, witness.point])).all()


SHAPES = {
    "union": sets.union(sets.box(0, 1), sets.box(2, 3)),
    "ring": lambda x: bool(0.25 <= x.square().sum() <= 1),
    "disc": lambda x: x.square().sum() <= 1,
    "overlapping": sets.union(sets.box(0, 2), sets.box(1, 3)),
    "simplex": sets.simplex(),
    "intersection": sets.intersection(sets.box(0, 1), sets.l2_ball(1.0)),
}


@pytest.mark.parametrize(
    ("name", "expected"), [("union", False), ("ring", False), ("disc", True), ("simplex", True), ("intersection", True)]
)
def test_convex_sets(name, expected):
    made = SHAPES[name]
    answer = is_convex(made, [0.4, 0.4])
    assert bool(answer) is expected
    assert answer.proved == (name in ("simplex", "intersection"))
    member = made.contains if hasattr(made, "contains") else made
    if not expected:
        w = answer.witness
        assert [bool(member(p)) for p in (w.a, w.b, w.point)] == [True, True, False]
        torch.testing.assert_close(w.point, w.a + w.t * (w.b - w.a))
        assert "not" in str(answer)


def test_a_projection_onto_a_sphere_is_found_out():
    from thalweg.core.convex import convex_set

    @convex_set
    def sphere():
        return lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)

    assert not is_convex(sphere(), [1.0, 2.0])
    assert is_convex(sets.union(sets.box(0, 2), sets.box([1.0], [3.0])), [0.5])  # a union may be convex: nothing is found against it


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: is_convex(torch.exp, [1.0, 2.0]), r"f gives a tensor of shape \(2,\)"),
        (lambda: is_convex(3, [1.0]), "takes a function or a set, not int"),
        (lambda: is_convex(torch.sum, [float("inf")]), "not finite"),
        (lambda: is_convex(torch.sum, [1.0], samples=1), "samples = 1"),
        (lambda: is_convex(lambda x: x.sum() / 0 * 0, [1.0]), "finite at fewer than two"),
        (lambda: is_convex(lambda x: x.sum() > 1e9, [1.0]), "0 of 3000 points"),
    ],
)
def test_convexity_errors_in_words(call, words):
    with pytest.raises(UserError, match=words):
        call()
