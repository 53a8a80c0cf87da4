"""The command of pictures of rules on functions: trace."""

from __future__ import annotations

import json as jsonlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from thalweg.cli import terminal
from thalweg.cli.options import json_option
from thalweg.errors import UserError


class InOrder(click.Command):
    """A command on which a rate stands behind the optimizer that it is for: `-o momentum --lr 1e-3` is `-o 'momentum[lr=1e-3]'`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, folded(args))


def folded(arguments: Sequence[str]) -> list[str]:
    """Each `--lr` put into the brackets of the `-o` before it; one before any `-o` stays.

    >>> folded(["-o", "sgd[momentum=0.9]", "--lr", "1e-3", "-oadam", "--lr=0.1", "-o", "lion"])
    ['-o', 'sgd[momentum=0.9, lr=1e-3]', '-o', 'adam[lr=0.1]', '-o', 'lion']
    """
    found: list[str] = []
    rest, last = list(arguments), None
    while rest:
        word = rest.pop(0)
        name = re.match(r"(-o|--optimizer=|--lr=)(.+)", word)
        value = name[2] if name else rest.pop(0) if word in ("-o", "--optimizer", "--lr") and rest else None
        if value is None:
            found.append(word)
        elif word.startswith("--lr") and last is not None:
            inside = found[last][:-1] if found[last].endswith("]") else f"{found[last]}["
            found[last] = f"{inside}{'' if inside.endswith('[') else ', '}lr={value}]"
        elif word.startswith("--lr"):
            found += ["--lr", value]
        else:
            found += ["-o", value]
            last = len(found) - 1
    return found


@click.command(cls=InOrder)
@click.argument("function", required=False)
@click.option("-o", "--optimizer", "optimizers", multiple=True, metavar="NAME[KEY=VALUE,...]",
              help="A rule, or file.py:rule; repeat it. [default: sgd, momentum, adam]")  # fmt: skip
@click.option("--lr", help="The rate of the -o before it; before any -o, of all that have none of their own.")
@click.option("--steps", type=int, default=50, show_default=True, help="Updates of each rule.")
@click.option("--start", metavar="NUMBERS", help='Where to begin, such as "-5, -2" [default: the function\'s own].')
@click.option("--noise", type=float, default=0.0, metavar="SD", help="Standard deviation of what is added to every gradient.")
@click.option("--bias", type=float, default=0.0, metavar="B", help="What is added to every gradient besides.")
@click.option("--schedule", metavar="NAME", help="A schedule of the rate; 'sgd[schedule=cosine]' for one rule alone.")
@click.option("--lecture", metavar="NAME", help="A picture of the lecture instead: gd-rates, x-cos, saddle, noisy-sgd, valley.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise.")
@click.option("--to", "files", multiple=True, metavar="FILE",
              help="A .png, .svg, .gif or .html to write; repeat it. [default: outputs/trace-<function>.png and .html]")  # fmt: skip
@json_option
def trace(
    function: str | None, optimizers: tuple[str, ...], lr: str | None, start: str | None, lecture: str | None, files: tuple[str, ...],
    as_json: bool, seed: int, **asked: Any,
) -> None:  # fmt: skip
    """Draw the paths of several rules on FUNCTION, with a page whose slider goes through the steps.

    FUNCTION is a test function of one or two variables (thalweg list functions), or file.py:function of a tensor, with --start.

    \b
    thalweg trace rosenbrock -o momentum --lr 1e-3 -o adam --lr 0.1 --steps 200
    thalweg trace bowl -o sgd --lr 0.1 --noise 1 --schedule 'exponential(rate=0.1)' --to path.gif
    thalweg trace --lecture gd-rates
    """
    from thalweg.study import tracing

    if (function is None) == (lecture is None):
        raise UserError("name a function to follow, or a picture of the lecture with --lecture, one of the two")
    for name in files:
        _form(name)
    if lecture is not None:
        found, named = tracing.lecture(lecture, seed), lecture
    else:
        assert function is not None
        chosen = optimizers or ("sgd", "momentum", "adam")
        given = [folded(["-o", one, "--lr", lr])[1] if lr is not None and not re.search(r"[\[,;]\s*lr\s*=", one) else one for one in chosen]
        from thalweg.cli.solving import numbers_of

        found = tracing.trace(function, given, start=numbers_of(start, "--start") if start is not None else None, seed=seed, **asked)
        named = Path(function.rpartition(":")[2]).stem if ".py:" in function else function
    table = found.table()
    if as_json:
        click.echo(jsonlib.dumps(_plain(found)))
        targets: Sequence[str] = files
    else:
        rows = [
            {**{str(k): v for k, v in row.items()}, "end": ", ".join(f"{v:.6g}" for v in row["end"])} for row in table.to_dict("records")
        ]
        if (table["diverged_at"] < 0).all():
            rows = [{k: v for k, v in row.items() if k != "diverged_at"} for row in rows]
        terminal.table(rows, found.name)
        targets = files or [f"outputs/trace-{named}.png", f"outputs/trace-{named}.html"]
    for target in targets:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        written = found.save(target)
        if not as_json:
            click.echo(f"written to {written}")


def _form(name: str) -> None:
    from thalweg.explain.trace import FORMS

    if Path(name).suffix.lower().removeprefix(".") not in FORMS:
        raise UserError(f"--to {name} must end in .{', .'.join(FORMS)}")


def _plain(found: Any) -> dict[str, Any]:
    def numbers(values: Any) -> Any:
        if isinstance(values, list):
            return [numbers(value) for value in values]
        return values if math.isfinite(values) else None

    return {
        "name": found.name, "paths": {k: numbers(v.tolist()) for k, v in found.paths.items()},
        "losses": {k: numbers(v.tolist()) for k, v in found.losses.items()}, "minimisers": [list(m) for m in found.minimisers],
    }  # fmt: skip


def add_to(group: click.Group) -> None:
    group.add_command(trace)
