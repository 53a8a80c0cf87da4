"""The options that commands of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from thalweg.errors import UserError


def options(*added: Callable) -> Callable:
    """Several click options as one decorator."""

    def decorate(function: Callable) -> Callable:
        for option in reversed(added):
            function = option(function)
        return function

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, under the names of the Python attributes.")

length_options = options(
    click.option("--steps", type=int, help="Updates a run."),
    click.option("--epochs", type=float, help="Passes over the training rows, instead of --steps."),
    click.option("--batch-size", type=int, help="Rows a batch."),
    click.option("--full-batch", is_flag=True, default=None, help="All training rows in every batch."),
)  # fmt: skip

problem_options = options(
    click.option("--target", help="The column to predict, when the problem is a CSV file."),
    click.option("--model", help="The model for a CSV file."),
    click.option("--all-rows", is_flag=True, default=None, help="Train on all rows; scores are then training scores."),
    click.option("--standardize/--no-standardize", default=None, help="Scale features by the training rows' mean and deviation."),
    click.option("--data", metavar="DIR", help="Look for data files in this folder only."),
)  # fmt: skip

machine_options = options(
    click.option("--device", help="cuda, mps or cpu [default: the best there is]."),
    click.option("--accumulate", type=int, metavar="N", help="Take each batch's gradient in N parts, which needs less memory."),
)  # fmt: skip

study_options = options(
    click.option("-o", "--optimizer", "optimizers", multiple=True, metavar="NAME[KEY=VALUE,...]",
                 help="An optimizer, or file.py:rule; repeat it. Several values or low..high are searched: 'sgd[momentum=0.9,0.99]'."),
    click.option("--seeds", type=int, help="Fresh seeds on which each chosen configuration is rerun (a sweep: seeds of each run)."),
    length_options,
    click.option("--schedule", multiple=True, metavar="NAME", help="A schedule of the learning rate; several are searched."),
    problem_options,
    click.option("--out", metavar="DIR", help="The study's folder [default: outputs/<name>]. The same study there is resumed."),
    click.option("--seed", type=int, help="Seed of the tuning runs; the final runs use the seeds after it."),
    click.option("--engine", type=click.Choice(["auto", "fleet", "pool", "solo"]), help="How runs are trained [default: auto]."),
    machine_options,
    click.option("--precision", type=click.Choice(["full", "bf16"]), help="bf16: forwards under bfloat16 autocast; results are marked."),
    click.option("--memory", metavar="SIZE", help="How much a fleet may take beside the data, such as 4GB; larger ones are split."),
    click.option("--time", "time_text", metavar="TIME", help="Begin nothing new after this long (90s, 10m, 1h); run again to go on."),
    click.option("--dry-run", is_flag=True, help="Say how many runs, which engine, how long and how much memory; train nothing."),
    click.option("--diagnose", is_flag=True, help="Then say what is wrong with each chosen configuration; the report shows it."),
    click.option("--live", is_flag=True, help="Serve the report to this machine's browser while the study runs; its address is printed."),
    click.option("--port", type=click.IntRange(0, 65535), help="The live page's port [default: a free one]."),
    click.option("--quiet", is_flag=True, help="No progress."),
    json_option,
)  # fmt: skip


def settings_of(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """`digits-mlp --lr 0.1,1 --momentum=0.9` as the problem and settings of the optimizers."""
    from thalweg.study.spec import parse_settings

    pairs, rest, problems = [], list(arguments), []
    while rest:
        head = rest.pop(0)
        if not head.startswith("--"):
            problems.append(head)
            continue
        name, equals, value = head[2:].partition("=")
        if not equals:
            if not rest:
                raise UserError(f"--{name} needs a value, such as --{name} 0.1,1")
            value = rest.pop(0)
        pairs.append(f"{name.replace('-', '_')}={value}")
    if len(problems) != 1:
        raise UserError(f"name one problem, not {', '.join(problems) or 'none'}; hyperparameters are written --name value")
    return problems[0], parse_settings(";".join(pairs), " ".join(arguments))
