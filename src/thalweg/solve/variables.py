"""The user's variables, of any structure, as one flat float64 vector, and back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from thalweg.errors import UserError

Array = np.ndarray
REMEDY = "give a floating tensor (any shape), a dict or tuple of them, numbers, or an nn.Module"


class Variables:
    """How a flat vector (n,) becomes what the user's function takes. With `lanes`, all tensors have a leading axis more.

    start: the user's x0 as a vector, (n,) or (lanes, n). dtype: in which functions are evaluated; vectors are float64 always, and
    `snap` rounds one to what the dtype can hold.
    """

    def __init__(self, x0: Any, lanes: bool = False, name: str = "x0") -> None:
        self.module = x0 if isinstance(x0, nn.Module) else None
        tensors, self.spec = _leaves(x0, name)
        kinds = {(t.dtype, t.device) for t in tensors}
        if len(kinds) != 1:
            raise UserError(
                f"{name} mixes {', '.join(sorted(f'{d} on {v}' for d, v in kinds))}; bring all its tensors to one dtype and device"
            )
        self.dtype, self.device = kinds.pop()
        self.lanes = 0
        if lanes:
            if self.module is not None:
                raise UserError(f"{name} is a module, which holds one lane; with batched=True give tensors with a leading axis of lanes")
            counts = {t.shape[0] if t.dim() else 0 for t in tensors}
            if len(counts) != 1 or 0 in counts:
                shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
                raise UserError(f"{name} needs the same leading axis of lanes on all its tensors with batched=True; it has shapes {shapes}")
            self.lanes = counts.pop()
        self.shapes = [tuple(t.shape[1:] if lanes else t.shape) for t in tensors]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.n = sum(self.sizes)
        if self.n == 0:
            raise UserError(f"{name} holds no numbers; {REMEDY}")
        flat = [t.detach().reshape(*([self.lanes] if lanes else []), -1) for t in tensors]
        self.start: Array = np.array(torch.cat(flat, -1).double().cpu().numpy())
        if not np.isfinite(self.start).all():
            place = np.argwhere(~np.isfinite(self.start))[0].tolist()
            raise UserError(f"{name} is not finite at place {place if len(place) > 1 else place[0]}; start from finite numbers")
        self.parameters = tensors if self.module is not None else []
        self.exact = self.dtype == torch.float64
        self.plain = self.exact and len(tensors) == 1 and self.spec is None and self.module is None and self.device.type == "cpu"
        self.eps = float(torch.finfo(self.dtype).eps)

    def snap(self, v: Array) -> Array:
        """The nearest vector that the dtype can hold."""
        return v if self.exact else torch.from_numpy(v).to(self.dtype).double().numpy()

    def tensors(self, v: Array) -> list[Tensor]:
        """The vector as detached tensors of the user's shapes, dtype and device; a view of v where that can be."""
        t = torch.from_numpy(v)
        lead = t.shape[:-1]
        if self.plain:
            return [t.view((*lead, *self.shapes[0]))]
        t = t.to(device=self.device, dtype=self.dtype)
        return [part.reshape((*lead, *shape)) for part, shape in zip(t.split(self.sizes, -1), self.shapes, strict=True)]

    def open(self, v: Array) -> tuple[list[Tensor], Any]:
        """Leaves that require gradients, and what the user's function takes, made of them. A module's parameters are set to v."""
        if self.module is not None:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, self.tensors(v), strict=True):
                    parameter.copy_(value)
            return self.parameters, self.module
        leaves = [t.requires_grad_() for t in self.tensors(v)]
        return leaves, self.build(leaves)

    def build(self, tensors: Sequence[Tensor]) -> Any:
        """The user's structure around tensors."""
        return tensors[0] if self.spec is None else tree_unflatten(list(tensors), self.spec)

    def close(self, v: Array) -> Any:
        """The vector in the user's form, of memory of its own; a module is set to it and returned."""
        if self.module is not None:
            return self.open(v)[1]
        return self.build([t.clone() for t in self.tensors(np.ascontiguousarray(v))])

    def flat(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Tensors of the variables' shapes (None: zeros) as one tensor (..., n) in the user's dtype."""
        lead = next((t.shape[: t.dim() - len(s)] for t, s in zip(tensors, self.shapes, strict=True) if t is not None), ())
        if len(tensors) == 1 and tensors[0] is not None:
            return tensors[0].reshape(*lead, self.n)
        parts = zip(tensors, self.sizes, strict=True)
        return torch.cat(
            [torch.zeros((*lead, k), dtype=self.dtype, device=self.device) if t is None else t.reshape(*lead, k) for t, k in parts], -1
        )

    def vector(self, given: Any, name: str) -> Array:
        """Something of the variables' structure, or a number for all, as a vector (n,); infinities are allowed."""
        if isinstance(given, int | float):
            return np.full(self.n, float(given))
        tensors, _ = _leaves(given, name, floating=False)
        if sum(t.numel() for t in tensors) == 1 and self.n != 1:
            return np.full(self.n, float(tensors[0]))
        if [tuple(t.shape) for t in tensors] != self.shapes and sum(t.numel() for t in tensors) != self.n:
            raise UserError(
                f"{name} has {sum(t.numel() for t in tensors)} numbers and x0 {self.n}; give it x0's shape, or one number for all"
            )
        return torch.cat([t.detach().reshape(-1).double().cpu() for t in tensors]).numpy()


def _leaves(x0: Any, name: str, floating: bool = True) -> tuple[list[Tensor], Any]:
    """The tensors of a structure and its description; None for one tensor."""
    if isinstance(x0, nn.Module):
        parameters = [p for p in x0.parameters() if p.requires_grad]
        if not parameters:
            raise UserError(f"{name} is a module without parameters that require gradients; {REMEDY}")
        return list(parameters), None
    if not isinstance(x0, Tensor) and _numeric(x0):
        x0 = torch.from_numpy(np.array(x0)) if not isinstance(x0, np.ndarray) else torch.from_numpy(x0.copy())
    leaves, spec = ([x0], None) if isinstance(x0, Tensor) else tree_flatten(x0)
    leaves = [torch.as_tensor(leaf) if isinstance(leaf, np.ndarray | float) else leaf for leaf in leaves]
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise UserError(f"{name} holds a {type(leaf).__name__}; {REMEDY}")
        if floating and not leaf.is_floating_point():
            kind = str(leaf.dtype).removeprefix("torch.")
            raise UserError(f"{name} holds {kind} numbers, which have no derivative; make them floating, such as x0.double()")
    if not leaves:
        raise UserError(f"{name} holds no tensor; {REMEDY}")
    return leaves, spec


def _numeric(x0: Any) -> bool:
    """A number, an array, or a nest of lists of numbers: one tensor, not a structure."""
    if isinstance(x0, np.ndarray | np.generic | int | float):
        return True
    return isinstance(x0, list | tuple) and len(x0) > 0 and all(_numeric(part) and not isinstance(part, np.ndarray) for part in x0)


def takes_nothing(fun: Callable[..., Any]) -> bool:
    """Whether a function is a closure without arguments, as a module's loss may be."""
    try:
        return not inspect.signature(fun).parameters
    except (TypeError, ValueError):
        return False
