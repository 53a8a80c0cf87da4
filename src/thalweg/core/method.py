"""Declarations of the parts of a solver: directions, line searches and test functions, each one file on its shelf.

    @direction(needs="gradient")
    def gd(point, memory):
        return -point.g, None

    @search(slopes=False)
    def fixed(f0, d0, first, *, lr=1.0): ...            # a generator: yields steps, is sent (value, slope), returns the accepted step

    @function(start=(-1.2, 1.0), minimum=0.0, minimiser=(1.0, 1.0))
    def rosenbrock(x): ...

Directions work on float64 numpy vectors with any leading axes, (..., n): the same formula serves one problem and many lanes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.errors import UserError

Array = np.ndarray
Needs = Literal["gradient", "diagonal", "hessian", "products"]
Trials = Generator[float, tuple[float, float], float | None]
"""A line search under way: yields a step to try, is sent the value and the slope there, returns the accepted step or None."""


@dataclass
class Point:
    """Where a direction is asked for. x, g: (..., n); s, y: the last step and the change of g over it, None at the first.

    bend: what the curvature along s at x is beside s.y, the mean over the step, by `bend`; a number or (..., 1).
    hessian: () -> (..., n, n); product: v -> H v, for a vector (n,). Both cost evaluations, and are called only when used.
    """

    x: Array
    g: Array
    s: Array | None = None
    y: Array | None = None
    bend: Any = 1.0
    hessian: Callable[[], Array] = field(default=lambda: np.empty(0))
    product: Callable[[Array], Array] = field(default=lambda v: v)


def dot(a: Array, b: Array) -> Any:
    """The inner product of vectors, a number; of lanes (..., n) over the last axis, which is kept: (..., 1)."""
    return a @ b if a.ndim == 1 else np.einsum("...i,...i->...", a, b)[..., None]


LEAST = 1e-10
"""Of the cosine between a step and the change of the gradient, below which the pair teaches nothing."""


def pair(point: Point) -> tuple[Array, Any, Any, Any]:
    """Of the last step: y, the change of the gradient bent to the step's end, s.y, y.y, and whether the pair has positive curvature."""
    assert point.s is not None
    assert point.y is not None
    y = point.bend * point.y
    sy, yy = dot(point.s, y), dot(y, y)
    return y, sy, yy, sy > LEAST * np.sqrt(dot(point.s, point.s) * yy)


def times(H: Array, v: Array) -> Array:
    """A matrix (..., n, n) times a vector (..., n)."""
    return H @ v if v.ndim == 1 else (H @ v[..., None])[..., 0]


def outer(a: Array, b: Array) -> Array:
    """a b', (..., n, n)."""
    return np.multiply.outer(a, b) if a.ndim == 1 else a[..., :, None] * b[..., None, :]


def bend(f0: Any, f: Any, d0: Any, d: Any) -> Any:
    """The curvature at the end of a step as a multiple of its mean, d - d0: of the cubic through values f0, f and slopes d0, d there.

    Biggs 1971, J. Inst. Maths Applics 8:315. The slopes are along the whole step, and d > d0. Use it between 1/2 and 2.

    >>> bend(0.0, 1.0, 0.0, 3.0)  # x^3 from 0 to 1: 6 x = 6, whose mean is 3
    2.0
    """
    return (6 * (f0 - f) + 3 * (d0 + d)) / (d - d0) + 1


def first_step(x: Array, g: Array) -> Array:
    """Down the gradient, by no more than half the length of x (or 1/2): where nothing is known of the curvature."""
    return -g / np.maximum(1.0, 2 * np.sqrt(dot(g, g) / np.maximum(1.0, dot(x, x))))


def direction(*, needs: Needs, region: bool = False, unit: bool = True, lanes: bool = True) -> Callable[[Callable], Any]:
    """Declare a direction: (point, memory) -> (p, memory), where memory is None at the first, later what was returned.

    needs: the derivatives it asks the point for. region: it is instead a step within a radius, (point, radius) -> p. unit: a step of
    length 1 is the natural first trial. lanes: it also takes leading axes.
    """
    return lambda make: _named(make, "directions", make.__name__.replace("_", "-"), needs=needs, region=region, unit=unit, lanes=lanes)


def search(*, slopes: bool, accept: Callable[..., Any], constant: str | None = None) -> Callable[[Callable[..., Trials]], Any]:
    """Declare a line search, a generator (f0, d0, first, noise, *, options); called with options alone it gives the search so set.

    f0, d0: value and slope at the start; first: the step to try first; noise: what rounding may add to a value. slopes: whether it
    wants the slope of every trial; otherwise it is sent nan, and trials cost no gradient. accept: (f0, d0, step, f, d, noise, *,
    options) -> whether a trial will do, for numbers and for arrays of lanes. constant: the option that is the first step always.

    >>> from thalweg.searches import armijo
    >>> trials = armijo(shrink=0.5)(f0=1.0, d0=-2.0, first=1.0, noise=0.0)
    >>> next(trials), trials.send((3.0, float("nan")))
    (1.0, 0.25)
    """

    def read(make: Callable[..., Trials]) -> Any:
        defaults, judged = _keywords(make), _keywords(accept)

        @functools.wraps(make)
        def chosen(**options: Any) -> Callable[..., Trials]:
            for key in options:
                if key not in defaults:
                    raise UserError(f"the search {make.__name__} has no '{key}'; it takes {', '.join(defaults)}")
            part = functools.partial(make, **options)
            part.__dict__["constant"] = None if constant is None else options.get(constant, defaults[constant])
            part.__dict__.update(slopes=slopes, accept=functools.partial(accept, **{k: v for k, v in options.items() if k in judged}))
            return part

        return _named(chosen, "searches", make.__name__, slopes=slopes, options=tuple(defaults))

    return read


def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    return {k: p.default for k, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}


def function(
    *,
    start: Sequence[float] | Callable[[int], Sequence[float]],
    minimum: float | Callable[[int], float | None] | None = None,
    minimiser: Sequence[float] | Callable[[int], Sequence[float] | None] | None = None,
    n: int | None = None,
    equality: Callable[[Tensor], Tensor] | None = None,
    inequality: Callable[[Tensor], Tensor] | None = None,
    bounds: tuple[Any, Any] | None = None,
    others: Sequence[float] = (),
) -> Callable[[Callable[[Tensor], Tensor]], Any]:
    """Declare a test function x (n,) -> scalar with its usual start, its least value and where that is.

    n: its usual size, where it has several; start and minimiser are then functions of n, minimum one or a number for all n. Without a
    closed form both are known, to 17 digits, at the usual size only, and None elsewhere. equality, inequality, bounds: the constraints, as
    `thalweg.minimize` takes them. others: values of further local minima.

    The entry is the function itself with `size`, `start(n)`, `minimum(n)`, `minimiser(n)` (float64 tensors, numbers, or None).

    >>> from thalweg.functions import rosenbrock
    >>> rosenbrock(rosenbrock.start()).item(), rosenbrock.minimum()
    (24.199999999999996, 0.0)
    """

    def read(make: Callable[[Tensor], Tensor]) -> Any:
        size = n or len(start)  # type: ignore[arg-type]
        name = make.__name__.replace("_", "-")

        def at(given: Any, m: int | None, vector: bool) -> Any:
            if m not in (None, size) and n is None:
                raise UserError(f"{name} has {size} variables; leave n = {m} out")
            value = given(m or size) if callable(given) else given
            return torch.tensor(value, dtype=torch.float64) if vector and value is not None else value

        facts = {
            "size": size,
            "sizes": n is not None,
            "start": lambda n=None: at(start, n, True),
            "minimum": lambda n=None: at(minimum, n, False),
            "minimiser": lambda n=None: at(minimiser, n, True),
            "constraints": {k: v for k, v in {"equality": equality, "inequality": inequality, "bounds": bounds}.items() if v is not None},
            "others": tuple(others),
        }
        return _named(make, "functions", name, **facts)

    return read


def _named(entry: Any, shelf: str, name: str, **facts: Any) -> Any:
    module = inspect.getmodule(inspect.unwrap(entry))
    doc = inspect.getdoc(entry) or (module and inspect.getdoc(module)) or ""
    entry.__dict__.update(shelf=shelf, name=name, doc=doc, **facts)
    return entry
