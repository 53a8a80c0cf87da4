"""What a gradient is checked of: a function and its arguments, or a module, a loss and data, as one function of named float64 tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from thalweg.core.convex import point
from thalweg.core.problem import Problem, rows, take, tensors
from thalweg.errors import UserError

Named = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Subject:
    """A function of named tensors and the point at which it is looked at. structure: the tensors in the form that the user gave them."""

    function: Callable[[Named], Tensor]
    start: Named
    structure: Callable[[Named], Any]

    def value(self, at: Named, seed: int = 0) -> Tensor:
        """The scalar there. Dropout and the like draw the same numbers every time, and the caller's generator stays as it was."""
        devices = {x.device for x in self.start.values() if x.is_cuda}
        with torch.random.fork_rng(devices=list(devices)):
            # on a processor not by torch.manual_seed, which keeps a note of every call until an accelerator is used
            (torch.manual_seed if devices else torch.default_generator.manual_seed)(seed)
            value = self.function(at)
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value, dtype=torch.float64)
        if value.numel() != 1:
            raise UserError(f"the function gives a tensor of shape {tuple(value.shape)}; give one number, as `.sum()` or `.mean()` does")
        return value.reshape(())

    def gradient(self) -> Named:
        """The gradient by autograd at the start; zeros where the value does not depend on a tensor."""
        leaves = {name: x.clone().requires_grad_() for name, x in self.start.items()}
        value = self.value(leaves)
        if not value.requires_grad:
            raise UserError(
                f"the function's value is not connected with {', '.join(leaves)}: somewhere it leaves torch, or detaches; compute it by "
                "torch's operations, or give gradient="
            )
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return {n: torch.zeros_like(x) if g is None else g.detach() for (n, x), g in zip(leaves.items(), found, strict=True)}


def subject(thing: Any, x: Any, loss: Callable[[Any, Any], Tensor] | None = None) -> Subject:
    """The subject of a check: `gradcheck` and `expected_step` say what it may be."""
    if isinstance(thing, Problem):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = thing.model()
        data = tensors(thing.train) if x is None else x
        batch = take(data, torch.arange(min(rows(data), thing.batch_size or 32))) if x is None else data
        return of_module(module, thing.lose, batch)
    if isinstance(thing, nn.Module):
        if loss is None:
            raise UserError("a module needs a loss: give loss=, a function (output, targets) -> scalar, and x=(inputs, targets)")
        if not isinstance(x, tuple | list) or len(x) != 2:
            raise UserError("with a module, x is its data: a pair (inputs, targets)")
        return of_module(thing, lambda model, batch: loss(model(batch[0]), batch[1]), x)
    if not callable(thing):
        raise UserError(f"a gradient is checked of a function, a module or a Problem, not of {type(thing).__name__}")
    if loss is not None:
        raise UserError("loss= is for a module; of a function, give the function that includes the loss")
    return _of_function(thing, x)


def of_module(module: nn.Module, lose: Callable[[Any, Any], Tensor], batch: Any) -> Subject:
    """A copy of the module in float64 as a function of its parameters, on one batch; buffers start anew at every call."""
    module, batch = copy.deepcopy(module).double(), _double(batch)
    start = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    if not start:
        raise UserError("the module has no parameters with requires_grad, so there is no gradient to look at")

    def function(parameters: Named) -> Tensor:
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        return lose(lambda *inputs: torch.func.functional_call(module, (parameters, buffers), inputs), batch)

    return Subject(function, start, dict)


def _of_function(fun: Callable, x: Any) -> Subject:
    if isinstance(x, Mapping):
        return Subject(fun, _floats(x), dict)
    if isinstance(x, tuple) or (isinstance(x, list) and any(isinstance(part, Tensor) for part in x)):
        named = {f"x[{i}]": part for i, part in enumerate(x)}
        return Subject(lambda at: fun(type(x)(at.values())), _floats(named), lambda at: type(x)(at.values()))
    return Subject(lambda at: fun(at["x"]), _floats({"x": x}), lambda at: at["x"])


def _floats(named: Mapping[str, Any]) -> Named:
    out = {}
    for name, x in named.items():
        if isinstance(x, Tensor) and not x.is_floating_point():
            raise UserError(f"{name} has dtype {str(x.dtype).removeprefix('torch.')}, and a gradient needs floats: write {name}.double()")
        try:
            out[name] = point(x).detach().double().clone()
        except (TypeError, ValueError, RuntimeError):
            raise UserError(f"{name} is {type(x).__name__}; give the point as a tensor, or a tuple or dict of tensors") from None
        if not bool(out[name].isfinite().all()):
            raise UserError(f"{name} has numbers that are not finite; give a point where the function is defined")
    return out


def _double(batch: Any) -> Any:
    return tree_map(lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, batch)
