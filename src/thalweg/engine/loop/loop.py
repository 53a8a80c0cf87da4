"""One run, step by step: the user's own module, any torch.optim.Optimizer, the batches and the noise of a seed.

All that is random at step t follows from the seed and t alone (`tw.batches`, `tw.step_seed`), so that what `state` holds is enough to go on
bit by bit: weights, buffers, the optimizer's and the scheduler's states, t, and the records.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.core.batches import step_seed
from thalweg.core.problem import Problem
from thalweg.core.schedule import Multiplier
from thalweg.engine import noise
from thalweg.engine.evaluate import evaluate
from thalweg.engine.fleet.gradient import cut
from thalweg.engine.loop.source import Source, others_random
from thalweg.engine.loop.weights import fit, slope_length
from thalweg.engine.memory import kept
from thalweg.engine.optimizer.scheduler import Scheduler
from thalweg.engine.work import LIMIT, Stepper, user_code
from thalweg.errors import ThalwegError, UserCodeError

PROBE = 5000
"""Rows of the training data, at most, on which the training score beside a validation score is taken."""


@dataclass(frozen=True)
class Settings:
    """How a run goes.

    steps: updates in all. every: a record each so many steps. evaluate_every: steps between evaluations (one at 0 and one at the end as
    well), or None for none. seed: of batches and noise. accumulate: parts of a batch whose gradients are summed. precision: "full", or
    "bf16" for forwards under bfloat16 autocast. dropout, label_smoothing: in place of the model's and the loss's own. patience:
    evaluations without a better validation score after which the run stops, or None; the best weights are then kept.
    """

    steps: int
    every: int = 10
    evaluate_every: int | None = None
    seed: int = 0
    accumulate: int = 1
    precision: str = "full"
    dropout: float | None = None
    label_smoothing: float | None = None
    patience: int | None = None


class Diverged(ThalwegError):
    """A loss that is not finite, or far above the first; raised before the step that it would have spoilt."""


class Loop:
    """A run: `train` takes it to its end, `state` and `load` carry it over to another process.

    problem: with its data as tensors or streams. module, optimizer: the user's own, trained in place. schedules: hyperparameter -> f(t).
    t: updates done. status: "running", "done", "stopped early", "diverged" or "interrupted". records, evaluations: a row each,
    by name. measurements: rows that whoever is called after a step puts there. seconds: of the training steps, without evaluations; also
    those of earlier processes.
    """

    def __init__(
        self, problem: Problem, module: nn.Module, optimizer: torch.optim.Optimizer, schedules: Mapping[str, Multiplier],
        source: Source, settings: Settings,
    ) -> None:  # fmt: skip
        self.problem, self.module, self.optimizer, self.source, self.settings = problem, module, optimizer, source, settings
        self.stepper = Stepper(module, problem, settings.precision)
        share = settings.label_smoothing
        self.smoothing = torch.tensor(0.0 if share is None else share, dtype=self.source.precise, device=self.source.device)
        self.scheduler = Scheduler(optimizer, groups=None, **schedules) if schedules else None
        self.t, self.status, self.message = 0, "running", ""
        self.records: list[dict[str, float]] = []
        self.evaluations: list[dict[str, float]] = []
        self.measurements: list[dict[str, float]] = []
        self.first_loss = math.nan
        self.seconds = 0.0
        self.best: dict[str, Any] = {}  # step, score and state of the best evaluation, where a validation score is watched

    # --- training

    def train(self, after: Callable[[Loop], bool] = lambda loop: False) -> str:
        """Train to the end; the status. after: called when a step and its evaluation are done; True interrupts the run."""
        devices = [self.source.device] if self.source.device.type == "cuda" else []
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=devices))
            stack.enter_context(kept())
            stack.enter_context(others_random(self.source.streams))
            batches = stack.enter_context(contextlib.closing(self.source.batches(self.t)))
            if self.t == 0 and not self.evaluations:
                self._evaluate()
            self.module.train()
            while self.t < self.settings.steps:
                began = perf_counter()
                try:
                    self._step(self._next(batches))
                except Diverged as error:
                    self.status, self.message = "diverged", str(error)
                    return self.status
                except UserCodeError as error:
                    if "DataLoader worker" not in str(error) or str(error).startswith("the data"):
                        raise
                    # torch says so wherever the process happens to be
                    said = str(error.__cause__).partition(". ")[0]
                    raise UserCodeError(f"the data gave an error at step {self.t}: {said}; see what its data set does there") from error
                self.seconds += perf_counter() - began
                if self._evaluates() and self._evaluate():
                    self.status = "stopped early"
                    break
                if self.t < self.settings.steps and after(self):
                    self.status = "interrupted"
                    return self.status
            if self.status == "running":
                self.status = "done"
            after(self)
        return self.status

    def _next(self, batches: Iterator[Any]) -> Any:
        if self.source.streams:  # what a data set draws in this process follows from t as well
            seed = step_seed(self.settings.seed ^ 0xDA7A, self.t)
            noise.seed_step(seed, 0, self.source.device)
            np.random.seed(seed & 0xFFFFFFFF)
            random.seed(seed)
        with user_code(f"the data gave an error at step {self.t}"):
            return self.source.place(next(batches))

    def _step(self, batch: Any) -> None:
        """One update, and a record where one is due."""
        asked = self.settings
        recorded = self.t % asked.every == 0 or self.t + 1 == asked.steps
        found: list[Tensor] = []  # the loss and, where recorded, the length of the gradient: of the first time that the closure is called

        def closure() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            noise.seed_step(asked.seed, self.t, self.source.device)
            loss = self._backward(batch)
            if not found:
                found.append(loss)
                self._check(loss)
                if recorded:
                    found.append(slope_length(self.optimizer))
            return loss

        rate = self.optimizer.param_groups[0].get("lr", math.nan)
        with user_code(f"step {self.t} failed", batch):
            self.optimizer.step(closure)  # type: ignore[arg-type]
        if recorded:
            self.records.append({
                "step": self.t, "epoch": self.t / self.source.per_epoch, "loss": float(found[0]), "grad_norm": float(found[1]),
                "lr": float(rate), "seconds": self.seconds,
            })  # fmt: skip
        if self.scheduler is not None:
            self.scheduler.step()
        self.t += 1

    def _backward(self, batch: Any) -> Tensor:
        asked, total = self.settings, torch.zeros((), device=self.source.device)
        with contextlib.ExitStack() as stack:
            if asked.dropout is not None:
                stack.enter_context(noise.Dropped(asked.dropout))
            if asked.label_smoothing is not None:
                stack.enter_context(noise.Smoothed(self.smoothing))
            for share, part, _ in cut(batch, [], asked.accumulate):
                with torch.enable_grad():
                    loss = self.stepper(part)
                    loss = loss.reshape(()) if share == 1.0 else share * loss.reshape(())
                loss.backward()
                total = loss.detach() if share == 1.0 else total + loss.detach()
        return total

    def _check(self, loss: Tensor) -> None:
        """Raise Diverged where a loss says so; an accelerator is asked seldom, since asking waits."""
        if self.t and self.source.device.type != "cpu" and self.t % 16:
            return
        value = float(loss)
        if self.t == 0:
            self.first_loss = value
        if not math.isfinite(value) or value > LIMIT * max(1.0, self.first_loss):
            raise Diverged(
                f"the loss is {value:.3g} at step {self.t}, epoch {self.t / self.source.per_epoch:.2f}: the run has diverged; "
                "take a lower learning rate, a warm-up or clip_norm"
            )

    # --- evaluation

    def _evaluates(self) -> bool:
        every = self.settings.evaluate_every
        return every is not None and (self.t % every == 0 or self.t == self.settings.steps)

    def _evaluate(self) -> bool:
        """Scores of the training rows and, where there are such, of the validation rows; whether the run is to stop early."""
        row: dict[str, float] = {"step": self.t, "epoch": self.t / self.source.per_epoch}
        with self.answering():
            if not self.source.streams:
                row |= {f"train_{name}": value for name, value in self.scores(self.source.probe(PROBE)).items()}
            if self.problem.valid is not None:
                row |= {f"valid_{name}": value for name, value in self.scores(self.problem.valid).items()}
            self.evaluations.append(row)
            return self.settings.patience is not None and self._waited(row)

    def _waited(self, row: Mapping[str, float]) -> bool:
        score, sign = row[f"valid_{self.problem.score}"], 1 if self.problem.higher_is_better else -1
        if not self.best or (math.isfinite(score) and sign * score > sign * self.best["score"]):
            state = {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}
            self.best = {"step": self.t, "score": score, "waited": 0, "state": state}
        elif self.t:
            self.best["waited"] += 1
        assert self.settings.patience is not None
        return self.best["waited"] >= self.settings.patience

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """A block in which the module is in evaluation mode and holds the optimizer's answer, such as an average of its points."""
        answers = hasattr(self.optimizer, "eval") and hasattr(self.optimizer, "train")
        before = self.module.training
        self.module.eval()
        if answers:
            self.optimizer.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            if answers:
                self.optimizer.train()  # type: ignore[attr-defined]
            self.module.train(before)

    def scores(self, data: Any) -> dict[str, float]:
        """Metrics and loss of the module as it is, on some rows."""

        def forward(batch: Any, predict: bool) -> Any:
            return torch.utils._pytree.tree_map(lambda leaf: leaf.unsqueeze(0), self.stepper(self.source.place(batch), predict))

        size = max(2 * self.source.batch_size, 256)
        with torch.no_grad(), user_code("the evaluation of the model failed"):
            found = evaluate(self.problem, data, 1, forward, size)
        return {name: float(column[0]) for name, column in found.items()}

    # --- what a checkpoint holds

    def state(self) -> dict[str, Any]:
        """All that the run needs to go on, as tensors and plain values."""
        return {
            "t": self.t, "status": self.status, "message": self.message, "seconds": self.seconds, "first_loss": self.first_loss,
            "model": self.module.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scheduler": {} if self.scheduler is None else self.scheduler.state_dict(),
            "records": self.records, "evaluations": self.evaluations,
            "measurements": self.measurements, "best": self.best,
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave. Raises UserError, and changes nothing, where it is of another model."""
        fit(self.module, state["model"])
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for name in ("t", "message", "seconds", "first_loss", "best"):
            setattr(self, name, state[name])
        self.records, self.evaluations = list(state["records"]), list(state["evaluations"])
        self.measurements = list(state.get("measurements", ()))
        self.status = state["status"] if state["status"] in ("done", "stopped early", "diverged") else "running"
