"""Symbolic differentiation: a function is called with letters, and its formula differentiated by the rules. Griewank and Walther 2008, 1.1

The formula of a derivative repeats parts of the function's; how it grows is counted in operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import UserError


@dataclass(frozen=True, eq=False)
class Formula:
    """A number (`op` "number"), a letter ("letter") or an operation on formulas; what torch's functions are called with.

    >>> x = letter("x")
    >>> print((x * torch.cos(3 * x)).derivative("x"))
    cos(3 * x) + x * -sin(3 * x) * 3
    """

    op: str
    parts: tuple[Formula, ...] = ()
    value: Any = None
    slopes: dict[str, Formula] = field(default_factory=dict, repr=False)  # by letter: a part that stands in many places is done once

    def __add__(self, other: Any) -> Formula:
        a, b = self, formula(other)
        if a.op == b.op == "number":
            return formula(a.value + b.value)
        return b if _is(a, 0) else a if _is(b, 0) else Formula("+", (a, b))

    def __mul__(self, other: Any) -> Formula:
        a, b = self, formula(other)
        if _is(a, 0) or _is(b, 0):
            return formula(0)
        if a.op == b.op == "number":
            return formula(a.value * b.value)
        return b if _is(a, 1) else a if _is(b, 1) else Formula("*", (a, b))

    def __neg__(self) -> Formula:
        return formula(-self.value) if self.op == "number" else Formula("-", (self,))

    def __pow__(self, n: float) -> Formula:
        if not isinstance(n, int | float):
            raise UserError("symbolic differentiation knows powers with a number as the exponent; write exp(b * log(a)) for others")
        if self.op == "number":
            return formula(self.value**n)
        return formula(1) if n == 0 else self if n == 1 else Formula("**", (self,), n)

    def __sub__(self, other: Any) -> Formula:
        return self + -formula(other)

    def __truediv__(self, other: Any) -> Formula:
        return self * formula(other) ** -1

    def __rsub__(self, other: Any) -> Formula:
        return formula(other) - self

    def __rtruediv__(self, other: Any) -> Formula:
        return formula(other) / self

    __radd__ = __add__

    def __rmul__(self, other: Any) -> Formula:
        return formula(other) * self

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Formula:
        name = function.__name__
        if name in SLOPES and len(args) == 1 and not kwargs:
            return Formula(name, args)
        operations: dict[str, Callable[..., Formula]] = {"square": lambda a: a**2, "add": lambda a, b: formula(a) + b}
        operations |= {"mul": lambda a, b: formula(a) * b, "pow": lambda a, n: a**n}
        if name in operations and not kwargs:
            return operations[name](*args)
        raise UserError(
            f"symbolic differentiation does not know torch's {name}; it knows {', '.join([*operations, *SLOPES])} and + - * / **"
        )

    def derivative(self, by: str) -> Formula:
        """The derivative by a letter, by the rules of sum, product, power and chain."""
        if by not in self.slopes:
            self.slopes[by] = self._derived(by)
        return self.slopes[by]

    def _derived(self, by: str) -> Formula:
        if self.op in ("number", "letter"):
            return formula(float(self.op == "letter" and self.value == by))
        a, da = self.parts[0], self.parts[0].derivative(by)
        if self.op == "+":
            return da + self.parts[1].derivative(by)
        if self.op == "*":
            return da * self.parts[1] + a * self.parts[1].derivative(by)
        if self.op == "-":
            return -da
        return (self.value * a ** (self.value - 1) if self.op == "**" else SLOPES[self.op](a)) * da

    def __call__(self, **letters: float) -> float:
        """The value where the letters have values."""
        return self._valued(letters, {})

    def _valued(self, letters: dict[str, float], known: dict[int, float]) -> float:
        if id(self) not in known:
            known[id(self)] = self._computed(letters, [part._valued(letters, known) for part in self.parts])
        return known[id(self)]

    def _computed(self, letters: dict[str, float], x: list[float]) -> float:
        if self.op in ("number", "letter"):
            return self.value if self.op == "number" else letters[self.value]
        if self.op in ("+", "*"):
            return x[0] + x[1] if self.op == "+" else x[0] * x[1]
        if self.op in ("-", "**"):
            return -x[0] if self.op == "-" else x[0] ** self.value
        return float(getattr(torch, self.op)(torch.tensor(x[0], dtype=torch.float64)))

    @cached_property
    def operations(self) -> int:
        """How many operations stand in the formula as it is written out."""
        return (self.op not in ("number", "letter")) + sum(part.operations for part in self.parts)

    def __str__(self) -> str:
        if self.op in ("number", "letter"):
            return f"{self.value:g}" if self.op == "number" else self.value
        inner = [f"({p})" if p.op == "+" and self.op not in ("+", *SLOPES) else str(p) for p in self.parts]
        if self.op in ("+", "*"):
            return f" {self.op} ".join(inner)
        if self.op == "**":
            return f"{f'({inner[0]})' if self.parts[0].parts and self.parts[0].op not in ('+', *SLOPES) else inner[0]} ** {self.value:g}"
        return f"-{inner[0]}" if self.op == "-" else f"{self.op}({inner[0]})"


SLOPES: dict[str, Callable[[Formula], Formula]] = {
    "exp": lambda a: Formula("exp", (a,)),
    "log": lambda a: a**-1,
    "sin": lambda a: Formula("cos", (a,)),
    "cos": lambda a: -Formula("sin", (a,)),
    "tanh": lambda a: 1 - Formula("tanh", (a,)) ** 2,
    "sigmoid": lambda a: Formula("sigmoid", (a,)) * (1 - Formula("sigmoid", (a,))),
    "sqrt": lambda a: 0.5 * a**-0.5,
}
"""The derivative of each function that is known."""


def formula(x: Any) -> Formula:
    """A number as a formula; formulas stay themselves."""
    if isinstance(x, Formula):
        return x
    if isinstance(x, Tensor) and x.numel() == 1:
        x = float(x)
    if not isinstance(x, int | float) or math.isnan(x):
        raise UserError(f"symbolic differentiation knows numbers and letters, not {type(x).__name__}")
    return Formula("number", value=x)


def letter(name: str) -> Formula:
    """A letter of a formula."""
    return Formula("letter", value=name)


def _is(a: Formula, value: float) -> bool:
    return a.op == "number" and a.value == value
