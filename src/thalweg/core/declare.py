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
from typing import Annotated, Any, Literal

from torch import Tensor, nn

from thalweg.core.domain import Domain, domain_of
from thalweg.core.rule import Hyper, hypers_of
from thalweg.core.table import Table, Task
from thalweg.errors import UserError

Width = Annotated[int, Domain("Width", kind="int", low=1)]
"""How many units, channels or layers: a whole number from 1 on."""

Probability = Annotated[float, Domain("Probability", low=0, high=1, open_high=True)]
"""With which something is dropped, in [0, 1)."""

Reduction = Literal["mean", "sum"]
"""What a loss makes of the losses of its rows."""

SMALLEST = 8
"""Pixels of the shortest side of an image that the models for images take."""


def _entry(function: Callable, source: Callable, shelf: str, **facts: Any) -> Any:
    module = inspect.getmodule(source)
    name = source.__name__ if shelf == "losses" else source.__name__.replace("_", "-")
    doc = inspect.getdoc(source) or (module and inspect.getdoc(module)) or ""
    function.__dict__.update(shelf=shelf, name=name, doc=doc, **facts)
    return function


def loss(*, tasks: tuple[Task, ...], target: Literal["float", "label"]) -> Callable[[Callable], Any]:
    """Declare a loss (output, target, reduction) -> scalar; it must run under `torch.func.vmap` and `grad`.

    target: "float" (targets are numbers in the shape of a one-column output) or "label" (whole numbers of shape (n,),
    one score a class). The entry is called (output, target) for the mean, and takes reduction="sum" for the sum of what
    it is the mean of; it raises UserError for another reduction.

    >>> import torch
    >>> from thalweg.losses import mse
    >>> mse.shelf, mse.name, mse.target
    ('losses', 'mse', 'float')
    >>> mse(torch.tensor([1.0, 3.0]), torch.zeros(2)), mse(torch.tensor([1.0, 3.0]), torch.zeros(2), reduction="sum")
    (tensor(5.), tensor(10.))
    """

    def read(function: Callable[..., Tensor]) -> Any:
        @functools.wraps(function)
        def checked(output: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
            if reduction not in ("mean", "sum"):
                raise UserError(f"{function.__name__}: reduction = {reduction!r} is not one of mean, sum")
            return function(output, target, reduction)

        return _entry(checked, function, "losses", tasks=tasks, target=target)

    return read


def reduced(values: Tensor, reduction: Reduction) -> Tensor:
    """The mean or the sum of losses."""
    return values.mean() if reduction == "mean" else values.sum()


def model(*, tasks: tuple[Task, ...], loss: str | None = None, images: bool = False) -> Callable[[Callable], Any]:
    """Declare a maker of modules (shape of one row, outputs, *, options) -> Module; options are keywords with domains.

    tasks: what it can be trained for. loss: the name of its loss where it is not the task's usual one. images: whether
    a row must be (channels, height, width). The maker raises UserError for options it does not have or that are outside
    their domain, and for rows that are no images where it needs them. Its `preset(name, doc, **options)` makes an entry
    of its own for the same maker with some options fixed.

    >>> from thalweg.models import mlp
    >>> mlp((64,), 10, hiden=32)
    Traceback (most recent call last):
        ...
    thalweg.errors.UserError: mlp has no 'hiden'; it takes hidden, depth, activation, batch_norm, dropout
    """

    def read(make: Callable[..., nn.Module]) -> Any:
        name = make.__name__.replace("_", "-")
        return _maker(make, hypers_of(make, name), {"tasks": tasks, "loss": loss, "images": images})

    return read


def _maker(make: Callable[..., nn.Module], hypers: dict[str, Hyper], facts: dict[str, Any]) -> Any:
    name = make.__name__.replace("_", "-")

    @functools.wraps(make)
    def checked(shape: tuple[int, ...], outputs: int, **options: Any) -> nn.Module:
        for key in options:
            if key not in hypers:
                raise UserError(f"{name} has no '{key}'; it takes {', '.join(hypers) or 'no options'}")
        if facts["images"] and (len(shape) != 3 or min(shape[1:]) < SMALLEST or shape[0] < 1):
            raise UserError(
                f"{name} needs images, (channels, height, width) of at least {SMALLEST}x{SMALLEST} pixels, and a row has shape "
                f"{tuple(shape)}; reshape the inputs, or take mlp"
            )
        return make(tuple(shape), outputs, **{k: hypers[k].domain.check(v, f"{name}: {k}") for k, v in options.items()})

    def preset(title: str, doc: str, **settings: Any) -> Any:
        fixed = {k: hypers[k].domain.check(v, f"{title}: {k}") for k, v in settings.items()}

        def variant(shape: tuple[int, ...], outputs: int, **options: Any) -> nn.Module:
            return make(shape, outputs, **fixed, **options)

        # workers find it by these names in the file that it stands in
        variant.__name__, variant.__qualname__, variant.__module__, variant.__doc__ = title, title, make.__module__, doc
        return _maker(variant, {k: h for k, h in hypers.items() if k not in fixed}, facts)

    return _entry(checked, make, "models", hypers=hypers, preset=preset, **facts)


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


def within(annotation: Any, value: Any, label: str) -> Any:
    """The value in the type of the domain in an annotation, or UserError naming `label` and what is allowed.

    >>> within(Width, 3, "Layer: width")
    3
    """
    domain = domain_of(annotation)
    assert domain is not None
    return domain.check(value, label)
