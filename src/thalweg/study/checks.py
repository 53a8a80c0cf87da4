"""Makes a user's problem complete, and finds what is wrong with it before any work starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from thalweg.core.problem import Batch, Problem, rows, take, tensors
from thalweg.core.table import apart
from thalweg.engine.work import user_code
from thalweg.errors import UserError

TINY = 8  # rows of the batch on which model and loss are tried


def complete(problem: Problem, validate: bool = True) -> Problem:
    """The problem with its data as tensors, and a fifth of the rows set apart for each of test and valid that is missing.

    validate: whether it is to have validation rows. The draw is by seed 0, stratified where the targets are whole numbers; the rows
    keep their order. Raises what `check` raises,
    and UserError where data cannot become tensors, row counts disagree, or there are too few rows.

    >>> whole = Problem(nn.Identity, lambda out, y: (out - y).mean(), train=(torch.zeros(10, 1), torch.zeros(10, 1)))
    >>> done = complete(whole)
    >>> [rows(split) for split in (done.train, done.valid, done.test)]
    [6, 2, 2]
    """
    train = _tensors(problem.train, "train")
    if problem.all_rows:
        return replace(problem, train=train, valid=train, test=train, batch_size=problem.batch_size or min(32, rows(train)))
    given = {"valid": problem.valid if validate else None, "test": problem.test}
    splits = {name: _tensors(data, name) for name, data in given.items() if data is not None}
    missing = [name for name in ("test", "valid")[: 1 + validate] if name not in splits]
    notes = list(problem.notes)
    n = rows(train)
    share = max(1, n // 5)
    if n < len(missing) + 1:
        raise UserError(f"there are {n} training rows, too few to set some apart; give more rows, or valid=... and test=...")
    if missing:
        _inspect(problem, {"train": train})  # while rows still have the numbers that the user knows
    generator = torch.Generator().manual_seed(0)
    for name in missing:
        kept, out = apart(share, _strata(train), generator)
        splits[name] = take(train, out)
        train = take(train, kept)
    if missing:
        notes.append(f"{share} of the {n} rows set apart for {' and for '.join(missing)}, drawn by seed 0")
    size = problem.batch_size or min(32, rows(train))
    return replace(problem, train=train, valid=splits.get("valid"), test=splits["test"], notes=tuple(notes), batch_size=size)


def _tensors(data: Any, name: str) -> Batch:
    try:
        batch = data if isinstance(data, torch.utils.data.Dataset) else tree_map(_array, data)
        batch = tensors(batch)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the {name} data cannot become tensors: {error}; give numbers, such as float32 arrays") from None
    rows(batch)
    return batch


def _array(leaf: Any) -> Any:
    leaf = leaf.to_numpy() if hasattr(leaf, "to_numpy") else leaf
    frozen = isinstance(leaf, np.ndarray) and not leaf.flags.writeable  # torch warns of sharing such memory
    return leaf.copy() if frozen else leaf


def _strata(batch: Batch) -> Tensor:
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor):
        y = batch[1]
        if y.dim() == 1 and not y.is_floating_point() and not y.is_complex():
            return y.long()
    return torch.zeros(rows(batch), dtype=torch.int64)


def check(problem: Problem) -> None:
    """Find what is wrong with a complete problem: data, shapes, labels, and the user's model and loss on a batch of 8 rows.

    Leaves the state of the random numbers as it was. Raises UserError in one sentence, UserCodeError where the user's
    code failed.

    >>> data = (torch.zeros(10, 2), torch.full((10,), 7))
    >>> problem = Problem(lambda: nn.Linear(2, 3), nn.functional.cross_entropy, train=data, batch_size=5)
    >>> check(complete(problem))
    Traceback (most recent call last):
        ...
    thalweg.errors.UserError: train targets[0] is 7, and the model has 3 outputs: labels must be 0 to 2
    """
    splits = {"train": problem.train, "valid": problem.valid, "test": problem.test}
    if problem.test is None:
        raise UserError("the problem has no test rows; complete it first")
    n = rows(problem.train)
    if not 1 <= (problem.batch_size or 1) <= n:
        raise UserError(f"batch_size = {problem.batch_size} must be between 1 and the {n} training rows; give batch_size=...")
    if problem.epochs < 0:
        raise UserError(f"epochs = {problem.epochs} must not be negative")
    _inspect(problem, {name: batch for name, batch in splits.items() if batch is not None})


def _inspect(problem: Problem, splits: Mapping[str, Batch]) -> None:
    for name, batch in splits.items():
        rows(batch)
        if problem.step is None:
            _finite(batch, name)
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=cuda), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of broadcast targets, which have an error of their own below
        torch.default_generator.manual_seed(0)  # of the CPU alone: torch.manual_seed would also reach devices not yet in use
        model = _model(problem)
        for name, batch in splits.items():
            _try(problem, model, batch, name)


def _finite(batch: Batch, name: str) -> None:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        remedy = "with other data give step=(model, batch) -> scalar"
        raise UserError(f"the {name} data must be a pair (inputs, targets) for a loss; {remedy}")
    for label, part in (("inputs", batch[0]), ("targets", batch[1])):
        for leaf in tree_flatten(part)[0]:
            if leaf.is_floating_point() and not leaf.isfinite().all():
                where = (~leaf.isfinite()).nonzero()[0].tolist()
                value = leaf[tuple(where)].item()
                raise UserError(
                    f"{name} {label}[{', '.join(map(str, where))}] is {value} (row {where[0]}, counted from 0); "
                    "fill such values or drop their rows"
                )


def _model(problem: Problem) -> nn.Module:
    with user_code("the function model=... failed"):
        model, other = problem.model(), problem.model()
    if not isinstance(model, nn.Module):
        raise UserError(f"model=... returned a {type(model).__name__}; it must return a torch.nn.Module")
    if model is other:
        raise UserError("model=... returns the same module each time; make a new one, so that every seed starts afresh")
    return model.eval()


def _shapes(batch: Any) -> str:
    leaves = [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor)]
    return " and ".join(f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}" for leaf in leaves)


def _try(problem: Problem, model: nn.Module, batch: Batch, name: str) -> None:
    tiny = take(batch, torch.arange(min(TINY, rows(batch))))
    if problem.step is not None:
        with user_code(f"step failed on a {name} batch of shape {_shapes(tiny)}"):
            value = problem.step(model, tiny)
        _scalar(value, "step", name)
        return
    assert problem.loss is not None
    inputs, targets = tiny
    with user_code(f"the model failed on {name} inputs of shape {_shapes(inputs)}{_precision(model, inputs)}"):
        output = model(inputs)
    if isinstance(output, Tensor) and isinstance(targets, Tensor) and targets.shape[0] > 0:
        _labels(problem, batch, output, name)
        _broadcast(problem.loss, output, targets)
    seen = f"output {_shapes(output)}, targets {_shapes(targets)}"
    with user_code(f"the loss failed on {name} inputs of shape {_shapes(inputs)}, {seen}"):
        value = problem.loss(output, targets)
    _scalar(value, "loss", name)
    for metric in problem.metrics:
        with user_code(f"the metric {metric.name} failed on {seen}"):
            float(metric.function(output, targets))


def _precision(model: nn.Module, inputs: Any) -> str:
    weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    other = [leaf.dtype for leaf in tree_flatten(inputs)[0] if leaf.is_floating_point() and leaf.dtype != weights]
    if weights is None or not other:
        return ""
    return f" (its weights are {str(weights).removeprefix('torch.')}: convert the inputs, such as by X.float())"


def _scalar(value: Any, what: str, name: str) -> None:
    if not isinstance(value, Tensor) or value.dim() > 0:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise UserError(f"the {what} gave {got}; it must give a scalar tensor, such as the mean over the batch")
    if not value.isfinite():
        raise UserError(f"the {what} is {value.item()} on the first {name} rows, before any training; look for log(0) or x/0")


def _labels(problem: Problem, batch: Batch, output: Tensor, name: str) -> None:
    """Labels out of range, or not whole numbers, where the loss takes one a row; whether they are wrong the loss decides."""
    targets = batch[1]
    if output.dim() != 2 or output.shape[1] < 2 or targets.dim() != 1:
        return
    classes = output.shape[1]
    if targets.dtype != torch.int64:
        if _works(problem.loss, output, targets[: len(output)]):
            return
        if _works(problem.loss, output, torch.zeros(len(output), dtype=torch.int64)):
            kind = str(targets.dtype).removeprefix("torch.")
            raise UserError(f"{name} targets are {kind}, and this loss over {classes} outputs takes int64 labels; give y.long()")
        return
    wrong = targets[(targets < 0) | (targets >= classes)].unique()
    scores = output[:1].expand(2, -1)
    for label in wrong[:10]:  # beside a legal label, since a batch of ignored ones (-100) has no mean
        legal = label.repeat(2) * 0
        if _works(problem.loss, scores, legal) and not _works(problem.loss, scores, torch.stack([label, label * 0])):
            row = int((targets == label).nonzero()[0])
            allowed = f"the model has {classes} outputs: labels must be 0 to {classes - 1}"
            raise UserError(f"{name} targets[{row}] is {int(label)}, and {allowed}")


def _works(loss: Callable | None, output: Tensor, target: Tensor) -> bool:
    assert loss is not None
    try:
        return bool(torch.isfinite(loss(output, target)).all())
    except Exception:
        return False


def _broadcast(loss: Callable, output: Tensor, target: Tensor) -> None:
    """Refuse a loss that would silently pair every output with every target, (n, 1) against (n,)."""
    n = len(target)
    if {tuple(output.shape), tuple(target.shape)} != {(n, 1), (n,)} or n < 2:
        return
    # probes that differ from row to row, since a model may well start by answering the same everywhere
    y = torch.arange(n).reshape(target.shape).to(target.dtype)
    x = (torch.arange(n).reshape(output.shape).to(output.dtype) + 1).sqrt()
    try:
        wide = loss(*(part.contiguous() for part in torch.broadcast_tensors(x, y)))
        narrow, actual = loss(x.reshape(target.shape), y), loss(x, y)
    except Exception:
        return
    if torch.allclose(actual, wide) and not torch.allclose(actual, narrow):
        raise UserError(
            f"the model's output has shape {tuple(output.shape)} and the targets {tuple(target.shape)}, which this loss "
            f"silently broadcasts to ({n}, {n}); give both one shape, such as by y.unsqueeze(1)"
        )
