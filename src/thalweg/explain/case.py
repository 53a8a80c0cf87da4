"""A case: what a user hands to a diagnosis, checked, and copied so that whatever is done to it leaves the user's own untouched."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from thalweg.core.probe import copied
from thalweg.core.problem import Batch, Problem, rows, take, tensors, to
from thalweg.core.stream import Stream
from thalweg.errors import UserError

ROWS = 2048
"""Rows of a DataLoader that are read."""


@dataclass(frozen=True)
class Case:
    """model, optimizer: copies, of each other's parameters. problem: the loss, and all rows of the data. slopes: parameter's name ->
    `.grad` as it was left. loader: whether rows came through one. names: of the features, where known. command: the user's command line,
    to be repeated with other options in remedies. origin: makes a fresh model. deadline: of `time.monotonic()`."""

    model: nn.Module
    problem: Problem
    optimizer: torch.optim.Optimizer | None
    slopes: Mapping[str, Tensor]
    history: Mapping[str, np.ndarray]
    valid: Batch | None
    batch_size: int
    seed: int
    names: tuple[str, ...] = ()
    command: Mapping[str, Any] = field(default_factory=dict)
    origin: Callable[[], nn.Module] | None = None
    deadline: float = math.inf

    @property
    def data(self) -> Batch:
        return self.problem.train

    @property
    def rows(self) -> int:
        return rows(self.problem.train)

    def some(self, most: int) -> Batch:
        """At most so many rows, chosen by the seed."""
        if self.rows <= most:
            return self.data
        return take(self.data, torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.seed))[:most])

    def batches(self, count: int, size: int | None = None) -> list[Batch]:
        """So many batches as the training takes them, by the seed."""
        draw, size = torch.Generator().manual_seed(self.seed), min(size or self.batch_size, self.rows)
        order: list[int] = []
        while len(order) < count * size:
            order += torch.randperm(self.rows, generator=draw).tolist()
        return [take(self.data, torch.tensor(order[i * size : (i + 1) * size])) for i in range(count)]

    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> float | None:
        """One step on a batch: the loss before it, where the optimizer tells."""

        def closure() -> Tensor:
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = self.problem.lose(model, batch)
                loss.backward()
            return loss

        lost: Any = optimizer.step(closure)  # type: ignore[arg-type]
        return None if lost is None else float(torch.as_tensor(lost).detach())

    def copy(self) -> tuple[nn.Module, torch.optim.Optimizer | None]:
        """A model and an optimizer of its parameters, to be spoilt."""
        return twin(self.model, self.optimizer)

    @property
    def alive(self) -> bool:
        """Whether all weights and buffers are finite."""
        return all(bool(t.isfinite().all()) for t in (*self.model.parameters(), *self.model.buffers()) if t.is_floating_point())

    def restarted(self) -> Case | None:
        """The case at fresh weights and with a fresh optimizer; None where the modules do not know how to draw any."""
        model, optimizer = self.copy()
        if self.origin is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                fresh = self.origin()
            with torch.no_grad():
                for mine, new in zip((*model.parameters(), *model.buffers()), (*fresh.parameters(), *fresh.buffers()), strict=True):
                    mine.copy_(new)
        else:
            drawn = {id(p) for part in model.modules() for p in part.parameters() if callable(getattr(part, "reset_parameters", None))}
            if any(id(p) not in drawn for p in model.parameters()):
                return None
            torch.manual_seed(self.seed)
            for part in model.modules():
                draw = getattr(part, "reset_parameters", None)
                if callable(draw):
                    draw()
        if optimizer is not None:
            optimizer.state.clear()
        return replace(self, model=model, optimizer=optimizer)


def twin(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[nn.Module, torch.optim.Optimizer | None]:
    """A copy of a model in the same modes, and of an optimizer over the copy's parameters. Raises UserError where one cannot be had."""
    made = copied(model)
    for mine, theirs in zip(made.modules(), model.modules(), strict=True):
        mine.training = theirs.training
    if optimizer is None:
        return made, None
    memo: dict[int, Any] = {id(old): new for old, new in zip(model.parameters(), made.parameters(), strict=True)}
    known = set(memo)
    for group in optimizer.param_groups:
        for p in group["params"]:
            if id(p) not in known:
                memo[id(p)] = p.detach().clone().requires_grad_(p.requires_grad)
    try:
        its = copy.deepcopy(optimizer, memo)
        if isinstance(its, torch.optim.LBFGS):  # torch's own forgets these two when it is copied
            its.__dict__.setdefault("_params", its.param_groups[0]["params"])
            its.__dict__.setdefault("_numel_cache", None)
        return made, its
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else ""
        raise UserError(f"the optimizer cannot be copied, and a diagnosis works on a copy: {type(error).__name__} {said}") from error


def make(
    model: Any, loss: Any, data: Any, optimizer: Any, history: Any, valid: Any, step: Any, batch_size: int | None, seed: int,
    names: Sequence[str] = (), command: Mapping[str, Any] | None = None,
) -> Case:  # fmt: skip
    """Check what is given. Raises UserError, in a sentence, for what is no model, no data or no loss."""
    if isinstance(model, Problem):
        model, loss = model.model(), model
    if not isinstance(model, nn.Module):
        raise UserError(f"diagnose takes the module that was trained, not {type(model).__name__}")
    given = next((one for one in (loss, data) if isinstance(one, Problem)), None)
    origin = None
    if given is not None:
        loss, step, origin = (None if loss is given else loss) or given.loss, step or given.step, given.model
        valid = given.valid if valid is None and not given.all_rows else valid
        batch_size, names = batch_size or given.batch_size, names or given.columns
        data = given.train if data is None or data is given else data
    if data is None:
        raise UserError("data is missing: give a pair of tensors (X, y), a dict of tensors, a Dataset, a DataLoader or a Problem")
    if loss is None and step is None:
        raise UserError("the loss is missing: give a function (output, targets) -> scalar, or step=, (model, batch) -> scalar")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"optimizer must be the torch.optim.Optimizer of the training, not {type(optimizer).__name__}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    table, sized = _read(data)
    table = to(table, device)
    count = rows(table)
    if count == 0:
        raise UserError("the data has no rows: there is nothing to diagnose")
    problem = Problem(lambda: model, None if step is not None else loss, train=table, step=step)
    size = min(batch_size or sized or 32, count)
    slopes = {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}
    mine, its = twin(model, optimizer)
    held = None if valid is None else to(_read(valid)[0], device)
    return Case(mine, problem, its, slopes, _history(history), held, size, seed, tuple(names), command or {}, origin)


def _read(data: Any) -> tuple[Batch, int | None]:
    """Data as tensors, and the size of its batches where it has one."""
    loader = data.loader if isinstance(data, Stream) else data
    if not isinstance(loader, DataLoader):
        try:
            return tensors(data), None
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"the data cannot be read as tensors: {str(error).splitlines()[0]}") from error
    size = loader.batch_size or 32
    own = [g for g in (loader.generator, getattr(loader.sampler, "generator", None)) if g is not None]
    before = [g.get_state() for g in own]
    batches = list(itertools.islice(Stream(loader).epoch(0), max(1, -(-ROWS // size))))
    for generator, state in zip(own, before, strict=True):
        generator.set_state(state)
    whole = [torch.utils._pytree.tree_flatten(batch) for batch in batches]
    leaves = [torch.cat([flat[0][i] for flat in whole]) for i in range(len(whole[0][0]))]
    return torch.utils._pytree.tree_unflatten(leaves, whole[0][1]), size


def _history(history: Any) -> dict[str, np.ndarray]:
    """The history as columns of numbers: a list of losses, a dict of lists, a list of rows, or a DataFrame; {} where there is none."""
    if history is None or (not hasattr(history, "columns") and not isinstance(history, Mapping) and len(history) == 0):
        return {}
    import pandas as pd

    try:
        if isinstance(history, Mapping) or hasattr(history, "columns"):
            table = pd.DataFrame(history)
        elif isinstance(next(iter(history)), Mapping):
            table = pd.DataFrame(list(history))
        else:
            values = [float(v) for v in history]
            table = pd.DataFrame({"step": range(len(values)), "loss": values})
        found = {str(name): pd.to_numeric(table[name], errors="coerce").to_numpy(float) for name in table.columns}
    except (TypeError, ValueError) as error:
        raise UserError(f"history must be a list of losses, a dict of lists or a DataFrame: {str(error).splitlines()[0]}") from None
    if "loss" not in found:
        near = next((name for name in ("train_loss", "training_loss", "losses") if name in found), None)
        if near is None:
            raise UserError(f"history needs a column loss; it has {', '.join(found) or 'none'}")
        found["loss"] = found[near]
    found.setdefault("step", np.arange(len(found["loss"]), dtype=float))
    return found


def finite(value: float | None) -> bool:
    """Whether there is a number, and it is finite."""
    return value is not None and math.isfinite(value)
