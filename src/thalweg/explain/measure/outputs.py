"""The model's outputs, and which loss the user's function is: told by its values on these very outputs and targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from thalweg.errors import UserError
from thalweg.explain.case import Case
from thalweg.explain.measure.rows import Table, pair

ROWS = 256
"""Rows on which outputs are looked at."""

SAME = 1e-4
"""Losses are one when they differ by less than this share; a sum or a half of one is told by its factor."""


@dataclass(frozen=True)
class Outputs:
    """shape: of the outputs on some rows; targets: of those rows' targets. loss: the user's, on them, as the model is. probabilities:
    each row is such, from 0 to 1 and of sum 1; log_probabilities: each row is the logarithm of such; unit: all lie from 0 to 1. same:
    name of the loss that the user's function is, or "". chance: that loss of the best constant, nan where not known; right: share of rows
    whose class is right, nan for numbers. scores: number of outputs a row. step: whether the loss is a function of (model, batch), so
    that outputs cannot be seen. constant: the outputs are the same for all rows. finite: whether loss and outputs are. first_loss: the
    loss on these rows at fresh weights. used: how many of the outputs of a row
    matter to the loss."""

    shape: tuple[int, ...]
    targets: tuple[int, ...]
    loss: float
    probabilities: bool
    log_probabilities: bool
    unit: bool
    same: str
    chance: float
    right: float
    scores: int
    largest: float
    constant: bool
    finite: bool
    first_loss: float
    used: int = 0

    @property
    def level(self) -> float:
        """The loss as a share of the best constant's."""
        return self.loss / self.chance if self.chance and math.isfinite(self.chance) else math.nan


def _one_hot(out: Tensor, y: Tensor) -> Tensor:
    return F.one_hot(y, out.shape[1]).to(out)


REFERENCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "nll_loss": F.nll_loss,
    "mse_loss": lambda out, y: F.mse_loss(out.reshape(y.shape), y.to(out)),
    "mse_loss of one-hot targets": lambda out, y: F.mse_loss(out, _one_hot(out, y)),
    "mse_loss of all pairs of rows": lambda out, y: (out.reshape(-1, 1) - y.reshape(1, -1)).square().mean(),
    "l1_loss": lambda out, y: F.l1_loss(out.reshape(y.shape), y.to(out)),
    "l1_loss of all pairs of rows": lambda out, y: (out.reshape(-1, 1) - y.reshape(1, -1)).abs().mean(),
    "binary_cross_entropy": lambda out, y: F.binary_cross_entropy(out.reshape(y.shape), y.to(out)),
    "binary_cross_entropy_with_logits": lambda out, y: F.binary_cross_entropy_with_logits(out.reshape(y.shape), y.to(out)),
    "multi_margin_loss": F.multi_margin_loss,
}


def outputs(case: Case, table: Table | None = None) -> Outputs | None:
    """Raises UserError where the loss is not one number."""
    model, _ = case.copy()
    few = case.some(ROWS)
    both = pair(case)
    with torch.no_grad():
        loss = case.problem.lose(model, few)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"the loss must be one number, but it came out as {shape}; take its mean")
        value = float(loss)
        fresh = case.restarted() if case.history else None
        begun = math.nan if fresh is None else float(fresh.problem.lose(fresh.model, few))
        if both is None or case.problem.loss is None:
            return Outputs((), (), value, False, False, False, "", math.nan, math.nan, 0, math.nan, False, math.isfinite(value), begun)
        y = few[1]
        out = model(few[0])
    if not isinstance(out, Tensor) or not out.is_floating_point():
        return Outputs(
            (), tuple(y.shape), value, False, False, False, "", math.nan, math.nan, 0, math.nan, False, math.isfinite(value), begun
        )
    seen = out
    if not bool(out.isfinite().all()) and fresh is not None:  # what the net gives by its making is seen at fresh weights too
        with torch.no_grad():
            seen = fresh.model(few[0])
    rows = seen.dim() == 2 and seen.shape[1] > 1
    unit = bool(((seen >= 0) & (seen <= 1)).all())
    total = seen.sum(-1) if rows else seen
    probabilities = rows and unit and bool(((total - 1).abs() < 1e-4).all())
    logs = rows and bool((seen <= 1e-6).all()) and bool(((seen.logsumexp(-1)).abs() < 1e-4).all())
    same = identity(case, seen, y)
    right = math.nan
    if table is not None and table.labels and rows and y.dim() == 1:
        right = float((out.argmax(-1) == y).double().mean())
    spread = float((seen - seen[:1]).abs().max())
    constant = spread <= 1e-6 * max(float(seen.abs().max()), 1e-12) and len(seen) > 1
    return Outputs(
        tuple(seen.shape), tuple(y.shape), value, probabilities, logs, unit, same, _chance(same, y, seen), right,
        seen.shape[1] if rows else 1, float(seen.abs().max()), constant, bool(out.isfinite().all()) and math.isfinite(value), begun,
        _used(case, seen, y) if rows else 0,
    )  # fmt: skip


def _used(case: Case, out: Tensor, y: Tensor) -> int:
    """How many outputs of a row matter to the loss."""
    assert case.problem.loss is not None
    with torch.enable_grad():
        point = torch.rand(out.shape, generator=torch.Generator().manual_seed(case.seed), dtype=out.dtype).to(out.device).requires_grad_()
        loss = case.problem.loss(point, y)
        slope = torch.autograd.grad(loss, point, allow_unused=True)[0] if loss.requires_grad else None
    return 0 if slope is None else int((slope != 0).any(0).sum())


def identity(case: Case, out: Tensor, y: Tensor) -> str:
    """The name of the loss that gives what the user's gives, on the outputs and on random ones of their shape; "" where none does."""
    loss = case.problem.loss
    assert loss is not None
    draw = torch.Generator().manual_seed(case.seed)
    noise = torch.rand(out.shape, generator=draw, dtype=out.dtype).to(out.device)
    tried = [out, 0.05 + 0.9 * noise]
    for name, reference in REFERENCES.items():
        factors = []
        try:
            with torch.no_grad():
                for one in tried:
                    factors.append(float(loss(one, y)) / float(reference(one, y)))
        except Exception:  # it does not take these shapes or types
            continue
        if all(abs(f - factors[0]) <= SAME * abs(factors[0]) for f in factors) and factors[0] != 0 and math.isfinite(factors[0]):
            kept = any(abs(factors[0] - f) < SAME * f for f in (0.5, 1.0, 2.0, len(y), len(y) / 2))
            if kept:
                return name
    return ""


def _chance(same: str, y: Tensor, out: Tensor) -> float:
    """The loss of the best constant output."""
    if same in ("cross_entropy", "nll_loss") and y.dim() == 1 and not y.is_floating_point():
        share = torch.bincount(y).double() / len(y)
        share = share[share > 0]
        return float(-(share * share.log()).sum())
    if same == "mse_loss":
        return float(y.double().var(0, unbiased=False).mean())
    if same.startswith("binary"):
        p = float(y.double().mean())
        return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
    return math.nan
