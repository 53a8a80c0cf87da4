"""Named problems: a data set and a model by name, a CSV file, or the user's own object, as a Problem."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.core.catalogue import find, load, shelf
from thalweg.core.declare import SMALLEST
from thalweg.core.problem import Problem
from thalweg.core.table import Table, read_csv, scaled, split
from thalweg.errors import UserCodeError, UserError, unknown
from thalweg.study.checks import check, complete

__all__ = ["check", "combinations", "complete", "problem"]

USUAL_LOSS = {"regression": "mse", "binary": "cross_entropy", "classes": "cross_entropy"}
SPREADSHEETS = (".csv", ".tsv", ".txt", ".dat")


def problem(
    name: str,
    *,
    data: str | Path | None = None,
    target: str | None = None,
    model: str | None = None,
    loss: str | Callable[[Any, Any], Tensor] | None = None,
    all_rows: bool = False,
    standardize: bool | None = None,
    valid: float | None = None,
    **options: Any,
) -> Problem:
    """A problem by name.

    name: `dataset-model` such as "digits-mlp"; a CSV file, with `target` its column to predict; or `file.py:object`,
        a Problem or a function without arguments that makes one.
    data: the only folder in which to look for data files.
    model: the model for a CSV file ("mlp" unless given) or for the name of a data set alone.
    loss: replaces the model's usual loss. options: the model's, such as hidden=128.
    all_rows: all training rows serve as training, validation and test rows alike, as in published fits.
    standardize: features (and a number to predict) with mean 0 and sd 1 on the training rows; None: as is usual for the data.
    valid: share of the rows (of the official training rows, where there are such) set apart for validation; 0 for none.
    Raises UserError, with the nearest name where one is misspelt.

    >>> p = problem("digits-mlp", hidden=32)
    >>> [len(split[0]) for split in (p.train, p.valid, p.test)], p.score
    ([1078, 359, 360], 'accuracy')
    """
    if ".py:" in name:
        given = {"target": target, "model": model, "loss": loss, "standardize": standardize, "valid": valid} | options
        extra = [key for key, value in given.items() if value is not None] + ["all_rows"] * all_rows
        if extra:
            raise UserError(f"{name} is a problem of its own and takes no {', '.join(extra)}; set it in the file")
        return _own(name)
    if target is not None or name.lower().endswith(SPREADSHEETS):
        if name in shelf("datasets") or (name in combinations() and not Path(name).is_file()):
            raise UserError(f"{name} knows its own target; leave target out")
        table = read_csv(name, target)
        chosen = _find("models", model or "mlp")
        short = f"{Path(name).stem}-{_called(chosen)}"
        _fit(short, Path(name).name, table.task, table.classes, tuple(table.X.shape[1:]), chosen)
    else:
        dataset, model_name = _split_name(name, model)
        entry, chosen = shelf("datasets")[dataset], _find("models", model_name)
        short = f"{dataset}-{_called(chosen)}"
        _fit(short, dataset, entry.task, entry.classes, entry.shape, chosen)
        _options(chosen, options)  # before the files are read
        table = entry(data)
    return _assemble(short, table, chosen, loss, options, all_rows, standardize, valid)


def combinations() -> list[str]:
    """The names `dataset-model` that fit each other, sorted.

    >>> "digits-mlp" in combinations(), "digits-linear" in combinations()
    (True, False)
    """
    pairs = [(d, m) for d in shelf("datasets").values() for m in shelf("models").values()]
    return sorted(f"{d.name}-{m.name}" for d, m in pairs if _obstacle(d.task, d.classes, d.shape, m) is None)


# --- names


def _find(shelf_name: str, name: str) -> Any:
    """The entry, or the object in the user's file."""
    found = find(shelf_name, name, {"losses": "loss", "models": "model"}[shelf_name])
    if not callable(found) or isinstance(found, type):
        raise UserError(f"{name} is a {_kind(found)}; it should be a function, as those in thalweg.{shelf_name} are")
    return found


def _called(entry: Any) -> str:
    return str(getattr(entry, "name", None) or getattr(entry, "__name__", type(entry).__name__))


def _split_name(name: str, model: str | None) -> tuple[str, str]:
    datasets = shelf("datasets")
    prefixes = [d for d in datasets if name == d or name.startswith(d + "-")]
    if not prefixes and name.endswith(".py"):
        raise UserError(f"{name} is a file; name the problem in it as well, {name}:object")
    if not prefixes:
        raise unknown("problem", name, combinations() if model is None else datasets)
    dataset = max(prefixes, key=len)
    rest = name[len(dataset) + 1 :]
    if not rest and model is None:
        raise UserError(f"{name} is a data set; say with which model: {', '.join(_names(dataset))}")
    if rest and rest not in shelf("models"):
        raise unknown("problem", name, _names(dataset))
    if rest and model is not None and model != rest:
        raise UserError(f"{name} names its model already; leave out model={model!r}, or give the name {dataset}")
    return dataset, rest or str(model)


def _names(dataset: str) -> list[str]:
    return [pair for pair in combinations() if pair in {f"{dataset}-{m}" for m in shelf("models")}]


def _obstacle(task: str, classes: int, shape: tuple[int, ...], model: Any) -> str | None:
    """Why a model cannot learn a task, or None; `{}` stands for where the data come from."""
    if task not in getattr(model, "tasks", (task,)):
        can = {"regression": "predicts a number", "binary": "tells 2 classes apart", "classes": "tells classes apart"}
        has = "a number to predict" if task == "regression" else f"{classes} classes"
        return f"{model.name} {can[model.tasks[-1]]}, and {{}} has {has}"
    if getattr(model, "images", False) and (len(shape) != 3 or min(shape[1:]) < SMALLEST):
        least = f"{SMALLEST}x{SMALLEST}"
        return f"{model.name} needs images, (channels, height, width) of at least {least} pixels, and {{}} has rows of shape {shape}"
    return None


def _fit(short: str, source: str, task: str, classes: int, shape: tuple[int, ...], model: Any) -> None:
    obstacle = _obstacle(task, classes, shape, model)
    if obstacle is not None:
        others = [m.name for m in shelf("models").values() if _obstacle(task, classes, shape, m) is None]
        raise UserError(f"{short} does not fit: {obstacle.format(source)}; take {', '.join(others)}")


def _options(model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The model's options in full; a user's own function takes what it takes."""
    hypers = getattr(model, "hypers", None)
    if hypers is None:
        return dict(options)
    for key in options:
        if key not in hypers:
            raise UserError(f"{model.name} has no '{key}'; it takes {', '.join(hypers) or 'no options'}")
    return {k: h.domain.check(options.get(k, h.default), f"{model.name}: {k}") for k, h in hypers.items()}


# --- the user's own


def _own(name: str) -> Problem:
    found = load(name)
    if isinstance(found, Problem):
        return found
    if isinstance(found, type) or not callable(found):
        allowed = "a Problem, or a function without arguments that returns one"
        raise UserError(f"{name} is a {_kind(found)}; it should be {allowed}")
    parameters = inspect.signature(found).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed:
        without = "a function that makes a Problem is called without any"
        raise UserError(f"{name} needs the arguments {', '.join(needed)}; {without}")
    try:
        made = found()
    except UserError:
        raise
    except Exception as error:
        raise UserCodeError(f"{name} failed when called: {type(error).__name__}: {error}") from error
    if not isinstance(made, Problem):
        raise UserError(f"{name} returned a {_kind(made)}; it should return a Problem")
    return made


def _kind(thing: Any) -> str:
    return "class" if isinstance(thing, type) else type(thing).__name__


# --- from a table to a problem


def _assemble(
    name: str,
    table: Table,
    model: Any,
    loss: str | Callable[[Any, Any], Tensor] | None,
    options: Mapping[str, Any],
    all_rows: bool,
    standardize: bool | None,
    valid: float | None,
) -> Problem:
    usual = getattr(model, "loss", None) or table.loss or USUAL_LOSS[table.task]
    named = usual if loss is None else loss
    function: Any = _find("losses", named) if isinstance(named, str) else named
    if table.task not in getattr(function, "tasks", (table.task,)):
        others = [entry.name for entry in shelf("losses").values() if table.task in entry.tasks]
        raise UserError(f"{name}: the loss {function.name} does not fit this target; take one of {', '.join(others)}")
    labels = getattr(function, "target", find("losses", usual).target) == "label"
    full = _options(model, options)
    shape = tuple(table.X.shape[1:])
    make = functools.partial(model, shape, table.classes if labels else 1, **full)
    with torch.random.fork_rng(devices=[]):
        try:
            make()  # a model that does not take these outputs says so now, before any work
        except UserError:
            raise
        except Exception as error:
            call = f"{_called(model)}({shape}, {make.args[1]})"
            raise UserCodeError(f"the model failed, called as {call}: {type(error).__name__}: {error}") from error
    train, held, test, how = split(table, all_rows, valid)
    present = {name: pair for name, pair in (("train", train), ("valid", held), ("test", test)) if pair is not None}
    splits, scales, scale = scaled(table, standardize, *present.values())
    pairs = [(X.float().contiguous(), y if labels else y.float().unsqueeze(1)) for X, y in splits]
    parts = dict(zip(present, pairs, strict=True))
    settings = f" ({', '.join(f'{k} = {v}' for k, v in full.items())})" if full else ""
    return Problem(
        model=make,
        loss=function,
        train=parts["train"],
        valid=parts["train"] if all_rows else parts.get("valid"),
        test=parts["train"] if all_rows else parts["test"],
        metrics=() if table.task == "regression" else ("accuracy",),
        name=name,
        batch_size=min(table.batch_size, len(pairs[0][0])),
        epochs=table.epochs,
        all_rows=all_rows,
        columns=table.columns,
        scale=scale,
        notes=(
            *table.notes,
            how,
            *scales,
            f"model {_called(model)}{settings}, loss {_called(function)}",
        ),
    )
