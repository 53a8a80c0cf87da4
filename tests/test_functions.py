"""Test functions: the contract of the shelf, their minima, and the problems of the data file, formula by formula."""

import doctest
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from thalweg.core.catalogue import shelf
from thalweg.errors import UserError

FUNCTIONS = shelf("functions")
FILED = {
    "MGH1": "rosenbrock", "MGH3": "powell-badly-scaled", "MGH5": "beale", "MGH6": "jennrich-sampson", "MGH7": "helical-valley",
    "MGH8": "bard", "MGH9": "gaussian", "MGH10": "meyer", "MGH13": "powell-singular", "MGH14": "wood", "MGH16": "brown-dennis",
    "MGH20": "watson", "MGH21": "rosenbrock", "MGH23": "penalty", "MGH25": "variably-dimensioned", "MGH26": "trigonometric",
}  # fmt: skip
WORDS = {
    **{name: getattr(np, name) for name in ("exp", "log", "sin", "cos", "sqrt", "pi")}, "atan2": np.arctan2,
    "sum": sum, "range": range, "min": min, "max": max, "prod": math.prod,
}  # fmt: skip


@pytest.fixture(scope="module")
def filed():
    folder = Path(os.environ.get("THALWEG_SHARED") or Path(__file__).parents[2] / "shared")
    path = folder / "data" / "minimize_problems.json"
    if not path.is_file():
        pytest.skip(f"there is no {path}; name the folder with data/minimize_problems.json in THALWEG_SHARED")
    return {problem["id"]: problem for problem in json.loads(path.read_text())["unconstrained"]}


def gradient(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x)[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_contract(name):
    function = FUNCTIONS[name]
    assert (function.shelf, function.name) == ("functions", name)
    assert len(function.doc) > 20
    x = function.start()
    assert x.dtype == torch.float64
    assert x.shape == (function.size,)
    assert function(x).shape == ()
    assert torch.isfinite(gradient(function, x)).all()
    assert function(x.float()).dtype == torch.float32
    lanes = torch.vmap(function)(torch.stack([x, x + 0.125]))
    torch.testing.assert_close(lanes, torch.stack([function(x), function(x + 0.125)]))


@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if function.minimiser() is not None])
def test_the_minimiser_is_one(name):
    function = FUNCTIONS[name]
    x = function.minimiser()
    assert function(x).item() == pytest.approx(function.minimum(), rel=1e-11, abs=1e-18)
    H = torch.autograd.functional.hessian(function, x)
    slack = 1e-14 * H.abs() @ (x.abs() + 1)  # x is rounded
    assert (gradient(function, x).abs() <= slack + 1e-9).all()
    assert torch.linalg.eigvalsh(H)[0] >= -1e-16 * H.abs().max()


@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if function.sizes])
def test_sizes(name):
    function = FUNCTIONS[name]
    n = 2 * function.size
    assert function.start(n).shape == (n,)
    assert torch.isfinite(function(function.start(n)))
    if function.minimiser(n) is not None:
        assert function(function.minimiser(n)).item() == pytest.approx(function.minimum(n), abs=1e-14)


def test_one_size_only():
    with pytest.raises(UserError, match="beale has 2 variables; leave n = 3 out"):
        FUNCTIONS["beale"].start(3)


@pytest.mark.parametrize(("key", "name"), FILED.items())
def test_the_data_files_problems_are_here(filed, key, name):
    problem, function = filed[key], FUNCTIONS[name]
    n = problem["n"] if function.sizes else None
    assert function.start(n).tolist() == pytest.approx(problem["x0"])
    if "verified_stationary_points" in problem:
        values = {point["f"] for point in problem["verified_stationary_points"]}
        assert any(v == pytest.approx(k, rel=1e-14, abs=1e-20) for v in values for k in (function.minimum(n), *function.others))
    code = compile(problem["f"], key, "eval")
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = np.array(problem["x0"]) * (1 + 0.05 * rng.standard_normal(problem["n"])) + 0.01 * rng.standard_normal(problem["n"])
        told = eval(code, {**WORDS, **problem["data"], "n": problem["n"], "x": x, "__builtins__": {}})
        assert function(torch.from_numpy(x)).item() == pytest.approx(told, rel=1e-10)


def test_all_of_the_file(filed):
    assert set(FILED) == set(filed)


def test_documented_examples():
    module = sys.modules["thalweg.core.method"]
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
