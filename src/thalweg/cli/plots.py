"""What `thalweg list schedules --plot` draws: every schedule of the shelf over 100 updates, with arguments found by their names."""

from __future__ import annotations

import inspect
import json as jsonlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from thalweg.core import catalogue
from thalweg.core.schedule import Multiplier
from thalweg.errors import UserError

TOTAL = 100

ARGUMENTS: dict[str, Any] = {
    "total": TOTAL, "every": 30, "milestones": [30, 60], "values": [1.0, 0.5, 0.2], "rate": 0.03, "factor": 0.97,
}  # fmt: skip
"""Arguments without a default, by name."""

GUESSES = (0.5, TOTAL // 4, [TOTAL // 4, TOTAL // 2])
"""For an argument of any other name: a share, a number of updates, milestones; the first that makes a schedule."""

BARS, PLAIN = " ▁▂▃▄▅▆▇█", "    .####"
"""The eighths of a cell, and what stands for them where the output has no such letters."""

WIDE, HIGH = 40, 5

LONGEST = 48
"""Letters that fit over a figure."""


def samples() -> list[dict[str, Any]]:
    """A row a schedule: name, schedule (its label), t = 0 ... 100, values.

    >>> rows = {row["name"]: row for row in samples()}
    >>> rows["cosine"]["schedule"], rows["cosine"]["t"][50], round(rows["cosine"]["values"][50], 6)
    ('cosine(total=100)', 50, 0.5)
    """
    made = {name: example(maker) for name, maker in catalogue.shelf("schedules").items()}
    times = list(range(TOTAL + 1))
    return [{"name": name, "schedule": _label(name, f), "t": times, "values": [float(f(t)) for t in times]} for name, f in made.items()]


def example(maker: Callable[..., Multiplier]) -> Multiplier:
    """A schedule with its defaults, and with values that suit the names of the arguments that have none."""
    needed = [p.name for p in inspect.signature(maker).parameters.values() if p.default is p.empty]
    for guess in GUESSES:
        try:
            return maker(**{name: ARGUMENTS.get(name, guess) for name in needed})
        except UserError as error:
            refused = error
    raise UserError(f"no example of a schedule is known: {refused}; name its arguments as {', '.join(ARGUMENTS)}, or give them defaults")


def _label(name: str, f: Any) -> str:
    return str(getattr(f, "label", name)).replace("()", "")


def plot(what: str | None, to: Path | None, as_json: bool) -> None:
    """Show the schedules as pictures in the terminal, as numbers, or in a file."""
    if what != "schedules":
        raise UserError("--plot draws the schedules alone; write thalweg list schedules --plot")
    if to is not None and to.suffix.lower() != ".svg":
        raise UserError(f"--to {to}: the picture is an SVG; name a file that ends in .svg, such as schedules.svg")
    rows = samples()
    if to is not None:
        from thalweg.core.files import write_whole

        write_whole(to, picture(rows) + "\n")
    if as_json:
        click.echo(jsonlib.dumps(rows))
    elif to is not None:
        click.echo(to)
    else:
        _print(rows)


# --- in a terminal


def _print(rows: Sequence[dict[str, Any]]) -> None:
    from rich.columns import Columns
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    glyphs = PLAIN if console.options.ascii_only else BARS
    drawn = []
    for row in rows:
        text = Text(no_wrap=True)
        text.append(row["schedule"] + "\n", style="bold")
        text.append("\n".join(small(row["values"], glyphs)) + "\n", style="cyan")
        drawn.append(text)
    console.print(Columns(drawn, padding=(0, 4)))


def small(values: Sequence[float], glyphs: str = BARS, wide: int = WIDE, high: int = HIGH) -> list[str]:
    """A curve as lines of bars, highest first, with the ends of both axes.

    >>> print("\\n".join(small([0.0, 0.25, 0.5, 0.75, 1.0], wide=5, high=2)))
    1 |   ▄█
    0 | ▄███
      0    4
    """
    top = max(1.0, *values)
    levels = [values[round(k * (len(values) - 1) / max(wide - 1, 1))] / top * high for k in range(wide)]
    lines, margin = [], len(f"{top:g}")
    for row in reversed(range(high)):
        label = f"{top:g}" if row == high - 1 else "0" if row == 0 else ""
        lines.append(f"{label:>{margin}} |" + "".join(glyphs[math.ceil(8 * min(max(level - row, 0.0), 1.0) - 1e-9)] for level in levels))
    return [*lines, " " * margin + f" 0{len(values) - 1:>{wide}}"]


# --- as a file


def picture(rows: Sequence[dict[str, Any]]) -> str:
    """All curves as one SVG, each on axes of its own."""
    from thalweg.study.svg import sheet

    return sheet([_figure(row) for row in rows], "Schedules: what the base value is multiplied by, after t updates")


def _figure(row: dict[str, Any]) -> dict[str, Any]:
    xs, ys = upright(row["t"], row["values"])
    line = {"x": xs, "y": ys, "meta": {"series": 0, "role": "line"}, "line": {}}
    ranges = {"linear": (0.0, 1.05 * max(1.0, *row["values"]))}
    title = row["schedule"] if len(row["schedule"]) <= LONGEST else row["schedule"][: LONGEST - 3] + "..."
    return {"title": title, "log": False, "ranges": ranges, "layout": {"xaxis": {"title": {"text": "t"}}}, "data": [line]}


def upright(times: Sequence[int], values: Sequence[float]) -> tuple[list[int], list[float]]:
    """A curve's points, with a corner where one flat piece gives way to another: a straight line between the two would be a slope.

    >>> upright([0, 1, 2, 3], [1.0, 1.0, 0.5, 0.5])
    ([0, 1, 2, 2, 3], [1.0, 1.0, 1.0, 0.5, 0.5])
    """
    xs, ys = [], []
    for k, (t, value) in enumerate(zip(times, values, strict=True)):
        if 2 <= k < len(values) - 1 and values[k - 2] == values[k - 1] != value == values[k + 1]:
            xs.append(t)
            ys.append(values[k - 1])
        xs.append(t)
        ys.append(value)
    return xs, ys
