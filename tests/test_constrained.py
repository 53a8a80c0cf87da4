"""Minimisation under constraints: the solutions of the problem file, multipliers, verdicts, counts beside scipy's, errors in words."""

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from thalweg import sets
from thalweg.errors import UserError
from thalweg.solve.certificate import certify
from thalweg.solve.minimize import minimize
from thalweg.solve.quadratic import Rows, quadratic
from thalweg.solve.result import CONVEX, INFEASIBLE, LIMIT, NECESSARY, NON_FINITE, SADDLE, STRICT, UNBOUNDED, UNQUALIFIED

METHODS = ("auto", "sqp", "augmented", "penalty")
NAMES = tuple(f"HS{k}" for k in (5, 6, 7, 10, 13, 14, 15, 26, 28, 33, 35, 39, 43, 71, 76, 80, 112))
WORDS = {k: getattr(torch, k) for k in ("exp", "log", "sin", "cos", "sqrt", "atan2")} | {"sum": sum, "range": range, "pi": math.pi}


def t(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


def square(x):
    return (x * x).sum()


class Problem:
    """A problem of the file: fun, start, the constraints as `minimize` takes them, and the multipliers at the solution."""

    def __init__(self, entry):
        self.entry, self.n, self.value = entry, entry["n"], entry["f_star"]
        self.fun, self.start = self.read(entry["f"]), t(*entry["x0"])
        parts = {"equality": [self.read(e) for e in entry["h_eq_0"]], "inequality": [self.read(e) for e in entry["c_le_0"]]}
        self.low, self.high = ([sign * math.inf if v is None else v for v in entry[key]] for key, sign in (("lb", -1), ("ub", 1)))
        self.constraints = {k: v for k, v in parts.items() if v}
        if np.isfinite(self.low + self.high).any():
            self.constraints["bounds"] = t(*self.low), t(*self.high)

    def read(self, text):
        code, names = compile(text, "problem", "eval"), {**WORDS, **(self.entry["data"] or {}), "n": self.entry["n"]}
        return lambda x: eval(code, {**names, "x": x})

    @property
    def multipliers(self):
        found = {"equality": np.array(self.entry["lambda_eq"]), "inequality": np.zeros(len(self.entry["c_le_0"]))}
        found |= {"lower": np.zeros(self.n), "upper": np.zeros(self.n)}
        for key, value in self.entry["mu_active"].items():
            kind, place = re.fullmatch(r"(c|lb|ub)(\d+)", key).groups()
            found[{"c": "inequality", "lb": "lower", "ub": "upper"}[kind]][int(place)] = value
        return found

    def solve(self, method="auto", dtype=torch.float64, **more):
        return minimize(self.fun, self.start.to(dtype), method=method, **self.constraints, **more)


@pytest.fixture(scope="module")
def problems(data_folder):
    file = data_folder / "minimize_problems.json"
    if not file.is_file():
        pytest.skip(f"{file.name} is not among the data files")
    return {entry["id"]: Problem(entry) for entry in json.loads(file.read_text(encoding="utf-8"))["constrained"]}


@pytest.fixture(scope="module")
def runs(problems):
    return {name: problem.solve() for name, problem in problems.items()}


# --- solutions


@pytest.mark.parametrize("name", NAMES)
def test_values_multipliers_and_verdicts_of_the_problem_file(problems, runs, name):
    problem, result = problems[name], runs[name]
    assert result.status == {"HS13": UNQUALIFIED, "HS26": NECESSARY}.get(name, STRICT)
    loose = 1e-5 if name == "HS13" else 1e-8
    assert abs(result.value - problem.value) <= loose * max(1.0, abs(problem.value))
    if name != "HS13":
        for kind, expected in problem.multipliers.items():
            found = result.multipliers[kind].numpy() if len(result.multipliers[kind]) else np.zeros(len(expected))
            assert np.abs(found - expected).max(initial=0.0) <= 1e-6 * max(1.0, np.abs(expected).max(initial=0.0))


def slsqp(problem):
    def both(fun, sign=1.0):
        def slope(x):
            leaf = t(*x).requires_grad_()
            return sign * torch.autograd.grad(fun(leaf), leaf)[0].numpy()

        return lambda x: sign * float(fun(t(*x))), slope

    value, gradient = both(problem.fun)
    conditions = []
    for kind, name, sign in (("equality", "eq", 1.0), ("inequality", "ineq", -1.0)):
        for part in problem.constraints.get(kind, []):
            conditions.append(dict(zip(("type", "fun", "jac"), (name, *both(part, sign)), strict=True)))
    limits = list(zip(problem.low, problem.high, strict=True)) if "bounds" in problem.constraints else None
    return optimize.minimize(value, problem.start.numpy(), jac=gradient, method="SLSQP", bounds=limits, constraints=conditions)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_more_than_twice_the_evaluations_of_slsqp(problems, runs):
    for name, problem in problems.items():
        peer = slsqp(problem)
        if abs(peer.fun - problem.value) <= 1e-5 * max(1.0, abs(problem.value)):  # it ends elsewhere on HS33
            assert runs[name].evaluations.cost(problem.n) <= 2 * peer.nfev, name


@pytest.mark.parametrize("method", ["augmented", "penalty"])
@pytest.mark.parametrize("name", ["HS7", "HS14", "HS33", "HS35", "HS71"])
def test_other_methods_end_at_the_same_solutions(problems, name, method):
    problem = problems[name]
    result = problem.solve(method)
    assert result.status == STRICT
    assert abs(result.value - problem.value) <= 1e-8 * max(1.0, abs(problem.value))


@pytest.mark.parametrize("method", ["sqp", "penalty"])
@pytest.mark.parametrize("name", ["HS5", "HS6", "HS10", "HS14", "HS26", "HS39", "HS76"])
def test_no_false_success_in_single_precision(problems, name, method):
    problem = problems[name]
    result = problem.solve(method, torch.float32)
    assert result.success
    assert certify(problem.fun, result.x.double(), tol=2e-3, **problem.constraints).success


@pytest.mark.parametrize("name", ["HS7", "HS14", "HS35", "HS43", "HS80"])
def test_an_independent_certificate_agrees(problems, runs, name):
    found = certify(problems[name].fun, runs[name].x, **problems[name].constraints)
    assert found.status == runs[name].status
    for kind, y in runs[name].multipliers.items():
        assert torch.allclose(found.multipliers[kind], y, atol=1e-6)


# --- verdicts


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", METHODS)
def test_constraints_that_exclude_each_other_are_missed_least(method, dtype):
    result = minimize(square, t(0.3, dtype=dtype), inequality=lambda x: torch.cat([1 - x, x]), method=method)
    assert result.status == INFEASIBLE
    assert result.x.item() == pytest.approx(0.5, abs=1e-5)
    assert result.certificate.violation == pytest.approx(0.5, abs=1e-5)
    assert "near by no point misses less" in result.message


@pytest.mark.parametrize("method", METHODS)
def test_an_active_constraint_without_a_multiplier(method):
    result = minimize(lambda x: (x[0] - 1) ** 2, t(0.0), inequality=lambda x: x - 1, method=method)
    assert result.status == STRICT
    assert not result.certificate.strict_complementarity
    assert abs(result.multipliers["inequality"].item()) <= 1e-7


@pytest.mark.parametrize("method", METHODS)
def test_dependent_equalities(method):
    result = minimize(square, t(3.0, 0.0), equality=lambda x: torch.stack([x.sum() - 1, 2 * x.sum() - 2]), method=method)
    assert result.status == STRICT
    assert torch.allclose(result.x, t(0.5, 0.5))
    assert (result.certificate.licq, result.certificate.rank) == (False, 1)
    assert result.multipliers["equality"] @ t(1.0, 2.0) == pytest.approx(-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", METHODS)
def test_a_saddle_under_constraints_is_left(method, dtype):
    given = {"equality": lambda x: x.sum() - 2, "bounds": (0.0, 4.0)}
    product = lambda x: x[0] * x[1]  # noqa: E731
    assert certify(product, t(1.0, 1.0), **given).status == SADDLE
    result = minimize(product, t(1.0, 1.0, dtype=dtype), method=method, **given)
    assert result.status == STRICT
    assert sorted(result.x.tolist()) == [0.0, 2.0]


def test_the_trap_of_problem_33_is_no_minimum(problems):
    problem = problems["HS33"]
    found = certify(problem.fun, t(0.0, 0.0, 2.0), **problem.constraints)
    assert found.status == SADDLE
    assert found.multipliers["inequality"].tolist() == pytest.approx([0.0, 0.25])
    assert found.curvature == pytest.approx(-0.5)
    assert found.escape.abs().tolist() == pytest.approx([0.0, 1.0, 0.0])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "given",
    [{"inequality": lambda x: -x[:1]}, {"equality": lambda x: x[:1] - x[1:]}, {"bounds": (0.0, None)}],
    ids=["inequality", "equality", "bounds"],
)
def test_unbounded(given, method):
    assert minimize(lambda x: -x.sum(), t(0.0, 0.0), method=method, **given).status == UNBOUNDED


def test_a_wall_of_values_that_are_not_finite():
    walled = lambda x: torch.where(x[0] < 1, -x[0], torch.inf) + 0 * x[0]  # noqa: E731
    assert minimize(walled, t(0.0), bounds=(0.0, None)).status in (NON_FINITE, "not stationary")


def test_convexity_limits_and_the_callback():
    line = lambda x: x.sum() - 1  # noqa: E731
    assert minimize(square, t(3.0, 0.0), equality=line, convex=True).status == CONVEX
    far = minimize(lambda x: (x**4).sum() + x[0], t(3.0, 1.0), equality=line, max_iterations=1)
    assert (far.status, far.iterations) == (LIMIT, 1)
    seen = []
    stopped = minimize(square, t(3.0, 0.0), equality=line, callback=lambda row: seen.append(row) or True)
    assert len(seen) == 1
    assert {"iteration", "x", "value", "violation"} <= seen[0].keys()
    assert stopped.status == LIMIT


def test_a_variable_that_its_bounds_fix():
    result = minimize(lambda x: (x[0] - 1) ** 2 + (x[1] - 2) ** 2, t(3.0, 3.0), bounds=(t(0.5, 0.0), t(0.5, 1.0)))
    assert result.status == STRICT
    assert result.x.tolist() == [0.5, 1.0]
    assert result.multipliers["upper"].tolist() == pytest.approx([1.0, 2.0])


# --- methods


def test_the_penaltys_estimates_tend_to_the_multiplier():
    result = minimize(square, t(3.0, 0.0), equality=lambda x: x.sum() - 1, method="penalty")
    rows = [row for row in result.trace if "multipliers" in row]
    errors = [abs(row["multipliers"][0] + 1) for row in rows]  # lambda* = -1, and k h(x_k) = -k / (k + 1)
    assert [row["penalty"] for row in rows] == sorted(row["penalty"] for row in rows)
    assert errors == pytest.approx([1 / (row["penalty"] + 1) for row in rows], rel=1e-4, abs=1e-9)
    assert errors[-1] < 1e-4


def test_the_threshold_of_the_penalty():
    found = certify(lambda x: x[0] * x[1], t(0.0, 0.0), equality=lambda x: x[0] - x[1])
    assert found.penalty_threshold == pytest.approx(0.5)  # [[c, 1 - c], [1 - c, c]] has the eigenvalues 1 and 2 c - 1
    assert found.status == STRICT


@pytest.mark.parametrize("made", [sets.simplex(), sets.l2_ball(0.5), sets.l1_ball(0.7), sets.box(0.1, 0.4)], ids=str)
@pytest.mark.parametrize("method", ["auto", "projected", "augmented"])
def test_within_a_set_the_nearest_point_is_the_projection(made, method):
    aim = t(0.5, 1.2, -0.3)
    result = minimize(lambda x: (x - aim).square().sum() + 0 * x[0] ** 2, t(3.0, 3.0, 3.0), within=made, method=method, convex=True)
    assert result.status == CONVEX
    assert torch.allclose(result.x, made.project(aim), atol=1e-8)


def test_a_set_with_an_equality_and_bounds():
    given = {"within": sets.simplex(), "equality": lambda x: x[0] - 2 * x[1], "bounds": (None, t(9.0, 9.0, 0.1))}
    result = minimize(square, t(0.3, 0.3, 0.4), **given)
    assert result.success
    assert torch.allclose(result.x, t(0.6, 0.3, 0.1), atol=1e-7)
    assert result.multipliers["upper"].shape == (3,)


def test_projected_leaves_a_saddle_inside_the_set():
    result = minimize(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, t(1.0, 0.0), within=sets.l2_ball(3.0))
    assert result.value == pytest.approx(-0.25)
    assert result.status == STRICT


def test_structures_under_constraints():
    start = {"a": t(3.0), "b": t([0.0, 1.0])}
    result = minimize(lambda x: x["a"].square().sum() + x["b"].square().sum(), start, equality=lambda x: x["a"].sum() + x["b"].sum() - 3)
    assert torch.allclose(result.x["b"], t([1.0, 1.0]))


# --- the quadratic program


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 3), st.floats(-1, 4))
def test_the_quadratic_program_satisfies_its_conditions(seed, n, m, power):
    rng = np.random.default_rng(seed)
    M = rng.standard_normal((n, n))
    B, g, J, a = M @ M.T + 0.1 * np.eye(n), rng.standard_normal(n), rng.standard_normal((m, n)), rng.standard_normal(m)
    low = np.where(rng.random(m) < 0.5, -(10.0**power), 0.0)
    below, above = np.where(rng.random(n) < 0.5, -rng.random(n), -np.inf), np.where(rng.random(n) < 0.5, rng.random(n), np.inf)
    rows = Rows.of(J, a, low, np.full(m, 10.0**power), below, above)
    answer = quadratic(B, g, rows)
    y, r = answer.y, rows.a + rows.times(answer.d)
    scale = max(1.0, np.abs(y).max(initial=0.0))
    assert answer.solved
    assert np.abs(g + B @ answer.d + rows.pull(y)).max() <= 1e-6 * scale
    assert ((y >= rows.low) & (y <= rows.high)).all()
    assert (np.maximum(-r, 0) * (y - rows.low)).max(initial=0.0) <= 1e-5 * scale
    priced = np.isfinite(rows.high)
    assert (np.maximum(r, 0)[priced] * (rows.high - y)[priced]).max(initial=0.0) <= 1e-5 * scale
    assert r[~priced].max(initial=0.0) <= 1e-6


# --- errors


def vector(x):
    return x - 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"equality": lambda x: x[None]}, r"equality must return a number or a vector and returned shape \(1, 2\)"),
        ({"inequality": lambda x: x.detach().sum()}, "inequality does not depend on x0 through torch operations; keep .detach"),
        ({"equality": [torch.sum, lambda x: t(1.0)]}, r"equality\[1\] does not depend on x0"),
        ({"equality": lambda x: x / 0}, "equality is not finite at x0"),
        ({"bounds": (2.0, 1.0)}, "bounds exclude each other at place 0: low 2, high 1; exchange or widen them"),
        ({"bounds": (2.0, 3.0), "within": sets.simplex()}, "bounds and within exclude each other: .* widen one of them"),
        ({"bounds": t(0.0, 1.0)}, "bounds must be a pair"),
        ({"within": 3}, "within must be a set with a method project"),
        ({"within": sets.psd_cone()}, "psd_cone"),
        ({"equality": vector, "method": "bfgs"}, "method 'bfgs' is not for problems with equality; take sqp, augmented, penalty, or auto"),
        ({"within": sets.simplex(), "method": "sqp"}, "method 'sqp' is not for problems with within; take projected"),
        ({"equality": vector, "method": "projected"}, "method 'projected' is not for problems with equality"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_and_the_remedy(given, said):
    with pytest.raises(UserError, match=said):
        minimize(square, t(0.5, 0.5), **given)


def test_a_set_and_a_constraint_that_exclude_each_other_are_named():
    result = minimize(square, t(0.5, 0.5), within=sets.simplex(), equality=lambda x: x.sum() - 3)
    assert result.status == INFEASIBLE
    assert re.search(r"within and equality exclude each other.*widen the set simplex\(radius=1\) or change", result.message)


# --- the user's own derivatives


@pytest.mark.parametrize("own_hessian", [False, True])
@pytest.mark.parametrize("method", ["auto", "sqp", "augmented", "penalty"])
@pytest.mark.parametrize(
    ("given", "least"),
    [
        ({}, [0.0, 0.0]),
        ({"equality": lambda x: x["a"] + x["b"] - 1}, [0.25, 0.75]),
        ({"inequality": lambda x: 1 - x["a"] - x["b"]}, [0.25, 0.75]),
        ({"bounds": (0.5, 2.0)}, [0.5, 0.5]),
    ],
)
def test_derivatives_of_the_users_own_need_no_graph(given, least, method, own_hessian):
    if not given:
        method = "auto"

    def fun(x):  # 3 a^2 + b^2, in numpy
        return torch.tensor(3 * float(x["a"].detach()) ** 2 + float(x["b"].detach()) ** 2, dtype=torch.float64)

    def gradient(x):
        return {"a": 6 * x["a"].detach(), "b": 2 * x["b"].detach()}

    if own_hessian:
        given = {**given, "hessian": lambda x: torch.diag(torch.tensor([6.0, 2.0], dtype=torch.float64))}
    start = {"a": torch.tensor(1.0, dtype=torch.float64), "b": torch.tensor(2.0, dtype=torch.float64)}
    result = minimize(fun, start, method=method, gradient=gradient, **given)
    assert result.status == "minimum (strict local)", result.message
    np.testing.assert_allclose([float(result.x["a"]), float(result.x["b"])], least, atol=1e-7)


# --- derivatives of solutions

BOWL = {
    "equality": (lambda a: {"equality": lambda x: x.sum() - a[0] * a[1]}, t(1.0, 2.0)),
    "two equalities": (lambda a: {"equality": [lambda x: x[0] - a[0], lambda x: x[1] * x[2] - a[1]]}, t(1.0, 2.0, 0.3)),
    "inequality": (lambda a: {"inequality": lambda x: square(x) - a[0].sin()}, t(1.0, 2.0)),
    "not active": (lambda a: {"inequality": lambda x: square(x) - 100 - a[0]}, t(1.0, 2.0)),
    "bounds": (lambda a: {"bounds": (0.0, 1.5)}, t(1.0, 2.0)),
    "all": (
        lambda a: {"equality": lambda x: x[0] + x[1] - a[0], "inequality": lambda x: x[2] - a[2], "bounds": (-1.0, 1.5)},
        t(1.0, 2.0, 0.4),
    ),
    "simplex": (lambda a: {"within": sets.simplex()}, t(1.0, 0.8, -2.0)),
    "ball": (lambda a: {"within": sets.l2_ball(1.0)}, t(1.0, 2.0)),
    "box, float32": (lambda a: {"within": sets.box(0.0, 1.5)}, t(1.0, 2.0, dtype=torch.float32)),
}  # fmt: skip


@pytest.mark.parametrize("name", BOWL)
def test_a_solution_carries_gradients(name):
    given, at = BOWL[name]
    single = at.dtype is torch.float32

    def solution(a, **more):
        fun = lambda x: square(x - a) + x.prod() / 3 + x[0] ** 4 / 5  # noqa: E731
        return minimize(fun, torch.full_like(at, 0.3), tol=1e-5 if single else 1e-12, **given(a), **more).x

    a = at.clone().requires_grad_()
    x = solution(a, differentiable=True)
    found = torch.stack([torch.autograd.grad(part, a, retain_graph=True)[0] for part in x])
    h = 1e-2 if single else 1e-5
    expected = torch.stack([(solution(at + h * e) - solution(at - h * e)) / (2 * h) for e in torch.eye(len(at)).to(at)], 1)
    torch.testing.assert_close(x.detach(), solution(at))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-2 if single else 1e-7)
    assert found.abs().max() > 0.01


def test_a_structure_carries_gradients_and_a_weak_constraint_none():
    price = t(2.0).requires_grad_()
    start = {"a": t(0.1), "b": t(0.2, 0.3)}
    fun = lambda x: square(x["a"] - price) + square(x["b"] - price)  # noqa: E731
    x = minimize(fun, start, equality=lambda x: x["a"].sum() + x["b"].sum() - 3, inequality=lambda x: x["a"] - 1, differentiable=True).x
    assert float(x["a"].detach()) == pytest.approx(1)
    (slope,) = torch.autograd.grad(x["b"].sum(), price)
    assert float(slope) == pytest.approx(0, abs=1e-9)  # the sum is given, and a = 1 is where it would be without the inequality


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"within": sets.simplex(), "equality": lambda x: x[0] - 0.2}, "takes within, or functions and bounds, not both"),
        ({"fun": lambda x: float(square(x.detach())), "gradient": lambda x: 2 * x.detach()}, "in torch operations on x"),
    ],
)
def test_what_carries_no_gradient_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        minimize(given.pop("fun", square), t(0.5, 0.5), differentiable=True, **given)
