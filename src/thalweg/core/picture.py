"""A picture: a function of a trained model, its data or its history, whose signature is its declaration.

    @picture
    def confusion_matrix(model, test, classes=None) -> Figure: ...

The names of its parameters are requests, as pytest's fixtures are: REQUESTS says what there is. One without a default must be there; one
with the default None is used where it is there. Any other parameter is a keyword with a default, an option of the caller's. The function
returns a `matplotlib.figure.Figure`, or raises UserError where it does not apply. It gets its requests checked, runs with the model in
evaluation mode and without gradients, and the model and the random state are afterwards as they were. What pictures share is in
`thalweg.core.canvas`; matplotlib is imported when a picture is drawn, and pyplot never is.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thalweg.core import catalogue
from thalweg.core.files import write_whole
from thalweg.core.problem import rows, tensors
from thalweg.errors import UserError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

REQUESTS = MappingProxyType(
    {
        "model": "the module: rows (n, ...) -> scores (n, classes), or one logit a row, (n,) or (n, 1), whose sign is the class",
        "train": "the training rows, a pair (inputs, targets) of tensors",
        "valid": "the validation rows, such a pair",
        "test": "the test rows, such a pair",
        "history": "the run's table, a row a record or an evaluation, with the column step (updates done): a record has epoch, lr and loss"
        " (of its batch), an evaluation epoch, train_<metric> and valid_<metric>, such as valid_loss; the rest is nan or absent",
        "classes": "the classes' names in the order of their labels",
        "landscape": "losses on a line or a plane, what `thalweg.probes.landscape` gives: alphas, betas, losses, path, explained",
        "spectrum": "eigenvalues of a Hessian, what `thalweg.probes.spectrum` gives: values, residuals, largest, smallest",
        "flow": "layers, what `thalweg.probes.gradients` gives: layers, each with name, weight, gradient, update_ratio, signal, dead",
        "trace": "paths of rules on a function of one or two variables, what `thalweg.trace` gives: paths, losses, function, minimisers",
    }
)


# --- the declaration


def picture(function: Callable[..., Figure]) -> Any:
    """Declare a picture: a function of requests, as the module says.

    What is given back has `shelf`, `name`, `doc`, and `requests`, request -> whether it is needed. Raises UserError when the signature asks
    for what there is not.

    >>> @picture  # doctest: +ELLIPSIS
    ... def weights(model, optimizer): ...
    Traceback (most recent call last):
        ...
    thalweg.errors.UserError: no request of weights is called 'optimizer'; (known: ...)
    """
    signature, name = inspect.signature(function), function.__name__
    requests = {}
    for key, parameter in signature.parameters.items():
        if key in REQUESTS:
            requests[key] = parameter.default is parameter.empty
        elif parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise unknown(f"request of {name}", key, REQUESTS)

    @functools.wraps(function)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        given = signature.bind(*args, **kwargs)
        for key, value in given.arguments.items():
            if key in REQUESTS and (value is not None or requests[key]):
                given.arguments[key] = _CHECKS[key](value, f"{name}: {key}")
        with _at_rest(given.arguments.get("model")):
            return function(*given.args, **given.kwargs)

    doc = inspect.getdoc(function) or inspect.getdoc(inspect.getmodule(function)) or ""
    drawn.__dict__.update(shelf="pictures", name=name, doc=doc, requests=requests, function=function)
    return drawn


def _module(value: Any, label: str) -> nn.Module:
    if not isinstance(value, nn.Module):
        raise UserError(f"{label} must be a torch.nn.Module, not {type(value).__name__}")
    return value


def _pair(value: Any, label: str) -> tuple[Tensor, Tensor]:
    data = tensors(value)
    if not isinstance(data, tuple | list) or len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        raise UserError(f"{label} must be a pair (inputs, targets) of tensors, not {type(value).__name__}")
    if rows(tuple(data)) == 0:
        raise UserError(f"{label} has no rows; give one at least")
    return data[0], data[1]


def _table(value: Any, label: str) -> pd.DataFrame:
    import pandas as pd

    try:
        table = pd.DataFrame(value)
    except (ValueError, TypeError):
        raise UserError(f"{label} must be a table, such as a list of rows or a pandas.DataFrame, not {type(value).__name__}") from None
    if "step" not in table or not len(table):
        raise UserError(f"{label} needs the column step, the updates done, and a row at least; it has {_listed(table.columns)}")
    return table.sort_values("step", kind="stable", ignore_index=True)


def _names(value: Any, label: str) -> tuple[str, ...]:
    if isinstance(value, str):
        raise UserError(f"{label} must be a list of names, one a class, not the text {value!r}")
    return tuple(str(name) for name in value)


def _having(*attributes: str) -> Callable[[Any, str], Any]:
    def check(value: Any, label: str) -> Any:
        absent = [name for name in attributes if not hasattr(value, name)]
        if absent:
            raise UserError(f"{label} must have {', '.join(attributes)}; this {type(value).__name__} lacks {', '.join(absent)}")
        return value

    return check


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "model": _module, "train": _pair, "valid": _pair, "test": _pair, "history": _table, "classes": _names,
    "landscape": _having("alphas", "betas", "losses", "kind", "path", "explained"), "flow": _having("layers"),
    "spectrum": _having("values", "residuals", "largest", "smallest"), "trace": _having("paths", "losses", "function", "minimisers"),
}  # fmt: skip


def _listed(words: Any) -> str:
    return ", ".join(str(word) for word in words) or "nothing"


@contextlib.contextmanager
def _at_rest(model: nn.Module | None) -> Iterator[None]:
    """A block in which the model evaluates without gradients; its modes and all random states are afterwards as they were."""
    modes = {part: part.training for part in model.modules()} if model is not None else {}
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"} if model is not None else set()
    with torch.no_grad(), torch.random.fork_rng(devices=sorted(devices, key=str)):
        try:
            for part in modes:
                part.training = False
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode


# --- by name


def draw(name: str, **available: Any) -> Figure:
    """The picture of that name, drawn from what of the available things it asks for, which are named as in REQUESTS; and its options.

    name: one of the shelf, or `file.py:function`. Raises UserError where something is missing or the picture does not apply.

    >>> draw("loss", model=None)
    Traceback (most recent call last):
        ...
    thalweg.errors.UserError: loss is drawn from history, which is missing
    """
    entry = catalogue.find("pictures", name)
    if getattr(entry, "shelf", None) != "pictures":
        raise UserError(f"{name} is not a picture; decorate the function with @picture of thalweg.core.picture")
    missing = [key for key, needed in entry.requests.items() if needed and available.get(key) is None]
    if missing:
        raise UserError(f"{entry.name} is drawn from {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} missing")
    return entry(**{key: value for key, value in available.items() if key in inspect.signature(entry).parameters})


def draw_all(**available: Any) -> dict[str, Figure]:
    """Every picture that can be drawn from what is available, by name: each is tried, and those that refuse are left out.

    >>> list(draw_all(history={"step": [0, 1], "loss": [2.0, 1.0]}))
    ['loss']
    """
    figures = {}
    for name in catalogue.shelf("pictures"):
        with contextlib.suppress(UserError):
            figures[name] = draw(name, **available)
    return figures


def applicable(**available: Any) -> list[str]:
    """The names of the pictures that can be drawn from what is available; see `draw_all`."""
    return list(draw_all(**available))


def encoded(figure: Figure, form: str) -> bytes:
    """A figure as PNG or SVG; the same figure gives the same bytes. Raises UserError for another form."""
    import matplotlib

    if form not in ("png", "svg"):
        raise UserError(f"a picture is PNG or SVG, not {form or 'without an ending'}; name a file that ends in .png or .svg")
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "thalweg"}):  # else the ids in an SVG are drawn at random
        figure.savefig(content, format=form, dpi=200, metadata={"Date": None} if form == "svg" else {})
    return content.getvalue()


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG or SVG, as the file's name ends, whole or not at all. The path.

    Raises UserError for another ending, and where the file cannot be written.
    """
    path = Path(path)
    write_whole(path, encoded(figure, path.suffix.lower().removeprefix(".")))
    return path
