"""A probe: a plain function that measures a model, its loss and its data, and leaves all of them as they were.

    @probe
    def sharpness(model, loss, data, optimizer, ...) -> Sharpness: ...

What is declared runs with the parameters, the buffers, `.grad`, the modes, the states of the optimizer and all random states kept: they are
afterwards what they were to the last bit, also where the probe raises. Here is also what probes share.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.core.problem import Problem, rows, tensors
from thalweg.core.stream import Stream
from thalweg.errors import UserError

Probe = TypeVar("Probe", bound=Callable[..., Any])


# --- the declaration


def probe(function: Probe) -> Probe:
    """Declare a probe: a function whose `model` and `optimizer`, if it takes them, are left untouched.

    What is given back has `shelf`, `name` and `doc`.

    >>> @probe
    ... def weights(model): return sum(p.numel() for p in model.parameters())
    >>> weights.shelf, weights.name, weights(nn.Linear(2, 1))
    ('probes', 'weights', 3)
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        model, optimizer = given.get("model"), given.get("optimizer")
        module = model if isinstance(model, nn.Module) else None
        with untouched(module, optimizer if isinstance(optimizer, torch.optim.Optimizer) else None):
            return function(*args, **kwargs)

    doc = inspect.getdoc(function) or inspect.getdoc(inspect.getmodule(function)) or ""
    measured.__dict__.update(shelf="probes", name=function.__name__, doc=doc, function=function)
    return measured  # type: ignore[return-value]


# --- what a probe is given


def problem_of(model: Any, loss: Any, data: Any, step: Any = None) -> Problem:
    """The problem that a probe's arguments stand for, with tensors as its training data; a Problem brings its own loss and rows.

    Raises UserError where the model is no module, or the loss or the data is missing, empty or of another kind.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"a probe takes a module at whose weights to measure, not {type(model).__name__}")
    given = next((one for one in (loss, data) if isinstance(one, Problem)), None)
    if given is not None:
        loss, step = (None if loss is given else loss) or given.loss, step or given.step
        loss = None if step is not None else loss
        data = given.train if data is None or data is given else data
    if data is None:
        raise UserError("data is missing: give a pair of tensors (X, y), a dict of tensors, a Dataset or a Problem")
    if step is not None:
        loss = None
    for name, value in (("loss", loss), ("step", step)):
        if value is not None and not callable(value):
            raise UserError(f"{name} must be a function that gives one number, not {type(value).__name__}")
    if loss is None and step is None:
        raise UserError("the loss is missing: give a function (output, targets) -> scalar, or step=, (model, batch) -> scalar")
    try:
        data = tensors(data)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the data cannot be read as tensors: {str(error).splitlines()[0]}") from error
    if isinstance(data, Stream):
        raise UserError("a probe measures the same rows several times, which a stream does not give: give it some of them as tensors")
    if rows(data) == 0:
        raise UserError("the data has no rows: there is no loss to measure")
    return Problem(lambda: model, loss, train=data, step=step)


def whole(name: str, value: Any, least: int) -> int:
    """An option that counts; UserError where it is no whole number, or too small."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} = {value!r} must be a whole number of at least {least}")
    return value


def copied(model: nn.Module, train: bool = False, double: bool = False) -> nn.Module:
    """A copy of a module in evaluation mode, or in training mode, and if asked in double precision.

    Tensors kept in the module that are results of a computation, which Python's deepcopy refuses, are copied as constants.
    """
    kept = {id(t): t.detach().clone() for part in model.modules() for t in vars(part).values() if isinstance(t, Tensor) and t.grad_fn}
    try:
        found = copy.deepcopy(model, memo=kept)
    except Exception as error:
        raise UserError(f"the model cannot be copied, and a probe measures on a copy: {str(error).splitlines()[0]}") from error
    found.train(train)
    return found.double() if double else found


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that need a gradient, by name; UserError where there are none."""
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise UserError("the model has no parameter that needs a gradient: there is nothing to differentiate by")
    return found


def one_number(loss: Any) -> Tensor:
    """A loss, checked: one finite number that depends on the parameters."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise UserError(f"the loss must be one number, but it came out as {shape}; take its mean")
    if not bool(loss.isfinite()):
        raise UserError(f"the loss is {float(loss.detach()):g} at the model's weights: nothing can be measured there; take other weights")
    if not loss.requires_grad:
        raise UserError("the loss does not depend on any trainable parameter: there is nothing to differentiate by")
    return loss.reshape(())


# --- what is left alone


@contextlib.contextmanager
def untouched(model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
    """A block after which a model, an optimizer and all random states (torch's on every device, numpy's, python's) are what they were.

    Of the model: parameters, buffers, `.grad`, which parameters need one, and modes; of the optimizer: its groups and states. Only what was
    changed is put back, so that graphs of the caller's that hold the parameters can still be walked.
    """
    back = [*(_model(model) if model is not None else ()), *(_optimizer(optimizer) if optimizer is not None else ())]
    numbers, words = np.random.get_state(), random.getstate()
    host = torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        for restore in back:
            restore()
        np.random.set_state(numbers)
        random.setstate(words)
        torch.set_rng_state(host)
        if devices:
            torch.cuda.set_rng_state_all(devices)


def _model(model: nn.Module) -> Iterator[Callable[[], None]]:
    for part in model.modules():
        yield functools.partial(part.__dict__.__setitem__, "training", part.training)
    for p in model.parameters():
        yield functools.partial(setattr, p, "requires_grad", p.requires_grad)
        yield functools.partial(_slope, p, p.grad, _kept(p.grad))
    for t in (*model.parameters(), *model.buffers()):
        yield functools.partial(_put, t, _kept(t))


def _optimizer(optimizer: torch.optim.Optimizer) -> Iterator[Callable[[], None]]:
    for group in optimizer.param_groups:
        yield functools.partial(_table, group, {key: (value, _kept(value)) for key, value in group.items()})
    for state in optimizer.state.values():
        if isinstance(state, dict):
            yield functools.partial(_table, state, {key: (value, _kept(value)) for key, value in state.items()})
    known = list(optimizer.state)
    yield functools.partial(_only, optimizer.state, known)


def _only(state: dict[Any, Any], known: list[Any]) -> None:
    for key in [key for key in state if not any(key is one for one in known)]:
        del state[key]


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _put(tensor: Tensor, was: Tensor) -> None:
    """Write what a tensor was, where it is that no more, bit by bit: nan is nan, and -0 is not 0."""
    if tensor.shape == was.shape and tensor.dtype == was.dtype and _bits(tensor, was):
        return
    with torch.no_grad():
        tensor.data = was.to(tensor.device) if tensor.shape != was.shape or tensor.dtype != was.dtype else tensor.data.copy_(was)


def _bits(one: Tensor, other: Tensor) -> bool:
    if one.layout is not torch.strided:
        return False
    one, other = one.detach(), other.detach()
    if torch.equal(one, other):
        return not one.is_floating_point() or torch.equal(one.signbit(), other.signbit())
    return (
        one.is_floating_point()
        and torch.equal(one.nan_to_num(nan=0.0), other.nan_to_num(nan=0.0))
        and bool((one.isnan() == other.isnan()).all())
    )


def _slope(p: nn.Parameter, slope: Tensor | None, was: Tensor | None) -> None:
    if p.grad is not slope:
        p.grad = slope
    if slope is not None and was is not None:
        _put(slope, was)


def _table(table: dict[str, Any], was: dict[str, tuple[Any, Any]]) -> None:
    for key in [key for key in table if key not in was]:
        del table[key]
    for key, (value, kept) in was.items():
        if table.get(key) is not value or key not in table:
            table[key] = value
        if isinstance(value, Tensor):
            _put(value, kept)
