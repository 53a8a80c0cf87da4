"""Domains: what a hyperparameter may be, where it is searched, how it is read from text.

A domain is written as the *annotation* of a rule's keyword (`lr: Rate = 1e-3`). It is at once the validation, the search
range of `compare`, the type on the command line and the row in the docs. Floats are data: they vary inside a fleet and
under a schedule. Flags, counts and choices are structure: runs that differ in them are separate groups.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args, get_origin

from thalweg.errors import UserError


@dataclass(frozen=True)
class Domain:
    """A set of allowed values and, for floats, the range in which a search looks.

    low, high: bounds of what is allowed (high is excluded when `open_high`); `low` itself is allowed unless `open_low`.
    search: the range that `compare` draws from; None means "never searched unless a spec names a range".
    scale: "log" draws evenly in log(value), "complement" evenly in log(1 - value), "linear" evenly in value.
    tuned: searched by default (rates are, other numbers only when a spec names them).
    """

    name: str
    kind: Literal["float", "int", "flag", "choice"] = "float"
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    search: tuple[float, float] | None = None
    scale: Literal["log", "linear", "complement"] = "linear"
    tuned: bool = False
    choices: tuple[str, ...] = ()

    @property
    def structural(self) -> bool:
        """Whether two values of it need separate compiled programs (flags, counts, names) or may share a fleet."""
        return self.kind != "float"

    def check(self, value: Any, label: str) -> Any:
        """Return the value in its type, or raise UserError naming `label` and what is allowed."""
        if self.kind == "choice":
            if value not in self.choices:
                raise UserError(f"{label} = {value!r} is not one of {', '.join(self.choices)}")
            return value
        if self.kind == "flag":
            if not isinstance(value, bool):
                raise UserError(f"{label} = {value!r} must be true or false")
            return value
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise UserError(f"{label} = {value!r} must be a number")
        if self.kind == "float" or not isinstance(value, numbers.Integral):
            value = float(value)
        if self.kind == "int" and value % 1 != 0:  # also where value is nan or inf
            raise UserError(f"{label} = {value!r} must be a whole number")
        below = value <= self.low if self.open_low else value < self.low
        above = value >= self.high if self.open_high else value > self.high
        if below or above or not math.isfinite(value):
            raise UserError(f"{label} = {value:.6g} is outside {self.interval}")
        return int(value) if self.kind == "int" else value

    @property
    def interval(self) -> str:
        """The allowed interval in mathematical notation.

        >>> domain_of(Decay).interval
        '[0, 1)'
        """
        left = "(" if self.open_low or math.isinf(self.low) else "["
        right = ")" if self.open_high or math.isinf(self.high) else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"

    def parse(self, text: str, label: str) -> Any:
        """Read a value from the command line."""
        if self.kind == "choice":
            return self.check(text, label)
        if self.kind == "flag":
            words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
            if text.lower() not in words:
                raise UserError(f"{label} = {text!r} must be true or false")
            return words[text.lower()]
        try:
            return self.check(float(text), label)
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{label} = {text!r} must be a number") from None

    def point(self, u: float) -> float:
        """Map u in [0, 1) to a value of the search range.

        >>> round(domain_of(Rate).point(0.5), 8)
        0.00316228
        """
        if self.search is None:
            raise UserError(f"a {self.name} has no search range; give one, such as 1e-4..1e-1")
        a, b = self.search
        if self.scale == "log":
            return math.exp(math.log(a) + u * (math.log(b) - math.log(a)))
        if self.scale == "complement":
            return 1 - math.exp(math.log(1 - a) + u * (math.log(1 - b) - math.log(1 - a)))
        return a + u * (b - a)

    def within(self, low: float, high: float, label: str, scale: Literal["log", "linear", "complement"] | None = None) -> Domain:
        """The same domain searched over another range; an empty, negative or unbounded range is an error."""
        if self.structural:
            raise UserError(f"{label} takes a list of values, not a range: it is a {self.kind}")
        self.check(low, f"{label}, lower end of its range,")
        self.check(high, f"{label}, upper end of its range,")
        how = scale or ("log" if self.scale == "log" else "linear")
        if not low < high:
            raise UserError(f"the range of {label} is empty: {low:g}..{high:g}; give the smaller end first")
        if math.isinf(high) or (how == "log" and low <= 0) or (how == "complement" and high >= 1):
            raise UserError(f"the range of {label}, {low:g}..{high:g}, must be positive and finite to be searched in logarithm")
        return replace(self, search=(float(low), float(high)), scale=how, tuned=True)


Rate = Annotated[float, Domain("Rate", low=0, search=(1e-5, 1.0), scale="log", tuned=True)]
"""A learning rate of a rule whose steps are normalised (adam, rmsprop, lion): searched from 1e-5 to 1."""

GradientRate = Annotated[float, Domain("GradientRate", low=0, search=(1e-4, 10.0), scale="log", tuned=True)]
"""A learning rate that multiplies the gradient itself (sgd): searched from 1e-4 to 10, the same number of decades."""

Scale = Annotated[float, Domain("Scale", low=0, open_low=True, search=(1e-5, 1.0), scale="log", tuned=True)]
"""A standard deviation or length: positive, searched from 1e-5 to 1."""

Decay = Annotated[float, Domain("Decay", low=0, high=1, open_high=True, search=(0.5, 0.9999), scale="complement")]
"""The weight of the past in a leaky average, in [0, 1)."""

Fraction = Annotated[float, Domain("Fraction", low=0, high=1, search=(0.0, 1.0))]
"""A share of something, in [0, 1]."""

Penalty = Annotated[float, Domain("Penalty", low=0, search=(1e-6, 1e-1), scale="log")]
"""A penalty's strength: not negative, searched (when asked) from 1e-6 to 0.1."""

Epsilon = Annotated[float, Domain("Epsilon", low=0, search=(1e-10, 1e-3), scale="log")]
"""A small number that keeps a division finite."""

Threshold = Annotated[float, Domain("Threshold", low=0, open_low=True, search=(1e-2, 1e2), scale="log")]
"""A positive bound, such as the largest gradient norm."""

Count = Annotated[int, Domain("Count", kind="int", low=0)]
"""A whole number; structure."""

Flag = Annotated[bool, Domain("Flag", kind="flag")]
"""True or false; structure."""


def Choice(*names: str) -> Domain:
    """One of a few names; structure. Written as `mode: Annotated[str, Choice("a", "b")] = "a"`."""
    return Domain("Choice", kind="choice", choices=names)


def domain_of(annotation: Any) -> Domain | None:
    """The domain inside an annotation, or None if it has none."""
    if isinstance(annotation, Domain):
        return annotation
    if get_origin(annotation) is Annotated:
        return next((part for part in get_args(annotation) if isinstance(part, Domain)), None)
    return None
