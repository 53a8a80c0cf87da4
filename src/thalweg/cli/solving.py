"""The commands of functions: minimize and gradcheck."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping
from typing import Any

import click

from thalweg.cli import terminal
from thalweg.cli.options import json_option
from thalweg.errors import UserError, unknown

ROWS = 12
"""Iterations that the table shows: the first ones and the last."""


@click.command()
@click.argument("function")
@click.option(
    "--method", default="auto", show_default=True, help="thalweg list directions; under constraints sqp, augmented, penalty, projected."
)
@click.option("--search", default="wolfe", show_default=True, help="wolfe, armijo, bisection, fixed, or the length of every step.")
@click.option("--start", metavar="NUMBERS", help='Where to begin, such as "-1.2, 1" [default: the function\'s own].')
@click.option("--size", type=int, metavar="N", help="How many variables, of a function that has several sizes.")
@click.option("--tol", type=float, default=1e-8, show_default=True, help="The largest entry of the gradient at which it ends.")
@click.option("--max-iterations", type=int, help="[default: 10,000]")
@click.option("--max-evaluations", type=int, help="Of value and gradient.")
@click.option("--convex", is_flag=True, help="Your word that the problem is convex: a minimum is then reported as global.")
@json_option
def minimize(function: str, start: str | None, size: int | None, search: str, as_json: bool, **asked: Any) -> None:
    """Minimise FUNCTION and say what was found: each iteration, the solution, and its certificate in words.

    FUNCTION is a test function (thalweg list functions), or file.py:object: a function of a tensor, with --start, or the arguments of
    tw.minimize as a dict.

    \b
    thalweg minimize rosenbrock --method bfgs
    thalweg minimize mine.py:valley --start "-1.2, 1" --json
    """
    from thalweg.solve.minimize import minimize as solve

    given = _arguments(function, size)
    if start is not None:
        given["x0"] = numbers_of(start, "--start")
    if "x0" not in given:
        raise UserError(f'{function} needs a start: give --start "0, 0"')
    given |= {name: value for name, value in asked.items() if value is not None}
    result = solve(given.pop("fun"), given.pop("x0"), search=_search(search), **given)
    if as_json:
        click.echo(jsonlib.dumps(_plain(result)))
        return
    rows = [{k: v for k, v in row.items() if not hasattr(v, "__len__")} for row in result.trace]
    shown = rows if len(rows) <= ROWS + 1 else [*rows[: ROWS // 2], *rows[-ROWS // 2 :]]
    left = f", {len(rows) - len(shown)} left out" if len(shown) < len(rows) else ""
    terminal.table(shown, f"{function}, {result.method}: {result.iterations} iterations{left}")
    terminal.table(_facts(result))
    terminal.say([f"{result.message[:1].upper()}{result.message[1:]}"])


def _arguments(name: str, size: int | None) -> dict[str, Any]:
    """The arguments of `minimize` from a name."""
    from thalweg.core import catalogue

    if ".py:" in name:
        found = catalogue.load(name)
        if isinstance(found, Mapping):
            if "fun" not in found:
                raise UserError(f"{name} is a dict of arguments of tw.minimize without 'fun'; it needs fun and x0")
            return dict(found)
        if not callable(found):
            raise UserError(
                f"{name} is a {type(found).__name__}; it should be a function of a tensor, or a dict of arguments of tw.minimize"
            )
        return {"fun": found}
    known = catalogue.shelf("functions")
    if name not in known:
        raise unknown("function", name, known)
    return {"fun": known[name], "x0": known[name].start(size), **known[name].constraints}


def numbers_of(text: str, label: str) -> list[float]:
    try:
        return [float(part) for part in text.strip("[]() ").replace(",", " ").split()]
    except ValueError:
        raise UserError(f'{label} {text} must be numbers, such as "-1.2, 1"') from None


def _search(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _facts(result: Any) -> list[dict[str, str]]:
    facts: dict[str, Any] = {"x": _text(result.x), "value": f"{result.value:.12g}", "gradient": f"{result.gradient_norm:.3g}"}
    facts |= {f"multipliers, {name}": _text(values) for name, values in result.multipliers.items() if len(values)}
    found = result.certificate
    if found is not None and found.curvature is not None:
        facts["smallest curvature"] = f"{found.curvature:.6g}, {found.margin:.2g} round-offs from 0"
    if found is not None and found.active:
        facts["active"] = ", ".join(found.active)
    facts["evaluations"] = ", ".join(f"{v} {k}" for k, v in vars(result.evaluations).items() if v)
    return [{"": name, "found": value} for name, value in facts.items()]


def _text(value: Any) -> str:
    numbers = [f"{v:.9g}" for v in value.detach().flatten().tolist()] if hasattr(value, "detach") else [str(value)]
    return ", ".join(numbers[:8]) + (f", ... ({len(numbers)} numbers)" if len(numbers) > 8 else "")


def _plain(value: Any) -> Any:
    """A result as JSON holds it, under the names of its attributes."""
    from dataclasses import fields, is_dataclass

    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.detach().tolist() if hasattr(value, "detach") else value.tolist())
    if isinstance(value, float) and value != value:
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


@click.command()
@click.argument("function")
@click.option("--at", metavar="NUMBERS", help='The point, such as 1.5 or "[1, 2]" [default: that of its first argument].')
@click.option("--differences", type=click.Choice(["central", "forward"]), default="central", show_default=True)
@click.option("--h", "h", type=float, help="The step of the differences [default: by the precision of the values].")
@click.option("--tolerance", type=float, default=1e-5, show_default=True, help="The relative error allowed.")
@click.option("--coordinates", type=int, default=100, show_default=True, help="At most so many of each tensor, drawn by --seed.")
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def gradcheck(function: str, as_json: bool, **asked: Any) -> None:
    """Compare the gradient of FUNCTION with differences, number by number, and name what is wrong.

    FUNCTION is file.py:object: a function of a tensor, a Problem, or a tuple (module, (inputs, targets), loss). Exit code 1 where the
    gradient is wrong.

    \b
    thalweg gradcheck mine.py:f --at "[1, 2]"
    """
    from thalweg.calculus import check_object
    from thalweg.core import catalogue

    if ".py:" not in function:
        raise UserError(f"{function} names no object; write file.py:f, or for a test function use thalweg minimize")
    found = check_object(catalogue.load(function), **asked)
    if as_json:
        click.echo(jsonlib.dumps({"ok": found.ok, "offending": list(found.offending), "kinks": list(found.kinks), **_plain(found)}))
    else:
        click.echo(str(found))
    if not found.ok:
        raise SystemExit(1)


def add_to(group: click.Group) -> None:
    for command in (minimize, gradcheck):
        group.add_command(command)
