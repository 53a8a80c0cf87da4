"""The user's function as a function of a flat vector: counted values, gradients, Hessians and products, checked in words.

A gradient is taken from the graph that the value at the same point left behind, so a point that a search accepts is
evaluated once. Small problems spend their time in calls: plain `autograd.grad` on a fresh leaf is several times as fast as `torch.func`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from thalweg.errors import UserCodeError, UserError
from thalweg.solve.own import Value
from thalweg.solve.result import Evaluations
from thalweg.solve.variables import Variables, takes_nothing

Array = np.ndarray
FEW = 16
"""Rows of a Hessian up to which a loop is faster than one batched backward pass."""
ROWS = 64
"""Rows that one batched backward pass takes at once: it needs as many times a gradient's memory."""


class Objective:
    """A scalar function of a vector (n,) in float64, whatever the user's function takes.

    gradient, hessian: the user's own, if given; they take what fun takes and return its structure, (n, n) for the Hessian.
    scale: -1 to maximise. Raises UserError, naming the argument, from `check`.
    """

    def __init__(self, fun: Callable[..., Any], variables: Variables, gradient: Any = None, hessian: Any = None, name: str = "fun") -> None:
        for argument, given in ((name, fun), ("gradient", gradient), ("hessian", hessian)):
            if given is not None and not callable(given):
                raise UserError(f"{argument} must be a function of what x0 holds; it is a {type(given).__name__}")
        self.fun, self.own_gradient, self.own_hessian, self.name = fun, gradient, hessian, name
        self.variables, self.n = variables, variables.n
        self.bare = takes_nothing(fun)
        self.plain = variables.plain and not self.bare
        self.f = self.g = self.H = self.products = 0
        self._last: tuple[Array, list[Tensor], Any] | None = None
        self._slope: tuple[Array, list[Tensor], Tensor] | None = None
        self._seen: tuple[Array, float, Array] | None = None

    @property
    def evaluations(self) -> Evaluations:
        return Evaluations(self.f, self.g, self.H, self.products)

    def call(self, argument: Any) -> Any:
        """What the user's function returns."""
        return self.fun() if self.bare else self.fun(argument)

    def on_graph(self, argument: Any) -> Tensor:
        """The value, whose derivatives are the user's own where given: for building other functions, such as a Lagrangian."""
        if self.own_gradient is None:
            return torch.as_tensor(self.call(argument)).reshape(())
        return Value.apply(self, *(self.variables.parameters or tree_leaves(argument)))

    def own_slope(self, x: Array) -> Array:
        """The user's own gradient (n,)."""
        assert self.own_gradient is not None
        return self._given(self.own_gradient(self.variables.close(x)), "gradient")

    def check(self, x: Array) -> tuple[float, Array]:
        """Value and gradient at the start, after looking at all that can be wrong with them."""
        leaves, argument = self.variables.open(x)
        try:
            y = self.call(argument)
        except UserError:
            raise
        except Exception as error:
            raise UserCodeError(f"{self.name} failed at x0: {type(error).__name__}: {error}") from error
        if isinstance(y, int | float) and self.own_gradient is None:
            raise UserError(f"{self.name} returned a Python number, which has no gradient; return a tensor, without .item() or float()")
        given, y = y, torch.as_tensor(y)
        if y.numel() != 1:
            raise UserError(f"{self.name} must return a scalar and returned shape {tuple(y.shape)}; reduce it, such as .sum() or .mean()")
        if not torch.isfinite(y).all():
            raise UserError(f"{self.name} is {y.item():g} at x0; start where it is finite")
        self.f += 1
        if self.own_gradient is None:
            self.g += 1
            found = torch.autograd.grad(y.reshape(()), leaves, allow_unused=True) if y.requires_grad else [None]
            if all(part is None for part in found):
                raise UserError(
                    f"{self.name}'s value does not depend on x0 through torch operations; "
                    "keep .detach(), .item(), .data, numpy and torch.tensor(...) out of it"
                )
            g = self._array(self.variables.flat(found))
        else:
            self._last = (x, leaves, given)
            g = self.gradient(x)
        if not np.isfinite(g).all():
            raise UserError(f"the gradient of {self.name} is not finite at x0 (place {int(np.argmin(np.isfinite(g)))}); start elsewhere")
        return y.item(), g

    def value(self, x: Array) -> float:
        """fun at x, keeping the graph for `gradient`."""
        if self.plain:  # the usual case, at little cost
            argument = torch.from_numpy(x)
            if len(self.variables.shapes[0]) != 1:
                argument = argument.view(self.variables.shapes[0])
            leaves = [argument.requires_grad_()]
            y = self.fun(argument)
        else:
            leaves, argument = self.variables.open(x)
            y = self.call(argument)
        self.f += 1
        self._last, self._slope = (x, leaves, y), None
        return y.item() if isinstance(y, Tensor) else float(y)

    def gradient(self, x: Array) -> Array:
        """(n,), from the value's graph where x is the array it was last taken at."""
        self.g += 1
        if self.own_gradient is not None:
            return self.own_slope(x)
        if self._last is None or self._last[0] is not x:
            self.value(x)
            self.f -= 1
        assert self._last is not None
        _, leaves, y = self._last
        self._last = None
        if self.plain and not y.dim():
            (slope,) = torch.autograd.grad(y, leaves)
            if slope.dim() != 1:
                slope = slope.reshape(-1)
            try:
                return slope.numpy()
            except RuntimeError:  # a lazy zero has no memory of its own
                return slope.numpy(force=True)
        if len(leaves) == 1:
            found = torch.autograd.grad(y.reshape(()), leaves)
        else:
            found = torch.autograd.grad(y.reshape(()), leaves, allow_unused=True)
        return self._array(self.variables.flat(found))

    def both(self, x: Array) -> tuple[float, Array]:
        """Value and gradient."""
        return self.value(x), self.gradient(x)

    def hessian(self, x: Array) -> Array:
        """(n, n), symmetric: n backward passes through the gradient's graph, or differences of gradients where there is none."""
        self.H += 1
        if self.own_hessian is not None:
            return self._given(self.own_hessian(self.variables.close(x)), "hessian", (self.n, self.n))
        try:
            leaves, g = self._graph(x)
            rows = pull_back(self.variables, leaves, g) if g.requires_grad else np.zeros((self.n, self.n))
        except (RuntimeError, NotImplementedError):  # an operation without a second derivative
            self._seen = None
            rows = self._differences(x)
        self._slope = None
        return (rows + rows.T) / 2

    def all(self, x: Array) -> tuple[float, Array, Array]:
        """Value, gradient and Hessian, of one graph where the derivatives are autograd's."""
        if self.own_gradient is not None or self.own_hessian is not None:
            return *self.both(x), self.hessian(x)
        self.f += 1
        self.g += 1
        H = self.hessian(x)
        if self._seen is None or self._seen[0] is not x:  # the Hessian had to be differences
            self.f, self.g = self.f - 1, self.g - 1
            return *self.both(x), H
        return self._seen[1], self._seen[2], H

    def _graph(self, x: Array) -> tuple[list[Tensor], Tensor]:
        """The leaves and the gradient (n,) with its own graph, kept for further products at x."""
        if self._slope is None or self._slope[0] is not x:
            leaves, argument = self.variables.open(x)
            if self.own_gradient is not None:
                g = self.variables.flat(_tensors(self.own_gradient(argument)))
                if not g.requires_grad:
                    raise NotImplementedError("the user's own gradient has no graph")
            else:
                y = self.call(argument)
                found = torch.autograd.grad(y.reshape(()), leaves, create_graph=True, allow_unused=True)
                g = self.variables.flat(found)
                self._seen = (x, float(y.detach()), self._array(g))
            self._slope = (x, leaves, g)
        return self._slope[1:]

    def product(self, x: Array, v: Array) -> Array:
        """H v (n,), at the cost of about a gradient; the graph is kept while x stays the same array."""
        self.products += 1
        if self.own_hessian is not None:
            return self._given(self.own_hessian(self.variables.close(x)), "hessian", (self.n, self.n)) @ v
        try:
            leaves, g = self._graph(x)
            if not g.requires_grad:
                return np.zeros(self.n)
            seed = torch.from_numpy(v).to(dtype=g.dtype, device=g.device)
            found = torch.autograd.grad(g, leaves, seed, retain_graph=True, allow_unused=True)
            return self._array(self.variables.flat(found)) if any(part is not None for part in found) else np.zeros(self.n)
        except (RuntimeError, NotImplementedError):
            h = self.variables.eps ** (1 / 3) * max(1.0, float(np.abs(x).max())) / max(float(np.abs(v).max()), 1e-300)
            return (self.gradient(x + h * v) - self.gradient(x - h * v)) / (2 * h)

    def _differences(self, x: Array) -> Array:
        steps = self.variables.eps ** (1 / 3) * np.maximum(1.0, np.abs(x))
        rows = [(self.gradient(x + h * e) - self.gradient(x - h * e)) / (2 * h) for h, e in zip(steps, np.eye(self.n), strict=True)]
        return np.stack(rows)

    def _array(self, t: Tensor) -> Array:
        t = t.detach()
        return (t if self.variables.plain else t.double().cpu()).numpy(force=True)  # a lazy zero has no memory of its own

    def _given(self, answer: Any, name: str, shape: tuple[int, ...] = ()) -> Array:
        flat = torch.cat([t.detach().reshape(-1).double().cpu() for t in _tensors(answer)]).numpy(force=True)
        if flat.size != (int(np.prod(shape)) if shape else self.n):
            raise UserError(f"{name} returned {flat.size} numbers and should return {shape or (self.n,)} of them; x0 has {self.n}")
        return flat.reshape(shape or (self.n,))


def pull_back(variables: Variables, leaves: list[Tensor], values: Tensor) -> Array:
    """The Jacobian (m, n) of values (m,), a backward pass a row; many rows at once where there are many."""
    eye = torch.eye(len(values), dtype=values.dtype, device=values.device)

    def back(v: Tensor, batched: bool) -> Array:
        found = torch.autograd.grad(values, leaves, v, retain_graph=True, allow_unused=True, is_grads_batched=batched)
        if all(part is None for part in found):
            return np.zeros((*v.shape[:-1], variables.n))
        return variables.flat(found).detach().double().cpu().numpy(force=True)

    if len(values) > FEW:
        try:
            return np.concatenate([back(part, True) for part in eye.split(ROWS)])
        except RuntimeError:  # an operation that vmap does not know
            pass
    return np.stack([back(row, False) for row in eye]) if len(values) else np.zeros((0, variables.n))


def _tensors(answer: Any) -> list[Tensor]:
    leaves = (
        [answer] if isinstance(answer, Tensor) else [torch.as_tensor(answer)] if isinstance(answer, np.ndarray) else tree_flatten(answer)[0]
    )
    return [torch.as_tensor(leaf) for leaf in leaves]


class Vector:
    """A constraint as a function of a flat vector: x (n,) -> (m,), with its Jacobian (m, n). A list of functions is one function.

    name: "equality" or "inequality". Raises UserError, naming it, where it does not return numbers in one dimension at x0.
    """

    def __init__(self, fun: Any, variables: Variables, name: str, x: Array | None = None) -> None:
        parts = list(fun) if isinstance(fun, list | tuple) else [fun]
        for part in parts:
            if not callable(part):
                raise UserError(f"{name} must be a function of what x0 holds, or a list of functions; it is a {type(part).__name__}")
        self.parts, self.variables, self.name = parts, variables, name
        self.values = self.jacobians = 0
        self.m = self._check(variables.start if x is None else x)

    @property
    def count(self) -> int:
        """Evaluations: values and Jacobians."""
        return self.values + self.jacobians

    def __call__(self, argument: Any) -> Tensor:
        """All values as one tensor (m,), of what the user's functions take: for building other functions, such as a Lagrangian."""
        answers = [part() if takes_nothing(part) else part(argument) for part in self.parts]
        return torch.cat([torch.as_tensor(a, dtype=self.variables.dtype, device=self.variables.device).reshape(-1) for a in answers])

    def value(self, x: Array) -> Array:
        """(m,)"""
        self.values += 1
        with torch.no_grad():
            return self(self.variables.open(x)[1]).double().cpu().numpy()

    def jacobian(self, x: Array) -> Array:
        """(m, n)"""
        self.jacobians += 1
        leaves, argument = self.variables.open(x)
        c = self(argument)
        if not c.requires_grad:
            return np.zeros((self.m, self.variables.n))
        return pull_back(self.variables, leaves, c)

    def _check(self, x: Array) -> int:
        _, argument = self.variables.open(x)
        for i, part in enumerate(self.parts):
            label = f"{self.name}[{i}]" if len(self.parts) > 1 else self.name
            try:
                answer = torch.as_tensor(part() if takes_nothing(part) else part(argument))
            except Exception as error:
                raise UserCodeError(f"{label} failed at x0: {type(error).__name__}: {error}") from error
            if answer.dim() > 1:
                raise UserError(f"{label} must return a number or a vector and returned shape {tuple(answer.shape)}; flatten it")
            if not answer.isfinite().all():
                raise UserError(f"{label} is not finite at x0; start where it is")
            if not answer.requires_grad:
                raise UserError(
                    f"{label} does not depend on x0 through torch operations; keep .detach(), .item() and torch.tensor(...) out of it"
                )
        return int(self(argument).numel())
