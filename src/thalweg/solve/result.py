"""What a solver answers: a verdict in the words of a certificate, and all that it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STRICT = "minimum (strict local)"
CONVEX = "minimum (global, convex)"
NECESSARY = "minimum (necessary conditions only)"
SADDLE = "saddle"
NOT_STATIONARY = "not stationary"
UNQUALIFIED = "constraint qualification fails"
INFEASIBLE = "infeasible"
UNBOUNDED = "unbounded"
NON_FINITE = "non-finite"
LIMIT = "limit reached"
STATUSES = (STRICT, CONVEX, NECESSARY, SADDLE, NOT_STATIONARY, UNQUALIFIED, INFEASIBLE, UNBOUNDED, NON_FINITE, LIMIT)
"""Every verdict; only those that begin with "minimum" are success."""


@dataclass(frozen=True)
class Evaluations:
    """How often the user's functions were asked: values, gradients, Hessians, products of a Hessian with a vector, and constraints.

    A gradient is taken from the value at the same point, so `f` counts every point that was looked at.
    """

    f: int = 0
    g: int = 0
    H: int = 0
    products: int = 0
    constraints: int = 0

    def __add__(self, other: Evaluations) -> Evaluations:
        return Evaluations(*(getattr(self, k) + getattr(other, k) for k in self.__dataclass_fields__))

    def cost(self, n: int) -> int:
        """Evaluations in units of one value with its gradient, for n variables: a Hessian counts as n, a product as one.

        >>> Evaluations(f=12, g=10, H=3, products=4).cost(n=2)
        22
        """
        return max(self.f, self.g) + n * self.H + self.products


@dataclass(frozen=True)
class Result:
    """What `minimize` found.

    x: the point, in the form of x0. value: fun(x). gradient_norm: the largest entry of the gradient (of the Lagrangian, under
    constraints). status: a verdict of `STATUSES`, drawn from the certificate; message: the same in a sentence. multipliers: flat
    tensors "equality", "inequality", "lower", "upper", empty where there is no such constraint. trace: a row an iteration, a dict
    each, as `pandas.DataFrame` takes them. evaluations: without the certificate's, which counts its own. seconds: all inclusive.

    With `batched=True`, x, value, gradient_norm, iterations and status have a leading axis of lanes (status and message: tuples).
    """

    x: Any
    value: Any
    gradient_norm: Any
    status: Any
    message: Any
    iterations: Any
    evaluations: Any
    seconds: float
    method: str
    multipliers: dict[str, Any] = field(default_factory=dict)
    certificate: Any = None
    trace: tuple[dict[str, Any], ...] = ()

    @property
    def success(self) -> Any:
        """Whether the verdict is a minimum; a tuple with batched=True."""
        if isinstance(self.status, str):
            return self.status.startswith("minimum")
        return tuple(status.startswith("minimum") for status in self.status)

    def __repr__(self) -> str:
        if not isinstance(self.status, str):
            counts = {status: self.status.count(status) for status in STATUSES if status in self.status}
            return f"Result({len(self.status)} lanes: {', '.join(f'{k} {status}' for status, k in counts.items())}; method {self.method})"
        head = f"Result({self.status}: value {self.value:.10g}, gradient {self.gradient_norm:.2g}, {self.iterations} iterations"
        return f"{head}, {self.evaluations.f} evaluations; method {self.method})"
