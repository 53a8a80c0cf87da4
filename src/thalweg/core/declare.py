"""Declarations of losses, models and data sets: what makes a function in a shelf's file an entry of the catalogue.

    @loss(tasks=("regression",), target="float")
    def mse(output, target): ...

    @model(tasks=("regression", "binary", "classes"))
    def mlp(shape, outputs, *, hidden: Count = 64) -> nn.Module: ...

    @dataset(task="classes", classes=10, shape=(64,))
    def digits() -> Table: ...

Each gives back a function with the attributes `shelf`, `name`, `doc` and the facts of its declaration.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from thalweg.core.rule import hypers_of
from thalweg.core.table import Table, Task
from thalweg.errors import UserError


def _entry(function: Callable, source: Callable, shelf: str, **facts: Any) -> Any:
    module = inspect.getmodule(source)
    name = source.__name__ if shelf == "losses" else source.__name__.replace("_", "-")
    doc = inspect.getdoc(source) or (module and inspect.getdoc(module)) or ""
    function.__dict__.update(shelf=shelf, name=name, doc=doc, **facts)
    return function


def loss(*, tasks: tuple[Task, ...], target: Literal["float", "label"]) -> Callable[[Callable], Any]:
    """Declare a loss (output, target) -> scalar, the mean over rows; it must run under `torch.func.vmap` and `grad`.

    target: "float" (targets are numbers in the shape of a one-column output) or "label" (whole numbers of shape (n,),
    one score a class).

    >>> from thalweg.losses import mse
    >>> mse.shelf, mse.name, mse.target
    ('losses', 'mse', 'float')
    """
    return lambda function: _entry(function, function, "losses", tasks=tasks, target=target)


def model(*, tasks: tuple[Task, ...], loss: str | None = None, images: bool = False) -> Callable[[Callable], Any]:
    """Declare a maker of modules (shape of one row, outputs, *, options) -> Module; options are keywords with domains.

    tasks: what it can be trained for. loss: the name of its loss where it is not the task's usual one. images: whether
    a row must be (channels, height, width). The maker raises UserError for options it does not have or that are outside
    their domain.

    >>> from thalweg.models import mlp
    >>> mlp((64,), 10, hiden=32)
    Traceback (most recent call last):
        ...
    thalweg.errors.UserError: mlp has no 'hiden'; it takes hidden, depth, activation
    """

    def read(make: Callable[..., nn.Module]) -> Any:
        name = make.__name__.replace("_", "-")
        hypers = hypers_of(make, name)

        @functools.wraps(make)
        def checked(shape: tuple[int, ...], outputs: int, **options: Any) -> nn.Module:
            for key in options:
                if key not in hypers:
                    raise UserError(f"{name} has no '{key}'; it takes {', '.join(hypers) or 'no options'}")
            return make(tuple(shape), outputs, **{k: hypers[k].domain.check(v, f"{name}: {k}") for k, v in options.items()})

        return _entry(checked, make, "models", tasks=tasks, loss=loss, images=images, hypers=hypers)

    return read


def dataset(*, task: Task, shape: tuple[int, ...], classes: int = 0) -> Callable[[Callable], Any]:
    """Declare a data set, a function () -> Table or, where it reads files, (data: folder or None) -> Table.

    The facts here are known without reading it: task, shape of one row, number of classes. The entry takes `data` in
    any case.

    >>> from thalweg.datasets import digits
    >>> digits.task, digits.shape, digits().X.shape
    ('classes', (64,), torch.Size([1797, 64]))
    """

    def read(make: Callable[..., Table]) -> Any:
        reads_files = bool(inspect.signature(make).parameters)

        @functools.wraps(make)
        def table(data: str | Path | None = None) -> Table:
            return make(data) if reads_files else make()

        return _entry(table, make, "datasets", task=task, shape=shape, classes=classes, reads_files=reads_files)

    return read


def align(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Output and target in one shape and dtype, so that (n, 1) against (n,) never broadcasts to (n, n).

    >>> import torch
    >>> [part.shape for part in align(torch.zeros(3, 1), torch.zeros(3))]
    [torch.Size([3]), torch.Size([3])]
    """
    if output.numel() != target.numel():
        raise UserError(
            f"the model's output has shape {tuple(output.shape)} and the targets {tuple(target.shape)}: "
            "this loss takes one number a target; make the model's last layer as wide as the targets"
        )
    return output.reshape(target.shape), target.to(output.dtype)
