"""The expected step: the mean of mini-batch gradients over the draws is the full gradient. Bottou, Curtis and Nocedal 2018, section 3"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.calculus.subject import Subject, of_module
from thalweg.core.batches import batches
from thalweg.core.problem import Problem, rows, take, tensors
from thalweg.errors import UserError


@dataclass(frozen=True, eq=False)
class ExpectedStep:
    """The answer of `expected_step`; true where the two agree to the tolerance. All gradients are one vector of all parameters, (d,).

    full: of all rows at once. expected: the mean over an epoch's batches, each weighted by its rows, as each row is as likely as another.
    unweighted: the same with one weight a batch, as an epoch's steps take them: other than `full` where the last batch is short.
    error: |expected - full| / |full|. short: |unweighted - full| / |full|. spread: the root of the mean of |batch gradient - full|^2.
    """

    full: Tensor
    expected: Tensor
    unweighted: Tensor
    error: float
    short: float
    spread: float
    batches: int
    tolerance: float

    def __bool__(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        size = float(self.full.norm())
        text = (
            f"the expected step is {'' if self else 'not '}the full gradient: relative error {self.error:.2g} over {self.batches} batches, "
        )
        text += f"each {self.spread / size if size else float('inf'):.2g} of its norm away from it"
        if not self:
            text += "; a batch's loss must be the mean over its rows, without batch normalisation, dropout or a sum over rows"
        elif self.short > self.tolerance:
            text += f"; with one weight a batch, as steps have, the short last one leaves an error of {self.short:.2g}"
        return text


def expected_step(
    problem: Any,
    batch_size: int,
    *,
    loss: Callable[[Any, Any], Tensor] | None = None,
    data: Any = None,
    seed: int = 0,
    tolerance: float = 1e-9,
) -> ExpectedStep:
    """Compare the expected mini-batch gradient with the full one, in float64.

    problem: a Problem; or a module with loss=(output, targets) -> scalar and data=(inputs, targets). Batches are those of one epoch, all
    of them, so that the expectation is computed and not estimated. It holds where the loss is the mean over rows.

    Raises UserError where the batch size is not in 1..rows, and where module, loss and data are not all given.

    >>> model, data = torch.nn.Linear(1, 1), (torch.tensor([[2.0], [1.0], [0.0]]), torch.tensor([[3.0], [2.0], [5.0]]))
    >>> check = expected_step(model, 2, loss=torch.nn.functional.mse_loss, data=data)
    >>> bool(check), check.batches, check.short > 0.01
    (True, 2, True)
    """
    if isinstance(problem, Problem):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = problem.model()
        data, lose = tensors(problem.train if data is None else data), problem.lose
    elif isinstance(problem, torch.nn.Module) and loss is not None and data is not None:
        module, lose = problem, lambda model, batch: loss(model(batch[0]), batch[1])
    else:
        raise UserError("expected_step takes a Problem, or a module with loss= and data=(inputs, targets)")
    n = rows(data)
    full = _gradient(of_module(module, lose, data))
    weighted, plain, square, count = torch.zeros_like(full), torch.zeros_like(full), 0.0, 0
    for index in batches(n, batch_size, seed=seed, epochs=1):
        g = _gradient(of_module(module, lose, take(data, index)))
        weighted, plain, count = weighted + len(index) / n * g, plain + g, count + 1
        square += len(index) / n * float((g - full).square().sum())
    size = float(full.norm()) or 1.0
    error, short = float((weighted - full).norm()) / size, float((plain / count - full).norm()) / size
    return ExpectedStep(full, weighted, plain / count, error, short, square**0.5, count, tolerance)


def _gradient(subject: Subject) -> Tensor:
    return torch.cat([g.reshape(-1) for g in subject.gradient().values()])
