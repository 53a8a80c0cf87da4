"""`thalweg gradcheck file.py:f`: what the command line checks, from what a file holds."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from thalweg.calculus.gradcheck import GradientCheck, gradcheck
from thalweg.core.problem import Problem
from thalweg.errors import UserError


def check_object(thing: Any, *, at: str | None = None, **options: Any) -> GradientCheck:
    """The gradient check of an object that a file holds.

    thing: a Problem; a function of x whose x has a default, or is given by `at`; or a tuple (function, x) or (module, (inputs, targets),
        loss). at: the point as text, such as "1.5" or "[1, 2]". options: those of `gradcheck`.

    Raises UserError where no point is known.

    >>> check_object(lambda x: (x**2).sum(), at="[1, 2]").ok
    True
    """
    x, loss = _point(at), None
    if isinstance(thing, tuple) and len(thing) in (2, 3):
        thing, given, *rest = thing
        x, loss = given if x is None else x, rest[0] if rest else None
    elif isinstance(thing, nn.Module):
        raise UserError("a module alone has no data: name a tuple (module, (inputs, targets), loss) or a Problem in the file")
    elif not isinstance(thing, Problem) and callable(thing) and x is None:
        x = _default(thing)
    return gradcheck(thing, x, loss=loss, **options)


def _point(at: str | None) -> Any:
    if at is None:
        return None
    try:
        x = ast.literal_eval(at)
    except (ValueError, SyntaxError):
        x = None
    if not isinstance(x, int | float | list | tuple):
        raise UserError(f'--at {at} must be a number or numbers, such as 1.5 or "[1, 2]"')
    return list(x) if isinstance(x, tuple) else x


def _default(function: Callable) -> Any:
    """The default of the function's first argument: the point at which its author looks at it."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None or not isinstance(first.default, Tensor | float | int | list | tuple | dict):
        name = getattr(function, "__name__", "the function")
        raise UserError(f'{name} needs a point: give --at "[1, 2]", or its first argument a default, such as def {name}(x=torch.ones(3))')
    return first.default
