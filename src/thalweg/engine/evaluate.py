"""Metrics of K lanes on held-out rows: predictions for all rows first, each metric once over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from thalweg.core.problem import Batch, Problem, rows
from thalweg.core.stream import Stream


def evaluate(problem: Problem, data: Batch, lanes: int, forward: Callable[[Batch, bool], Any], size: int) -> dict[str, np.ndarray]:
    """Metric name -> (lanes,), "loss" always among them.

    data: tensors, or a Stream. forward(batch, predict): the model's outputs, or the problem's loss, of all lanes, with the lanes first:
    (lanes, rows, ...) or (lanes,).
    size: rows that go through the model at once.
    """
    if problem.step is not None:
        parts = [(forward(chunk, False).cpu().double(), rows(chunk)) for chunk in _chunks(data, size)]
        return {"loss": (sum(loss * count for loss, count in parts) / sum(count for _, count in parts)).numpy()}
    # on the processor, since not every accelerator has double precision
    outputs, seen = [], []
    for chunk in _chunks(data, size):
        outputs.append(tree_map(lambda y: y.cpu(), forward(chunk, True)))
        seen.append(chunk[1])
    whole = outputs[0] if len(outputs) == 1 else tree_map(lambda *parts: torch.cat(parts, dim=1), *outputs)
    targets = torch.cat(seen).cpu() if isinstance(data, Stream) else data[1].cpu()
    values: dict[str, list[float]] = {name: [] for name in (*(m.name for m in problem.metrics), "loss")}
    assert problem.loss is not None
    for k in range(lanes):
        lane = tree_map(lambda leaf, k=k: leaf[k] if isinstance(leaf, Tensor) else leaf, whole)
        for metric in problem.metrics:
            values[metric.name].append(float(metric.function(lane, targets)))
        values["loss"].append(float(problem.loss(lane, targets)))
    return {name: np.array(column) for name, column in values.items()}


def _chunks(data: Batch, size: int) -> Iterator[Batch]:
    if isinstance(data, Stream):
        yield from data.epoch(0)
        return
    for i in range(0, rows(data), size):
        yield tree_map(lambda leaf, i=i: leaf[i : i + size], data)


def best_of(scores: np.ndarray, higher: bool, otherwise: float) -> float:
    """The best finite score, or `otherwise` where there is none."""
    finite = scores[np.isfinite(scores)]
    return otherwise if not len(finite) else float(finite.max() if higher else finite.min())
