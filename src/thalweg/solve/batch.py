"""The user's function for many lanes at once: values, gradients and Hessians of all of them in one call, by torch's vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from thalweg.errors import UserCodeError, UserError
from thalweg.solve.result import Evaluations
from thalweg.solve.variables import Variables

Array = np.ndarray


class Batch:
    """A function of one lane's point, for points (lanes, n). Lanes are independent, so the gradient of their sum is each one's own.

    data: tensors with a leading axis of lanes, further arguments of fun. Raises UserError where the data's lanes are not x0's.
    """

    def __init__(self, fun: Callable[..., Any], variables: Variables, data: Any = None) -> None:
        if not callable(fun):
            raise UserError(f"fun must be a function of one lane of x0; it is a {type(fun).__name__}")
        self.fun, self.variables, self.n = fun, variables, variables.n
        self.data = () if data is None else tuple(data) if isinstance(data, tuple | list) else (data,)
        for leaf in tree_flatten(self.data)[0]:
            if not isinstance(leaf, Tensor) or leaf.dim() == 0 or leaf.shape[0] != variables.lanes:
                shape = tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__
                raise UserError(f"data must be tensors with a leading axis of x0's {variables.lanes} lanes; one is {shape}")
        self.f = self.g = self.H = 0

    @property
    def evaluations(self) -> Evaluations:
        """Summed over lanes."""
        return Evaluations(self.f, self.g, self.H)

    def _values(self, x: Array, lanes: Array) -> tuple[list[Tensor], Tensor]:
        leaves, argument = self.variables.open(np.ascontiguousarray(x))
        index = torch.from_numpy(lanes)
        data = self.data if len(lanes) == self.variables.lanes else tree_map(lambda t: t[index.to(t.device)], self.data)
        return leaves, torch.vmap(self.fun)(argument, *data)

    def check(self) -> tuple[Array, Array]:
        """Values (lanes,) and gradients (lanes, n) at the start, after looking at all that can be wrong with them."""
        lanes = np.arange(self.variables.lanes)
        try:
            leaves, y = self._values(self.variables.start, lanes)
        except UserError:
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise UserCodeError(f"fun failed on lanes of x0 under torch.vmap, which batched=True needs: {what}") from error
        if y.dim() != 1:
            raise UserError(f"fun must return a scalar for one lane and returned shape {tuple(y.shape[1:])}; reduce it, such as .sum()")
        if not y.isfinite().all():
            lane = int(y.isfinite().int().argmin())
            raise UserError(f"fun is {y[lane].item():g} at lane {lane} of x0; start every lane where it is finite")
        found = torch.autograd.grad(y.sum(), leaves, allow_unused=True) if y.requires_grad else [None]
        if all(part is None for part in found):
            raise UserError("fun's value does not depend on x0 through torch operations; keep .detach(), .item() and numpy out of it")
        self.f += len(lanes)
        self.g += len(lanes)
        return self._array(y), self._array(self.variables.flat(found))

    def value(self, x: Array, lanes: Array) -> Array:
        """(k,) at points (k, n) of the lanes with these indices."""
        self.f += len(lanes)
        with torch.no_grad():
            return self._array(self._values(x, lanes)[1])

    def both(self, x: Array, lanes: Array) -> tuple[Array, Array]:
        """(k,) and (k, n)"""
        self.f += len(lanes)
        self.g += len(lanes)
        leaves, y = self._values(x, lanes)
        found = torch.autograd.grad(y.sum(), leaves, allow_unused=True)
        return self._array(y), self._array(self.variables.flat(found))

    def all(self, x: Array, lanes: Array) -> tuple[Array, Array, Array]:
        """Value (k,), gradient (k, n), Hessian (k, n, n): a backward pass a variable, through all lanes."""
        self.f += len(lanes)
        self.g += len(lanes)
        self.H += len(lanes)
        leaves, y = self._values(x, lanes)
        g = self.variables.flat(torch.autograd.grad(y.sum(), leaves, create_graph=True, allow_unused=True))
        rows = np.zeros((len(lanes), self.n, self.n))
        for i in range(self.n if g.requires_grad else 0):
            found = torch.autograd.grad(g[:, i].sum(), leaves, retain_graph=True, allow_unused=True)
            if any(part is not None for part in found):
                rows[:, i] = self._array(self.variables.flat(found))
        return self._array(y), self._array(g), (rows + rows.transpose(0, 2, 1)) / 2

    def _array(self, t: Tensor) -> Array:
        return t.detach().double().cpu().numpy(force=True)
