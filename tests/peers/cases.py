"""Torch's own case data base of optimizers, read for our classes of the same names.

Torch keeps the cases (`torch.testing._internal.common_optimizers`) in its wheel and the tests over them in its repository. The tests of
this folder ask the same in our words: what an input must do or refuse, and that points, states and groups are those of torch's class.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("expecttest", reason="torch's case data base of optimizers cannot be imported without expecttest")

# torch's test utilities forbid the whole process to set torch.backends.*, which other tests may want to; behind this it is as before
with torch.backends.__allow_nonbracketed_mutation():
    from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db

from thalweg import optim

EVERY = "every test"
SKIPS: dict[tuple[str, str], str] = {
    ("SparseAdam", EVERY): "A rule for sparse gradients alone is not among our classes.",
    ("ASGD", "test_zero_gradients_move_nothing"): "Its lambd shrinks the parameters whatever the gradient is; the data base skips it too.",
    (EVERY, "test_loaded_into_another_dtype"): "States keep their type, by design: torch's change it on load, and lose what they held.",
    ("ASGD", "test_default_dtype"): "Torch rounds its rate to bfloat16 where that is the default type; ours stays exact.",
    ("LBFGS", "test_group_rates"): "It takes one parameter group only; the data base skips it too.",
    ("LBFGS", "test_group_decays"): "It takes one parameter group only; the data base skips it too.",
    ("LBFGS", "test_group_added_after_steps"): "It takes one parameter group only.",
    ("LBFGS", "test_several_dtypes"): "It lays all parameters into one vector, of one dtype.",
    ("LBFGS", "test_low_precision"): "Its search overflows float16 to NaN, in torch as well.",
    ("LBFGS", "test_gradients_of_any_layout"): "It flattens gradients by views, which those turned do not allow, in torch as well.",
    ("LBFGS", "test_layout_of_images"): "It flattens gradients by views, which channels_last does not allow, in torch as well.",
    ("LBFGS", "test_pickled"): "Torch's own loses its list of parameters in a pickle, and takes no step afterwards.",
    ("LBFGS", "test_copies_go_on_by_themselves"): "Torch's own loses its list of parameters in a copy, and takes no step afterwards.",
}
"""(class, test) -> why the one does not take the other.

What torch asks of an accelerator has no counterpart here: capturing in a graph, several devices, tensors of gigabytes, foreach by default.
"""

INFOS: dict[str, OptimizerInfo] = {info.name: info for info in optim_db if (info.name, EVERY) not in SKIPS}

SHAPES = ((4, 3), (5,), (), (2, 3, 2))
MATRICES = ((4, 3), (1, 5), (3, 3))
TOLERANCE = {
    torch.float64: 1e-10, torch.complex128: 1e-10, torch.float32: 1e-5, torch.complex64: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2,
}  # fmt: skip
NUMBERS = 1e-5
"""The tolerance of plain numbers, of which no dtype is known."""


@dataclass(frozen=True, eq=False)
class Case:
    """One input of the data base: a class by its name, and what it is constructed with."""

    info: OptimizerInfo
    words: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def id(self) -> str:
        return f"{self.name}-{re.sub(r'[^a-zA-Z0-9]+', '_', self.words)}"

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]:
        return MATRICES if self.name == "Muon" else SHAPES

    def problem(self, **more: Any) -> Problem:
        return Problem(**({"shapes": self.shapes, "trained": not self.options.get("differentiable")} | more))

    def ours(self, params: Any, **more: Any) -> torch.optim.Optimizer:
        return getattr(optim, self.name)(params, **(deepcopy(self.options) | more))

    def torchs(self, params: Any, **more: Any) -> torch.optim.Optimizer:
        return self.info.optim_cls(params, **(deepcopy(self.options) | more))

    @property
    def tolerance(self) -> dict[torch.dtype, float]:
        """How near two ways to the same points come. Foreach of torch's ASGD leaves its loop at 1e-8; a rate in float32 rounds there."""
        loose = (self.name == "ASGD" and self.options.get("foreach")) or isinstance(self.options.get("lr"), Tensor)
        return TOLERANCE | ({torch.float64: 1e-6, torch.complex128: 1e-6} if loose else {})

    def takes(self, option: str) -> bool:
        return option in inspect.signature(self.info.optim_cls).parameters

    @property
    def varies(self) -> bool:
        told = {"amsgrad", "momentum", "centered", "decoupled_weight_decay", "initial_accumulator_value", "line_search_fn"}
        return bool(told & set(self.options)) or isinstance(self.options.get("lr"), Tensor)

    def default(self, option: str) -> Any:
        return self.options.get(option, inspect.signature(self.info.optim_cls).parameters[option].default)


def flags(info: OptimizerInfo) -> list[str]:
    """Those of foreach, fused, differentiable that the class has on a CPU."""
    return [flag for flag in info.supported_impls if flag != "fused" or "cpu" in info.supports_fused_on]


def inputs(info: OptimizerInfo, device: str = "cpu") -> list[Case]:
    """The inputs that the data base has for the class; a search is cut short, which saves half the time of all of the tests."""
    short = {"max_iter": 6} if info.step_requires_closure else {}
    return [Case(info, each.desc, dict(each.kwargs) | short) for each in info.optim_inputs_func(device)]


def flagged(case: Case, without: Iterable[str] = ()) -> list[Case]:
    """The case with each flag of its class in turn."""
    return [Case(case.info, f"{case.words}, {flag}", case.options | {flag: True}) for flag in flags(case.info) if flag not in without]


INPUTS = [case for info in INFOS.values() for case in inputs(info)]
FLAGGED = [flag for case in INPUTS for flag in flagged(case)]
DEFAULTS = [case for case in INPUTS if case.words == "default"]
PLAIN = [*DEFAULTS, *(flag for case in DEFAULTS for flag in flagged(case, without=["differentiable"]))]
"""Each class with nothing but at most a flag."""
VARIED = [case for case in INPUTS if case in DEFAULTS or case.varies]
"""Each class with nothing, and the inputs by which it keeps other states, or has a rate that is a tensor."""
FEWER = [*VARIED, *(flag for case in DEFAULTS for flag in flagged(case))]
"""The varied, and each flag of a class with nothing else."""

REALS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def over(cases: Iterable[Case]) -> Callable:
    """Gives a test the cases one by one, as `case`; those in SKIPS are skipped."""

    def decorate(test: Callable) -> Callable:
        params = []
        for case in cases:
            reason = SKIPS.get((case.name, test.__name__)) or SKIPS.get((EVERY, test.__name__))
            params.append(pytest.param(case, id=case.id, marks=[pytest.mark.skip(reason=reason)] if reason else []))
        return pytest.mark.parametrize("case", params)(test)

    return decorate


def as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def blank(shape: Sequence[int], dtype: torch.dtype, device: str = "cpu") -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


class Problem:
    """Parameters and a convex loss, the same for the same shapes; a rule that goes downhill does so from the first step.

    make: (shape, dtype) -> an empty tensor of any layout to hold a parameter. trained: whether the parameters require gradients;
    a differentiable step is not for such.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]] = SHAPES,
        dtype: torch.dtype | Sequence[torch.dtype] = torch.float32,
        make: Callable[[Sequence[int], torch.dtype], Tensor] = blank,
        trained: bool = True,
    ):
        dtypes = [dtype] * len(shapes) if isinstance(dtype, torch.dtype) else dtype
        reals = [(*shape, 2) if each.is_complex else tuple(shape) for shape, each in zip(shapes, dtypes, strict=True)]
        self.sizes = [math.prod(real) for real in reals]
        generator = torch.Generator().manual_seed(7)
        start, far, weight = torch.rand(3, sum(self.sizes), dtype=torch.float64, generator=generator)
        self.centres = (1 + far) * (1 - 2 * torch.randint(2, far.shape, generator=generator))
        self.weights = 0.5 + weight
        self.params: list[Tensor] = []
        for shape, each, real, piece in zip(shapes, dtypes, reals, start.split(self.sizes), strict=True):
            param = make(shape, each)
            as_real(param).copy_(0.5 * piece.view(real) - 0.25)
            self.params.append(nn.Parameter(param) if trained else param)

    def loss(self) -> Tensor:
        """The loss, after its gradients are written into `grad`."""
        away = torch.cat([as_real(param.detach()).reshape(-1).double().cpu() for param in self.params]) - self.centres
        square = away * away
        slopes = self.weights * away * (1 + square / 10)
        for param, slope in zip(self.params, slopes.split(self.sizes), strict=True):
            if param.is_complex():
                slope = torch.view_as_complex(slope.view(-1, 2))
            param.grad = slope.view(param.shape).to(param.device, param.dtype, copy=True)
        return torch.dot(self.weights * square, 0.5 + square / 40)

    def points(self) -> list[Tensor]:
        return [param.detach().clone() for param in self.params]


def named(optimizer: torch.optim.Optimizer) -> OptimizerInfo:
    return INFOS[type(optimizer).__name__]


def play(optimizer: torch.optim.Optimizer, problem: Problem, steps: int | None = None, closure: bool = False) -> list[list[Tensor]]:
    """Steps: the points after each. closure: the step evaluates the loss itself, as it always does for rules that must."""
    if steps is None:
        steps = 2 if named(optimizer).step_requires_closure else 4

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        return problem.loss()

    points = []
    for _ in range(steps):
        if closure or named(optimizer).step_requires_closure:
            optimizer.step(evaluate)
        else:
            evaluate()
            optimizer.step()
        points.append(problem.points())
    return points


def step(optimizer: torch.optim.Optimizer) -> Any:
    """A step on the gradients that are there."""
    return optimizer.step(*([lambda: torch.tensor(1.0)] if named(optimizer).step_requires_closure else []))


def advance(schedulers: Iterable[Any], loss: float = 1.0) -> None:
    """A step of each; the one that watches a loss is shown it."""
    for scheduler in schedulers:
        scheduler.step(*([loss] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else []))


def states(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The state of every parameter, in their order; nothing for one that has none."""
    params = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    return [dict(optimizer.state[param]) if param in optimizer.state else {} for param in params]


def groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The groups without their parameters."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def same(ours: Any, theirs: Any, tolerance: Mapping[torch.dtype, float] | float = TOLERANCE, where: str = "") -> None:
    """Asserts the same structure and numbers; tensors of the same dtype; ours may have keys beside theirs. tolerance: by dtype, or one."""
    if isinstance(theirs, Tensor):
        assert isinstance(ours, Tensor), f"{where} is a tensor"
        close = tolerance.get(theirs.dtype, 0.0) if isinstance(tolerance, Mapping) else tolerance
        ours, theirs = ours.detach(), theirs.detach()
        alike = ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.device == theirs.device
        if alike and torch.allclose(ours, theirs, rtol=close, atol=close, equal_nan=True):  # many times quicker than what follows
            return
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close, equal_nan=True, msg=lambda text: f"{where}: {text}")
    elif isinstance(theirs, Mapping):
        assert set(theirs) <= set(ours), f"{where} lacks {set(theirs) - set(ours)}"
        for key, value in theirs.items():
            same(ours[key], value, tolerance, f"{where}.{key}")
    elif isinstance(theirs, list | tuple):
        assert type(ours) is type(theirs), f"{where} is a {type(theirs).__name__}"
        assert len(ours) == len(theirs), f"{where} has {len(theirs)} entries"
        for k, value in enumerate(theirs):
            same(ours[k], value, tolerance, f"{where}[{k}]")
    elif isinstance(theirs, int | float) and isinstance(ours, int | float):
        close = NUMBERS if isinstance(tolerance, Mapping) else tolerance
        assert math.isclose(ours, theirs, rel_tol=close, abs_tol=close), f"{where}: {ours} is not {theirs}"
    else:
        assert ours == theirs, f"{where}: {ours} is not {theirs}"


def both(case: Case, do: Callable[[torch.optim.Optimizer, Problem], Any] = play, **problem: Any) -> None:
    """Asserts that `do` gives the same with our class and with torch's, and leaves the points and states that torch's leaves."""
    seen = []
    for make in (case.ours, case.torchs):
        sample = case.problem(**problem)
        optimizer = make(sample.params)
        found = do(optimizer, sample)
        seen.append({"found": found, "points": sample.points(), "states": states(optimizer)})
    same(*seen, case.tolerance)
