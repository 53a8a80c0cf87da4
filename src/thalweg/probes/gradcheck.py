"""Gradient check of a model's parameters: autograd against differences, in double precision. Nocedal and Wright 2006, section 8.1"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.calculus.gradcheck import GradientCheck
from thalweg.calculus.gradcheck import gradcheck as check
from thalweg.core.probe import probe, problem_of, trainable, whole
from thalweg.core.problem import Batch, Problem, rows, take


@probe
def gradcheck(
    model: nn.Module,
    loss: Callable[[Any, Any], Tensor] | Problem | None = None,
    data: Any = None,
    *,
    step: Callable[[Any, Batch], Tensor] | None = None,
    coordinates: int = 4,
    most: int = 64,
    tolerance: float = 1e-5,
    train: bool = False,
    seed: int = 0,
) -> GradientCheck:
    """Whether autograd's gradient of the loss is the loss's gradient, by each parameter, at the model's weights.

    coordinates: compared of each parameter, the largest slope among them, and with them one random direction. most: rows that are used, the
    first. tolerance: the relative error allowed. Kinks, as of a ReLU, are told from errors. The answer is true where nothing is wrong, and
    names the offending parameters. The rest is as in `spectrum`. Raises UserError where nothing can be trained, or the loss is not one
    finite number, or differs from one time to the next.

    >>> model = nn.Linear(3, 1)
    >>> bool(gradcheck(model, nn.functional.mse_loss, (torch.ones(4, 3), torch.zeros(4, 1))))
    True
    """
    problem = problem_of(model, loss, data, step)
    whole("coordinates", coordinates, 1)
    trainable(model)
    batch = take(problem.train, torch.arange(min(rows(problem.train), whole("most", most, 1))))
    kept = [(part, part.training) for part in model.modules()]
    try:
        model.train(train)
        with torch.inference_mode(False), torch.enable_grad():
            return check(replace(problem, train=batch), batch, coordinates=coordinates, tolerance=tolerance, seed=seed)
    finally:
        for part, mode in kept:
            part.training = mode
