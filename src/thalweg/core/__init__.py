"""What a shelf's file is written with: rules, domains, and the declarations of the other shelves."""

from thalweg.core.domain import (
    Choice,
    Count,
    Decay,
    Domain,
    Epsilon,
    Flag,
    Fraction,
    GradientRate,
    Penalty,
    Rate,
    Scale,
    Threshold,
)
from thalweg.core.rule import Rule, filled, like_point, ones, rule, scalar, when, zeros
from thalweg.core.wrapper import Wrapper, wrapper
from thalweg.errors import ThalwegError, UserError

__all__ = [
    "Choice",
    "Count",
    "Decay",
    "Domain",
    "Epsilon",
    "Flag",
    "Fraction",
    "GradientRate",
    "Penalty",
    "Rate",
    "Rule",
    "Scale",
    "ThalwegError",
    "Threshold",
    "UserError",
    "Wrapper",
    "filled",
    "like_point",
    "ones",
    "rule",
    "scalar",
    "when",
    "wrapper",
    "zeros",
]
