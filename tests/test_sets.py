"""Sets: the contract of the shelf. A projection is known by its variational inequality, and a set by being there."""

import doctest
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from thalweg import sets
from thalweg.core.catalogue import shelf
from thalweg.core.convex import convex_set
from thalweg.errors import UserError

SETS = shelf("sets")
A = [[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, 2.0]]
MADE = {
    "affine": sets.affine(A, [1.0, 0.5]),
    "birkhoff": sets.birkhoff(),
    "box": sets.box([-1.0, 0.0, -math.inf, 0.5], [1.0, math.inf, 0.0, 0.5]),
    "half_space": sets.half_space([1.0, -2.0, 0.5, 0.0], 0.3),
    "hyperplane": sets.hyperplane([1.0, -2.0, 0.5, 0.0], 0.3),
    "intersection": sets.intersection(
        sets.box(-1.0, 1.0), sets.half_space([1.0, 1.0, 1.0, 1.0], 0.5), sets.hyperplane([1.0, -1.0, 0.0, 0.0])
    ),
    "l1_ball": sets.l1_ball(1.5),
    "l2_ball": sets.l2_ball(1.5, center=[1.0, 0.0, 0.0, 0.0]),
    "linf_ball": sets.linf_ball(0.7),
    "psd_cone": sets.psd_cone(),
    "second_order_cone": sets.second_order_cone(),
    "simplex": sets.simplex(2.0),
}
WORKED = {
    "simplex sum=1": sets.simplex(),
    "l1 ball r=1": sets.l1_ball(),
    "l2 ball r=2": sets.l2_ball(2.0),
    "linf ball r=1": sets.linf_ball(),
    "box [0,1]^3": sets.box(0, 1),
    "half-space (1,2).x<=1": sets.half_space([1, 2], 1),
    "affine x1+x2+x3=1": sets.affine([[1, 1, 1]], 1),
    "PSD cone": sets.psd_cone(),
    "second-order cone |x|<=t": sets.second_order_cone(),
    "Birkhoff 2x2": sets.birkhoff(),
}


def draws(made, seed, count=8, dtype=torch.float64):
    """Random points of every size: (count, 4), or (count, 4, 4) where points are matrices."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *[4] * made.axes)
    scale = 10.0 ** torch.randint(-3, 3, (count, *[1] * made.axes), generator=generator)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def inner(made, a, b):
    return (a * b).flatten(-made.axes).sum(-1)


def test_names():
    assert set(MADE) <= set(SETS), "a set has left the shelf"
    assert set(SETS) == set(MADE), "a new set needs an example here, and is then tested"


@pytest.mark.parametrize("name", SETS)
def test_contract(name):
    entry = SETS[name]
    assert (entry.shelf, entry.name) == ("sets", name)
    assert entry.doc
    result = doctest.testmod(sys.modules[entry.__module__])
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("name", MADE)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=5, deadline=None)
def test_projection(name, seed):
    """In the set, and left as it is; the nearest point by the variational inequality (x - p) . (y - p) <= 0; nonexpansive; batched."""
    made = MADE[name]
    x = draws(made, seed)
    p = made.project(x)
    size = 1 + x.abs().max().item()
    assert made.contains(p, 1e-11 * size).all()
    assert (made.project(p) - p).abs().max() <= 1e-11 * size
    members = made.project(draws(made, seed + 1))
    step = x - p
    for member in members:
        assert (inner(made, step, member - p) <= 1e-10 * size * size).all()
    q = made.project(draws(made, seed + 2))
    moved = draws(made, seed + 2) - x
    assert (inner(made, q - p, q - p).sqrt() <= inner(made, moved, moved).sqrt() + 1e-10 * size).all()
    distance = made.distance(x)
    assert distance.shape == (8,)
    torch.testing.assert_close(distance, inner(made, step, step).sqrt(), atol=1e-12 * size, rtol=1e-9)
    assert (made.contains(x, 1e-9) == (distance <= 1e-9 * inner(made, x, x).sqrt().clamp(min=1))).all() or made.parts
    torch.testing.assert_close(made.project(x[3]), p[3], atol=1e-11 * size, rtol=1e-11)
    torch.testing.assert_close(made.project(x.reshape(2, 4, *x.shape[1:])).reshape(x.shape), p, atol=1e-11 * size, rtol=1e-11)


@pytest.mark.parametrize("name", MADE)
def test_single_precision(name):
    made = MADE[name]
    x = draws(made, 5, dtype=torch.float32)
    p = made.project(x)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, made.project(x.double()).float(), atol=2e-5 * float(x.abs().max()), rtol=1e-4)
    assert made.contains(p).all()


@pytest.mark.parametrize("name", MADE)
def test_derivative(name):
    """Autograd's derivative against differences, at points that are no kinks: random ones."""
    made = MADE[name]
    x = torch.randn(2, *[4] * made.axes, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(made.project, x, atol=1e-6)
    each = [torch.func.jacrev(made.project)(row) for row in x.detach()]
    torch.testing.assert_close(each[1], torch.autograd.functional.jacobian(made.project, x.detach()[1]))


@pytest.mark.parametrize(
    ("made", "x"),
    [
        (sets.l2_ball(), [0.0, 0.0]),
        (sets.second_order_cone(), [0.0, 0.0, 1.0]),
        (sets.second_order_cone(), [0.0, 0.0, 0.0]),
        (sets.second_order_cone(), [0.0, 0.0, -1.0]),
        (sets.simplex(), [0.0, 0.0, 0.0]),
        (sets.l1_ball(), [0.0, 0.0]),
        (sets.psd_cone(), [[1.0, 0.0], [0.0, 1.0]]),
        (sets.psd_cone(), [[0.0, 0.0], [0.0, 0.0]]),
        (sets.birkhoff(), [[0.5, 0.5], [0.5, 0.5]]),
    ],
    ids=str,
)
def test_derivative_where_norms_and_eigenvalues_coincide(made, x):
    J = torch.func.jacrev(made.project)(torch.tensor(x, dtype=torch.float64))
    assert J.isfinite().all()
    assert torch.linalg.matrix_norm(J.reshape(J.shape[0] ** made.axes, -1), 2) <= 1 + 1e-12


@pytest.mark.parametrize("name", WORKED)
def test_worked_projections(name):
    folder = Path(os.environ.get("THALWEG_SHARED") or Path(__file__).parents[2] / "shared")
    file = folder / "data" / "minimize_problems.json"
    if not file.is_file():
        pytest.skip(f"{file} is not there; name the folder with data/minimize_problems.json in THALWEG_SHARED")
    worked = {row["set"]: row for row in json.loads(file.read_text(encoding="utf-8"))["projections"]}
    assert set(worked) == set(WORKED)
    torch.testing.assert_close(
        WORKED[name].project(worked[name]["x"]), torch.tensor(worked[name]["p"], dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_intersection_against_scipy():
    made, x = MADE["intersection"], draws(MADE["intersection"], 1)
    for row, p in zip(x, made.project(x), strict=True):
        if row.abs().max() > 50:
            continue
        constraints = [
            {"type": "ineq", "fun": lambda y: 0.5 - y.sum(), "jac": lambda y: -1.0 + 0 * y},
            {"type": "eq", "fun": lambda y: y[0] - y[1], "jac": lambda y: [1.0, -1.0, 0.0, 0.0]},
        ]
        target = row.numpy()
        found = minimize(
            lambda y, t: ((y - t) ** 2).sum() / 2, 0 * target, (target,), "SLSQP", lambda y, t: y - t,
            bounds=[(-1, 1)] * 4, constraints=constraints, options={"ftol": 1e-14, "maxiter": 300},
        )  # fmt: skip
        torch.testing.assert_close(p, torch.from_numpy(found.x), atol=1e-6, rtol=0)


def test_intersections_with_known_answers():
    simplex = sets.intersection(sets.box(0, 1e9), sets.hyperplane([1.0] * 4, 2.0))
    x = draws(simplex, 2)
    torch.testing.assert_close(simplex.project(x), sets.simplex(2.0).project(x), atol=1e-9, rtol=0)
    one = sets.intersection(sets.l2_ball())
    torch.testing.assert_close(one.project([3.0, 4.0]), sets.l2_ball().project([3.0, 4.0]))
    # tangent at the answer, where plain rounds hardly move
    tangent = sets.intersection(sets.box(0, 1), sets.l2_ball())
    torch.testing.assert_close(tangent.project([3.0, -2.0]), torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-9, rtol=0)
    # the ball's own projection is the answer, and the box all but touches
    x = torch.tensor([0.0049, 2.4], dtype=torch.float64)
    torch.testing.assert_close(tangent.project(x), x / x.norm(), atol=1e-14, rtol=0)
    matrices = sets.intersection(sets.psd_cone(), sets.box(-1, 1))
    assert matrices.axes == 2
    assert matrices.contains(torch.eye(2)).item() is True
    torch.testing.assert_close(matrices.project([[3.0, 0.0], [0.0, -3.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64))


def test_large_numbers_keep_their_digits():
    torch.testing.assert_close(sets.l2_ball().project([3e200, 4e200]), torch.tensor([0.6, 0.8], dtype=torch.float64))
    assert sets.simplex().project([1e15, 1e15 - 1, 0.0]).tolist() == [1.0, 0.0, 0.0]
    big = 1e6 * torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = sets.birkhoff().project(big)
    assert (p.sum(0) - 1).abs().max() < 1e-14
    assert set(p.flatten().tolist()) == {0.0, 1.0}  # a permutation: the assignment of the largest sum


def test_numbers_and_whole_numbers_are_taken():
    assert sets.box(0, 1).project([2, -1]).dtype == torch.float64
    assert sets.box(0, 1).project(torch.tensor([2, -1])).tolist() == [1.0, 0.0]
    assert str(sets.l2_ball(2)) == "l2_ball(radius=2, center=0)"
    assert str(sets.intersection(sets.box(0, 1), sets.simplex())) == "intersection(box(low=0, high=1), simplex(radius=1))"


def test_union():
    both = sets.union(sets.box(0, 1), sets.box(2, 3))
    assert both.contains([[0.5], [1.5], [2.5]]).tolist() == [True, False, True]
    assert both.distance([[1.25]]).tolist() == [0.25]


def test_a_set_of_ones_own():
    @convex_set
    def ray():
        return lambda x: x.clamp(min=0)

    assert ray().project([-1.0, 2.0]).tolist() == [0.0, 2.0]
    assert ray().proved is False
    assert sets.intersection(ray(), sets.box(0, 1)).proved is False
    assert sets.intersection(sets.l2_ball(), sets.box(0, 1)).proved is True


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sets.box(1.0, 0.0), "low = 1 is above high = 0, so the box is empty"),
        (lambda: sets.box([0.0, 2.0], 1.0), "low = 2 is above high = 1 in coordinate 1"),
        (lambda: sets.box(math.inf, math.inf), "the box is empty"),
        (lambda: sets.box([0.0, 0.0], [1.0, 1.0, 1.0]), r"low has shape \(2,\) and high \(3,\)"),
        (lambda: sets.box(float("nan")), "box: low = nan must be numbers, not nan"),
        (lambda: sets.box("wide"), "box: low = 'wide' must be numbers"),
        (lambda: sets.simplex(radius=0.0), r"simplex: radius = 0 is outside \(0, inf\)"),
        (lambda: sets.l2_ball(-1.0), r"l2_ball: radius = -1 is outside"),
        (lambda: sets.simplex(raduis=1.0), "simplex: got an unexpected keyword argument 'raduis'; it takes radius"),
        (lambda: sets.half_space([0.0, 0.0], 1.0), "must be a vector that is not zero"),
        (lambda: sets.hyperplane([1.0, math.inf]), "must be finite"),
        (lambda: sets.affine([[1.0, 1.0], [1.0, 1.0]], [0.0, 1.0]), "contradict each other"),
        (lambda: sets.affine([1.0, 1.0]), r"give A \(m, n\) and b \(m,\)"),
        (lambda: sets.intersection(), "takes one or more sets"),
        (lambda: sets.intersection(1.0), "takes one or more sets"),
        (lambda: sets.intersection(sets.box(0, 1), sets.half_space([1.0, 1.0], -0.1)).project([0.5, 0.5]), "have no common point within"),
        (lambda: sets.simplex().project(1.0), r"x has shape \(\)"),
        (lambda: sets.psd_cone().project([1.0]), "matrices"),
        (lambda: sets.psd_cone().project([[1.0, 2.0]]), r"x has shape \(1, 2\)"),
        (lambda: sets.birkhoff().project([[1.0, 2.0]]), r"shape \(1, 2\)"),
        (lambda: sets.half_space([1.0, 2.0]).project([1.0, 2.0, 3.0]), r"cannot take points of shape \(3,\)"),
        (lambda: sets.box([0.0, 0.0], 1.0).project([1.0]), r"points of shape \(2,\), and x has shape \(1,\)"),
    ],
)
def test_errors_in_words(call, words):
    with pytest.raises(UserError, match=words):
        call()
