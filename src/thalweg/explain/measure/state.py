"""What can be read off without computing: the module's parts, the optimizer's settings, and how the loss went."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from thalweg.explain.case import Case


@dataclass(frozen=True)
class Part:
    """A module with parameters of its own. why: it is not trained, or ""."""

    name: str
    kind: str
    parameters: int
    why: str


@dataclass(frozen=True)
class Parts:
    """parameters: their number; trained: of those that need a gradient. untrained: parts of which some weights never change, and why.
    training: the model's mode. norms: names of batch norms; norms_at_rest: those in evaluation mode in a model in training mode;
    norms_at_start: those whose statistics are still the initial ones. recurrent: names of recurrent parts. last: the kind of the last
    part without parts, such as Softmax. activations: kinds of those there are. not_finite: names of weights that are not."""

    parameters: int
    trained: int
    untrained: tuple[Part, ...]
    training: bool
    norms: tuple[str, ...]
    norms_at_rest: tuple[str, ...]
    norms_at_start: tuple[str, ...]
    recurrent: tuple[str, ...]
    last: str
    activations: tuple[str, ...]
    not_finite: tuple[str, ...]

    @property
    def alive(self) -> bool:
        """Whether all weights are finite."""
        return not self.not_finite


def parts(case: Case) -> Parts:
    model = case.model
    rates = None
    if case.optimizer is not None:
        rates = {p: float(group.get("lr") or 0.0) for group in case.optimizer.param_groups for p in group["params"]}
    all_stopped = rates is not None and not any(rates.values())
    untrained, leaves = [], []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        why = ""
        for p in own:
            if not p.requires_grad:
                why = "requires_grad is False"
            elif rates is not None and p not in rates:
                why = "it is not among the optimizer's parameters"
            elif rates is not None and rates[p] == 0 and not all_stopped:
                why = "its learning rate is 0"
            if why:
                untrained.append(Part(name or type(module).__name__, type(module).__name__, sum(q.numel() for q in own), why))
                break
        if next(module.children(), None) is None:
            leaves.append(type(module).__name__)
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    kept = {name: module for name, module in norms.items() if module.track_running_stats and module.running_mean is not None}
    broken = tuple(
        name for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_floating_point() and not t.isfinite().all()
    )
    return Parts(
        sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.parameters() if p.requires_grad), tuple(untrained),
        model.training, tuple(norms),
        tuple(name for name, module in norms.items() if not module.training and model.training),
        tuple(name for name, module in kept.items() if _initial(module)),
        tuple(name for name, module in model.named_modules() if isinstance(module, nn.RNNBase)),
        leaves[-1] if leaves else "", tuple(dict.fromkeys(kind for kind in leaves if hasattr(nn.modules.activation, kind))), broken,
    )  # fmt: skip


def _initial(module: Any) -> bool:
    if module.num_batches_tracked is not None and int(module.num_batches_tracked) > 0:
        return False
    return bool((module.running_mean == 0).all()) and bool((module.running_var == 1).all())


@dataclass(frozen=True)
class Settings:
    """kind: the optimizer's class. lr: the largest of its groups; begun: that at the start, where a schedule has changed it. decoupled:
    whether weight decay acts beside the gradient. steps: updates done, as far as is known. own: "lr" etc. -> value, as the optimizer has
    them. command: the user's command line, of which remedies are made."""

    kind: str
    lr: float
    begun: float
    momentum: float
    decay: float
    decoupled: bool
    adaptive: bool
    batch_size: int
    rows: int
    steps: int
    command: Mapping[str, Any] = field(default_factory=dict)

    def line(self, **changes: Any) -> str:
        """The remedy as the user would type it: the command, or the optimizer's line of code, with these settings changed."""
        if self.command:
            return _typed(self.command, changes)
        given: dict[str, Any] = {"lr": self.lr}
        if self.momentum and not self.adaptive:
            given["momentum"] = self.momentum
        if self.decay:
            given["weight_decay"] = self.decay
        given |= changes
        inside = ", ".join(f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in given.items())
        return f"torch.optim.{self.kind}(model.parameters(), {inside})"


def _typed(command: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    options = dict(command["options"]) | {key: value for key, value in changes.items() if key != "optimizer"}
    said = [f"thalweg train {command['problem']}", f"-o {changes.get('optimizer', command['optimizer'])}"]
    for key, value in options.items():
        name = f"--{key.replace('_', '-')}"
        if value is True:
            said.append(name)
        elif value is not None and value is not False:
            said.append(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}")
    return " ".join(said)


def settings(case: Case) -> Settings | None:
    optimizer = case.optimizer
    if optimizer is None or not optimizer.param_groups:
        return None
    group = max(optimizer.param_groups, key=lambda g: float(g.get("lr") or 0.0))
    lr = float(group.get("lr") or 0.0)
    begun = float(group.get("initial_lr") or 0.0)
    if "lr" in case.history:
        begun = max(begun, float(np.nanmax(np.append(case.history["lr"], lr))))
    kind = type(optimizer).__name__
    betas = group.get("betas") or (group.get("beta1", group.get("momentum", 0.0)) or 0.0,)
    steps = [int(s["step"]) for s in optimizer.state.values() if isinstance(s, Mapping) and "step" in s]
    done = max([*steps, int(np.nanmax(case.history["step"])) + 1 if "step" in case.history else 0])
    adaptive = "betas" in group or "beta2" in group or "alpha" in group or kind.lower() in ("adagrad", "adadelta", "rprop")
    decay = float(group.get("weight_decay") or 0.0)
    decoupled = bool(group.get("decoupled_weight_decay")) or kind.lower() in ("adamw", "lion", "sgdw", "muon")
    return Settings(
        kind, lr, max(begun, lr), float(betas[0]), decay, decoupled, adaptive, case.batch_size, case.rows, done, case.command
    )  # fmt: skip


RECORDED = frozenset({"step", "epoch", "loss", "lr", "grad_norm", "seconds"})
"""Columns that a record of a step has."""


@dataclass(frozen=True)
class Course:
    """How the loss went. steps: from first to last record. start: the first loss; end: mean of the last tenth. diverged: the loss became
    nan, inf or a million times what it was at the start. at_nothing: share of the records whose rate was below a hundredth of the
    largest, nan where rates are not known. valid: by metric, the scores of training and validation rows at evaluations."""

    steps: int
    start: float
    end: float
    diverged: bool
    at_nothing: float
    valid: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @property
    def words(self) -> str:
        if self.diverged and not math.isfinite(self.end):
            return f"The loss began at {self.start:.3g} and grew without bound in {self.steps} steps."
        return f"The loss went from {self.start:.3g} to {self.end:.3g} in {self.steps} steps."


def course(case: Case) -> Course | None:
    history = case.history
    if "loss" not in history:
        return None
    measured = [name for name in history if name.startswith(("train_", "valid_"))]
    evaluation = np.zeros(len(history["loss"]), bool)  # or another measurement beside the records
    for name in set(history) - RECORDED:
        evaluation |= np.isfinite(history[name])
    kept = ~(evaluation & np.isnan(history["loss"]))
    loss, step = history["loss"][kept], history["step"][kept]
    if len(loss) == 0:
        return None
    start = float(loss[0])
    good = np.isfinite(loss)
    large = 1e6 * max(abs(start), 1e-12) if math.isfinite(start) else math.inf
    diverged = not good.all() or bool(np.abs(loss[-max(1, len(loss) // 10) :]).mean() > large)
    tenth = max(1, len(loss) // 10)
    end = float(loss[-tenth:].mean())
    rates = history.get("lr")
    nothing = math.nan
    if rates is not None and np.isfinite(rates).any():
        known = rates[np.isfinite(rates)]
        nothing = float((known < 0.01 * known.max()).mean())
    pairs = {}
    for name in measured:
        metric = name.partition("_")[2]
        if {f"train_{metric}", f"valid_{metric}"} <= history.keys():
            both = np.isfinite(history[f"train_{metric}"]) & np.isfinite(history[f"valid_{metric}"])
            pairs[metric] = (history[f"train_{metric}"][both], history[f"valid_{metric}"][both])
    steps = int(step[-1] - step[0]) + 1 if np.isfinite(step).all() else len(loss)
    return Course(steps, start, end, diverged, nothing, pairs)
