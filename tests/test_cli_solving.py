"""The commands minimize and gradcheck: what they print, and what they say to nonsense."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from thalweg.cli import commands
from thalweg.errors import UserError

FILE = """
import torch
def valley(x):
    return (x[0] - 3) ** 2 + 10 * (x[1] + x[0]) ** 2
def f(x=torch.tensor([1.0, 2.0], dtype=torch.float64)):
    return (x**3).sum()
class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.square()
    @staticmethod
    def backward(ctx, g):
        return 3 * g
def wrong(x=torch.tensor([1.0, 2.0], dtype=torch.float64)):
    return Wrong.apply(x).sum()
arguments = {"fun": valley, "x0": [1.0, 1.0]}
number = 3
"""


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    return str(tmp_path / "mine.py")


def said(*arguments):
    return CliRunner().invoke(commands, [*map(str, arguments)], catch_exceptions=False)


def test_a_test_function_is_minimised_and_its_certificate_said():
    done = said("minimize", "rosenbrock", "--method", "bfgs")
    assert done.exit_code == 0
    assert "iteration" in done.output
    assert "Minimum (strict local): the gradient vanishes and the Hessian is positive definite" in done.output
    found = json.loads(said("minimize", "rosenbrock", "--size", "4", "--json").output)
    assert found["status"] == "minimum (strict local)"
    assert found["x"] == pytest.approx([1, 1, 1, 1], abs=1e-6)
    assert len(found["trace"]) == found["iterations"] + 1
    assert found["certificate"]["curvature"] > 0


def test_a_function_of_ones_own(mine):
    for arguments in ([f"{mine}:valley", "--start", "-1.2, 1"], [f"{mine}:arguments"]):
        found = json.loads(said("minimize", *arguments, "--json").output)
        assert found["x"] == pytest.approx([3, -3], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rosenbrok"], "no function is called 'rosenbrok'; did you mean 'rosenbrock'"),
        (["FILE:valley"], 'needs a start: give --start "0, 0"'),
        (["FILE:valley", "--start", "a b"], "--start a b must be numbers"),
        (["FILE:number"], "should be a function of a tensor, or a dict of arguments"),
        (["rosenbrock", "--method", "bgfs"], "no method is called 'bgfs'; did you mean 'bfgs'"),
        (["rosenbrock", "--search", "wolf"], "no search is called 'wolf'"),
        (["beale", "--size", "3"], "beale has 2 variables"),
    ],
)
def test_nonsense_is_told(arguments, message, mine):
    with pytest.raises(UserError) as error:
        said("minimize", *(a.replace("FILE", mine) for a in arguments))
    assert message in str(error.value)


def test_a_gradient_is_checked(mine):
    right = said("gradcheck", f"{mine}:f")
    assert right.exit_code == 0
    assert "relative error" in right.output
    wrong = said("gradcheck", f"{mine}:wrong", "--at", "[1, 2]", "--json")
    assert wrong.exit_code == 1
    assert json.loads(wrong.output)["offending"]
    with pytest.raises(UserError, match="names no object"):
        said("gradcheck", "rosenbrock")
