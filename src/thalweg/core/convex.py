"""Convex sets: each is its projection, Proj(x) = argmin |x' - x| over the set. Boyd and Vandenberghe 2004, section 8.1

    @convex_set
    def half_space(a: Numbers, b: Numbers = 0.0):
        a, b = vector(a, "half_space: a"), scalar(b, "half_space: b")
        return lambda x: x - ...

declares a maker: it checks its arguments and returns the projection, a function (..., n) -> (..., n) that autograd can follow.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from thalweg.core.domain import Domain, domain_of
from thalweg.core.rule import Hyper
from thalweg.errors import UserError

Projection = Callable[[Tensor], Tensor]

Numbers = Any
"""A number, several numbers or a tensor."""

Radius = Annotated[float, Domain("Radius", low=0, open_low=True)]
"""A length: positive."""


@dataclass(frozen=True, eq=False)
class ConvexSet:
    """A closed convex set, known by its projection.

    axes: trailing axes that make up a point, 1 where it is a vector and 2 where it is a matrix; the axes before them are a batch.
    parts: the sets of which this one is the intersection.
    proved: whether convexity is known from how the set is made, as it is for every set of thalweg's own.

    >>> from thalweg.sets import simplex
    >>> simplex(radius=1.0).project([0.5, 1.2, -0.3])
    tensor([0.1500, 0.8500, 0.0000], dtype=torch.float64)
    """

    name: str
    projection: Projection = field(repr=False)
    axes: int = 1
    arguments: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[ConvexSet, ...] = ()
    proved: bool = False

    def project(self, x: Any) -> Tensor:
        """The nearest point of the set, (..., n) -> (..., n), in x's dtype; what is not a tensor of floats becomes float64.

        Raises UserError where x has not the shape of the set's points.
        """
        x = point(x)
        if x.dim() < self.axes:
            raise UserError(
                f"{self} has {_KINDS[self.axes]} as its points, and x has shape {tuple(x.shape)}: give x {self.axes} axes or more"
            )
        try:
            projected = self.projection(x)
        except RuntimeError as error:
            raise UserError(f"{self} cannot take points of shape {tuple(x.shape)}: {error}") from error
        if projected.shape != x.shape:
            raise UserError(f"{self} has points of shape {tuple(projected.shape)}, and x has shape {tuple(x.shape)}: give it that shape")
        return projected

    def distance(self, x: Any) -> Tensor:
        """The distance |x - Proj(x)|, of shape (...): Euclidean, and the Frobenius norm between matrices."""
        x = point(x)
        return norm(x - self.project(x), self.axes).reshape(x.shape[: x.dim() - self.axes])

    def contains(self, x: Any, tol: float | None = None) -> Tensor:
        """Whether x is in the set, of shape (...): no farther from it than tol * max(1, |x|).

        tol: without one, the square root of the dtype's precision, 1.5e-8 for float64. In an intersection is what is in every part.
        """
        x = point(x)
        if self.parts:
            each = [replace_axes(part, self.axes).contains(x, tol) for part in self.parts]
            return torch.stack(each).all(0)
        tol = torch.finfo(x.dtype).eps ** 0.5 if tol is None else tol
        size = norm(x, self.axes).reshape(x.shape[: x.dim() - self.axes])
        return self.distance(x) <= tol * size.clamp(min=1)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(_text(v) if isinstance(v, tuple) else f'{k}={_text(v)}' for k, v in self.arguments.items())})"


@dataclass(frozen=True, eq=False)
class Union:
    """The points of any of several sets; seldom convex, and here to be asked about: see `is_convex`.

    >>> from thalweg.sets import box, union
    >>> union(box(0, 1), box(2, 3)).contains([[0.5], [1.5]])
    tensor([ True, False])
    """

    parts: tuple[ConvexSet, ...]

    @property
    def axes(self) -> int:
        """Trailing axes of a point, as in ConvexSet."""
        return max(part.axes for part in self.parts)

    def contains(self, x: Any, tol: float | None = None) -> Tensor:
        """Whether x is in one of the parts, (..., n) -> (...)."""
        return torch.stack([replace_axes(part, self.axes).contains(x, tol) for part in self.parts]).any(0)

    def distance(self, x: Any) -> Tensor:
        """The distance to the nearest part, (..., n) -> (...)."""
        return torch.stack([replace_axes(part, self.axes).distance(x) for part in self.parts]).amin(0)

    def __str__(self) -> str:
        return f"union({', '.join(map(str, self.parts))})"


def union(*sets: ConvexSet) -> Union:
    """The union of sets, (one or more of them)."""
    return Union(parts_of("union", sets))


def parts_of(name: str, sets: tuple[Any, ...]) -> tuple[ConvexSet, ...]:
    """The sets given to `name`, checked: one or more, and sets all of them."""
    if not sets or not all(isinstance(part, ConvexSet) for part in sets):
        raise UserError(f"{name} takes one or more sets, such as {name}(box(0, 1), simplex())")
    return sets


def convex_set(make: Callable[..., Projection] | None = None, *, axes: int = 1) -> Any:
    """Declare a maker of sets: it takes the set's numbers and returns its projection.

    axes: trailing axes of a point. Arguments with a domain as their annotation are checked against it; those that are sets become the
    parts. The made set knows its name and its arguments.
    """
    if make is None:
        return functools.partial(convex_set, axes=axes)
    function, name, signature = make, make.__name__, inspect.signature(make)
    domains = {k: d for k, hint in typing.get_type_hints(make, include_extras=True).items() if (d := domain_of(hint))}

    @functools.wraps(make)
    def checked(*args: Any, **kwargs: Any) -> ConvexSet:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UserError(f"{name}: {error}; it takes {', '.join(signature.parameters) or 'no argument'}") from None
        for key in domains.keys() & given.arguments.keys():
            given.arguments[key] = domains[key].check(given.arguments[key], f"{name}: {key}")
        projection = function(*given.args, **given.kwargs)
        given.apply_defaults()
        parts = tuple(part for part in given.args if isinstance(part, ConvexSet))
        return ConvexSet(
            name, projection, max([axes, *(part.axes for part in parts)]), dict(given.arguments), parts,
            proved=function.__module__.startswith("thalweg.sets.") and all(part.proved for part in parts),
        )  # fmt: skip

    hypers = {k: Hyper(k, d, signature.parameters[k].default) for k, d in domains.items()}
    doc = inspect.getdoc(make) or inspect.getdoc(inspect.getmodule(make)) or ""
    checked.__dict__.update(shelf="sets", name=name, doc=doc, hypers=hypers)
    return checked


# --- what the sets' files are written with


def point(x: Any) -> Tensor:
    """x as a tensor of floats; numbers, lists, arrays and whole numbers become float64."""
    x = torch.as_tensor(x, dtype=None if isinstance(x, Tensor) else torch.float64)
    return x if x.is_floating_point() else x.double()


def numbers(value: Numbers, label: str, infinite: bool = False) -> Tensor:
    """An argument of a set as a float64 tensor; UserError where it is not numbers, or not finite unless `infinite`."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{label} = {value!r} must be numbers") from None
    if bool(tensor.isnan().any()) or not (infinite or bool(tensor.isfinite().all())):
        raise UserError(f"{label} = {_text(tensor)} must be {'numbers, not nan' if infinite else 'finite'}")
    return tensor


def normal(value: Numbers, label: str) -> Tensor:
    """A vector (n,) that is not zero: what a plane stands on."""
    tensor = numbers(value, label)
    if tensor.dim() != 1 or not bool(tensor.any()):
        raise UserError(f"{label} = {_text(tensor)} must be a vector that is not zero, such as [1.0, 2.0]")
    return tensor


def norm(x: Tensor, axes: int = 1) -> Tensor:
    """The Euclidean norm over the last `axes` axes, which are kept with length 1; large and small numbers neither overflow nor vanish."""
    dims = tuple(range(-axes, 0))
    largest = x.detach().abs().amax(dims, keepdim=True) if x.numel() else x.new_zeros(())
    unit = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    return unit * torch.linalg.vector_norm(x / unit, dim=dims, keepdim=True)


def lowered(x: Tensor, total: float) -> Tensor:
    """max(x - threshold, 0) over the last axis, with the threshold that makes the sum `total` (positive); sorting finds it.

    Held, Wolfe and Crowder 1974.
    """
    x = x - x.detach().amax(-1, keepdim=True)  # the answer is the same, and large numbers keep their digits
    ordered = x.sort(-1, descending=True).values
    count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    thresholds = (ordered.cumsum(-1) - total) / count
    last = (ordered > thresholds).sum(-1, keepdim=True) - 1
    return (x - thresholds.gather(-1, last)).clamp(min=0)


def replace_axes(part: ConvexSet, axes: int) -> ConvexSet:
    """The same set where points have more axes: its product with itself along them."""
    return part if part.axes == axes else ConvexSet(part.name, part.projection, axes, part.arguments, part.parts, part.proved)


_KINDS = {1: "vectors (..., n)", 2: "matrices (..., n, n)"}


def _text(value: Any) -> str:
    """An argument as text, long tensors by their shape."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, list | Tensor) or hasattr(value, "__array__"):
        tensor = torch.as_tensor(value, dtype=torch.float64)
        return str(tensor.tolist()) if tensor.numel() <= 6 else f"numbers of shape {tuple(tensor.shape)}"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
