"""A table: what a data set or a CSV file holds, before it is split and scaled; and how both are done."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.core.files import Source, read_idx
from thalweg.errors import UserError, unknown

Task = Literal["regression", "binary", "classes"]
Pair = tuple[Tensor, Tensor]
LABELS = 20  # whole-number targets with at most so many different values are classes


@dataclass(frozen=True)
class Table:
    """Rows of features with a target each.

    X: (n, *shape), floating. y: (n,), floating for "regression", int64 labels 0..classes-1 otherwise.
    columns: names of the features, or (). X_test, y_test: the official test rows, where there are such.
    standardize: whether features are scaled to mean 0 and sd 1 unless told otherwise; None: they come scaled.
    scale_target: whether a regression's target is scaled along with the features.
    loss: the name of its usual loss, where that is not the task's. notes: facts for the report.
    """

    X: Tensor
    y: Tensor
    task: Task
    classes: int = 0
    columns: tuple[str, ...] = ()
    X_test: Tensor | None = None
    y_test: Tensor | None = None
    standardize: bool | None = False
    scale_target: bool = True
    batch_size: int = 32
    epochs: int = 20
    loss: str | None = None
    notes: tuple[str, ...] = ()


def images(data: str | Path | None, files: Mapping[str, str], folders: tuple[str, ...], addresses: Sequence[str], note: str) -> Table:
    """Ten classes of pictures from four IDX files: train-images, train-labels, t10k-images, t10k-labels, in that order.

    X (60000, 1, 28, 28) with pixels in [0, 1], and the official test rows X_test (10000, 1, 28, 28).
    files: name -> sha256. folders: where below the data folder they may lie. addresses: where `<name>.gz` is found on the network.
    Raises UserError when one is missing or damaged.
    """
    arrays = []
    for name, sha256 in files.items():
        source = Source(name, sha256, folders, tuple(f"{address}/{name}.gz" for address in addresses))
        arrays.append(torch.tensor(read_idx(source, data, dims=3 if "images" in name else 1)))
    X, y, X_test, y_test = arrays
    return Table(
        X.unsqueeze(1) / 255, y.long(), "classes", 10, X_test=X_test.unsqueeze(1) / 255, y_test=y_test.long(), epochs=3, notes=(note,)
    )


def apart(count: int, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices (kept, set apart), each sorted: `count` rows drawn at random, every label's share within one row of even.

    labels: (n,) whole numbers; all equal draws freely.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> kept, out = apart(2, labels, torch.Generator().manual_seed(0))
    >>> len(kept), sorted(labels[out].tolist())
    (6, [0, 1])
    """
    n = len(labels)
    order = torch.randperm(n, generator=generator)
    order = order[torch.argsort(labels[order], stable=True)]
    # systematic sampling: evenly spaced along the rows sorted by label, from a random start; no label is too rare for it
    ticks = torch.arange(n + 1) * count + torch.randint(n, (), generator=generator)
    chosen = (ticks // n).diff() > 0
    return order[~chosen].sort().values, order[chosen].sort().values


def scaling(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (ddof 0) of each column in float64; a constant column's deviation is taken as 1."""
    rows = rows.double()
    mean, sd = rows.mean(0), rows.std(0, correction=0)
    # rounding gives a column of one value a deviation a little above 0
    return mean, torch.where(sd > 1e-13 * rows.abs().amax(0), sd, 1.0)


# --- splitting and scaling


def split(table: Table, all_rows: bool, valid: float | None) -> tuple[Pair, Pair | None, Pair, str]:
    """Training, validation and test rows, and a sentence on how they were drawn (by seed 0, stratified by class).

    valid: share of the rows for validation, 0 for none; a fifth unless given, or a sixth of the official training rows. The test
    rows are the official ones, or a fifth. all_rows: all three are all the (training) rows. Raises UserError where no
    training rows would be left.
    """
    if valid is not None and not (isinstance(valid, int | float) and 0 <= valid < 1):
        raise UserError(f"valid = {valid!r} must be a share of the rows, at least 0 and below 1")
    X, y, n = table.X, table.y, len(table.X)
    if all_rows:
        if valid is not None:
            raise UserError("all_rows uses every row for training, validation and test alike; leave valid out")
        note = f"all {n} rows are training, validation and test rows: every score is a training score"
        return (X, y), (X, y), (X, y), note
    strata = torch.zeros(n, dtype=torch.int64) if table.task == "regression" else y
    generator = torch.Generator().manual_seed(0)
    rest = torch.arange(n)
    how = "by seed 0" + ("" if table.task == "regression" else ", stratified by class")
    if table.X_test is None or table.y_test is None:
        held = n // 5 if valid is None else max(1, round(valid * n)) if valid else 0
        count = -(-n // 5)
        if count + held >= n:
            raise UserError(f"valid = {valid} leaves no training rows: a fifth of the {n} rows is the test set")
        rest, out = apart(count, strata, generator)
        test = (X[out], y[out])
    else:
        held = max(1, round((1 / 6 if valid is None else valid) * n)) if valid != 0 else 0
        test = (table.X_test, table.y_test)
        how = (f"validation rows drawn {how}; " if held else "") + "test rows are the official ones"
    if not held:
        note = f"{len(rest)} training and {len(test[0])} test rows, {how}; no validation rows"
        return (X[rest], y[rest]), None, test, note
    kept, out = apart(held, strata[rest], generator)
    train, validation = rest[kept], rest[out]
    note = f"{len(train)} training, {held} validation and {len(test[0])} test rows, {how}"
    return (X[train], y[train]), (X[validation], y[validation]), test, note


@dataclass(frozen=True)
class Scale:
    """How features and target were scaled: x = (feature - mean) / sd, (features,) each in float64, and the same of the target."""

    mean: Tensor
    sd: Tensor
    target_mean: float = 0.0
    target_sd: float = 1.0

    def original(self, weight: Tensor, bias: float) -> tuple[Tensor, float]:
        """The coefficients (features,) and the intercept of a linear model in the units of the data.

        >>> scale = Scale(torch.tensor([10.0]), torch.tensor([2.0]))
        >>> scale.original(torch.tensor([3.0]), 1.0)  # 3 (x - 10) / 2 + 1
        (tensor([1.5000]), -14.0)
        """
        slope = weight.to(self.sd) / self.sd * self.target_sd
        return slope, self.target_mean + self.target_sd * bias - float(slope @ self.mean)


def scaled(table: Table, standardize: bool | None, *splits: Pair) -> tuple[list[Pair], tuple[str, ...], Scale | None]:
    """The splits standardised by the mean and standard deviation of the first, sentences that say so, and how it was done.

    standardize: None is the table's habit. Raises UserError for False where the table's rows come standardised.
    """
    if table.standardize is None:
        if standardize is False:
            raise UserError("this data set comes standardised as its published fits are; leave standardize out")
        return list(splits), (), None
    if not (table.standardize if standardize is None else standardize):
        return list(splits), ("features are not standardised",), None
    mean, sd = scaling(splits[0][0])
    done = [((X.double() - mean) / sd, y) for X, y in splits]
    what, scale = "features", Scale(mean, sd)
    if table.task == "regression" and table.scale_target:
        middle, spread = scaling(splits[0][1])
        done = [(X, (y.double() - middle) / spread) for X, y in done]
        what, scale = "features and target (so errors are in its standard deviations)", Scale(mean, sd, float(middle), float(spread))
    return done, (f"{what} standardised by the training rows' mean and standard deviation",), scale


# --- CSV


def read_csv(path: str | Path, target: str | None) -> Table:
    """A table from a CSV file with a header; the separator is read from the header.

    The target is a class where it is text, true/false, or whole numbers with at most 20 different values (labels
    sorted); otherwise a number. Raises UserError, naming column and row (the first below the header is 1), for text,
    gaps or infinities among the features.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}; name a CSV file that exists, or a built-in problem (`thalweg list`)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, sep=_separator(path), index_col=False, low_memory=False, skipinitialspace=True)
    except (ValueError, csv.Error, pd.errors.ParserWarning, OSError) as error:
        raise UserError(f"{path} cannot be read as CSV with a header: {str(error).strip()}") from None
    names = [str(name).strip() for name in frame.columns]
    if len(set(names)) < len(names):
        raise UserError(f"{path} has two columns of the same name among {', '.join(names)}; rename one")
    frame.columns = pd.Index(names)
    if target is None:
        raise UserError(f"say which column of {path} is to be predicted, target=...; it has {', '.join(names)}")
    if target not in names:
        raise unknown(f"column of {path}", target, names)
    if len(frame) < 5:
        raise UserError(f"{path} has {len(frame)} rows below its header; 5 or more are needed to train, validate and test")
    features = [name for name in names if name != target]
    if not features:
        raise UserError(f"{path} has no column besides the target '{target}'; check its separator, or add features")
    X = np.stack([_numbers(frame[name], f"{path}: column '{name}'") for name in features], axis=1)
    labels = _labels(frame[target], f"{path}: target '{target}'")
    epochs = min(100, max(3, 40_000 // len(frame)))
    columns, common = tuple(features), f"{len(frame)} rows of {path.name}, target '{target}'"
    if labels is None:
        y = torch.tensor(_numbers(frame[target], f"{path}: target '{target}'"))
        notes = (f"{common}, a number",)
        return Table(torch.from_numpy(X), y, "regression", 0, columns, standardize=True, epochs=epochs, notes=notes)
    codes, values = labels
    shown = ", ".join(values[:10]) + (", ..." if len(values) > 10 else "")
    notes = (f"{common}, {len(values)} classes in the order {shown}",)
    task: Task = "binary" if len(values) == 2 else "classes"
    return Table(torch.from_numpy(X), codes, task, len(values), columns, standardize=True, epochs=epochs, notes=notes)


def _separator(path: Path) -> str:
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = file.readline()
    fields = {sep: len(next(csv.reader([header], delimiter=sep), [])) for sep in (",", ";", "\t", "|", " ")}
    return max(fields, key=lambda sep: fields[sep])  # the first of equals: a comma


def _gap(column, label: str) -> None:
    missing = column.isna().to_numpy()
    if missing.any():
        raise UserError(f"{label} has no value in row {int(missing.argmax()) + 1}; fill the gap or drop the row")


def _numbers(column, label: str) -> np.ndarray:
    """The column as float64 (n,)."""
    import pandas as pd

    _gap(column, label)
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = np.isnan(values)
    if wrong.any():
        row = int(wrong.argmax())
        remedy = "encode the column as numbers or drop it"
        raise UserError(f"{label} holds '{column.iloc[row]}' in row {row + 1}, not a number; {remedy}")
    infinite = np.abs(values) > np.finfo(np.float32).max
    if infinite.any():
        row = int(infinite.argmax())
        remedy = "which is infinite in float32; drop the row or rescale the column"
        raise UserError(f"{label} holds {column.iloc[row]} in row {row + 1}, {remedy}")
    return values


def _labels(column, label: str) -> tuple[Tensor, list[str]] | None:
    """Codes (n,) and the sorted values, or None where the target is a number."""
    import pandas as pd

    _gap(column, label)
    text = not pd.api.types.is_numeric_dtype(column)
    values, codes = np.unique(column.to_numpy(dtype=str if text else None), return_inverse=True)
    if not text and not (pd.api.types.is_integer_dtype(column) or pd.api.types.is_bool_dtype(column)):
        return None
    if len(values) == 1:
        raise UserError(f"{label} has one value only, {values[0]}; there is nothing to predict")
    if not text and len(values) > LABELS:
        return None
    if text and len(values) > max(LABELS, len(column) // 2):
        remedy = "a class needs several rows; take another target"
        raise UserError(f"{label} is text with {len(values)} different values in {len(column)} rows; {remedy}")
    return torch.from_numpy(codes.astype(np.int64)), [str(value) for value in values]
