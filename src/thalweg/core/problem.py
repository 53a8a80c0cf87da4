"""A problem: a model, a loss and data, as the engines take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from thalweg.core.stream import Stream
from thalweg.errors import UserError

Batch = Any
"""A tensor, or a tuple, list or dict of tensors, that all have the rows of the data as their first dimension."""


@dataclass(frozen=True)
class Metric:
    """A figure of merit: (predictions, targets) -> scalar tensor, averaged over all rows at once."""

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    better: Literal["higher", "lower"]


def accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Share of rows whose class is right: the largest of (n, classes) scores, or the sign of (n,) logits."""
    if prediction.dim() > 1 and prediction.shape[-1] > 1:
        return (prediction.argmax(-1) == target).double().mean()
    return ((prediction.reshape(target.shape) > 0) == (target > 0.5)).double().mean()


def r2(prediction: Tensor, target: Tensor) -> Tensor:
    """Share of the target's variance that is explained; 1 is perfect, 0 is the mean's."""
    error = (prediction.reshape(target.shape) - target).double()
    spread = (target - target.mean()).double()
    return 1 - (error * error).sum() / (spread * spread).sum()


METRICS = {"accuracy": Metric("accuracy", accuracy, "higher"), "r2": Metric("r2", r2, "higher")}


@dataclass(frozen=True)
class Problem:
    """What is trained: a fresh model, a loss, and data split into train, valid and test.

    model: makes a fresh module; its weights are drawn under `torch.manual_seed(seed)`.
    loss: (model output, targets) -> scalar; the batch is then a pair (inputs, targets).
    step: (model, batch) -> scalar; replaces `loss` for dict batches and the like.
    train, valid, test: tensors, pairs or dicts of tensors with a common first dimension, or a `torch.utils.data.Dataset`
        (read into memory). Without `valid`, and without `test`, a fifth of the rows is set apart (by a fixed seed).
    metrics: names among "accuracy", "r2", or a mapping name -> (predictions, targets) -> scalar. The first is the score; without any
        the score is the loss, lower is better.
    better: which direction of the first metric is better, where it is the user's own function.
    batch_size, epochs: what `compare` uses unless told otherwise; None stands for 32 rows, or all where there are fewer.
    all_rows: valid and test are the training rows themselves, and every score is a training score (said in the report).
    columns, scale: names of the features and how they were scaled (`thalweg.core.table.Scale`), where that is known.
    notes: facts for the report's method section.
    """

    model: Callable[[], nn.Module]
    loss: Callable[[Any, Any], Tensor] | None = None
    train: Batch = None
    valid: Batch = None
    test: Batch = None
    metrics: Any = ()
    step: Callable[[Any, Batch], Tensor] | None = None
    better: Literal["higher", "lower"] = "higher"
    name: str = "problem"
    batch_size: int | None = None
    epochs: int = 10
    all_rows: bool = False
    columns: tuple[str, ...] = ()
    scale: Any = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not callable(self.model) or isinstance(self.model, nn.Module):
            raise UserError(
                "Problem(model=...) takes a function that makes a fresh module, such as `lambda: Net()`, not a module: "
                "every seed starts from weights of its own"
            )
        if (self.loss is None) == (self.step is None):
            raise UserError("Problem takes either loss=(output, target) -> scalar or step=(model, batch) -> scalar, one of the two")
        if self.train is None:
            raise UserError("Problem needs train=..., a pair (inputs, targets) or a Dataset")
        if self.step is not None and self.metrics:
            raise UserError("metrics compare predictions with targets, which a step does not show: leave them out, the loss is the score")
        object.__setattr__(self, "metrics", tuple(self._metrics()))

    def _metrics(self) -> list[Metric]:
        from thalweg.errors import unknown

        if isinstance(self.metrics, Mapping):
            return [Metric(name, f, self.better if i == 0 else "higher") for i, (name, f) in enumerate(self.metrics.items())]
        names = (self.metrics,) if isinstance(self.metrics, str) else self.metrics
        for name in names:
            if not isinstance(name, Metric) and name not in METRICS:
                raise unknown("metric", str(name), METRICS)
        return [name if isinstance(name, Metric) else METRICS[name] for name in names]

    @property
    def score(self) -> str:
        """The name of the figure that ranks runs."""
        return self.metrics[0].name if self.metrics else "loss"

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is a better one."""
        return bool(self.metrics) and self.metrics[0].better == "higher"

    def lose(self, model: Any, batch: Batch) -> Tensor:
        """The loss of a model (anything callable) on a batch."""
        if self.step is not None:
            return self.step(model, batch)
        assert self.loss is not None
        inputs, targets = batch
        return self.loss(model(inputs), targets)


def rows(batch: Batch) -> int:
    """The common number of rows; UserError where tensors disagree or there are none."""
    leaves = tree_flatten(batch)[0]
    if not leaves or not all(isinstance(leaf, Tensor) and leaf.dim() > 0 for leaf in leaves):
        raise UserError("data must be a tensor or a tuple, list or dict of tensors whose first dimension counts the rows")
    counts = {leaf.shape[0] for leaf in leaves}
    if len(counts) != 1:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        raise UserError(f"the data's tensors have different numbers of rows: shapes {shapes}")
    return counts.pop()


def leaves(batch: Any) -> list[Any]:
    """The tensors of a batch, in order; plain tuples and lists of tensors, the usual case, at little cost."""
    if isinstance(batch, Tensor):
        return [batch]
    if type(batch) in (tuple, list):
        return [leaf for part in batch for leaf in ((part,) if isinstance(part, Tensor) else leaves(part))]
    return tree_flatten(batch)[0]


def take(batch: Batch, index: Tensor) -> Batch:
    """The rows at `index`, of any shape; new leading dimensions are those of the index."""
    if isinstance(batch, tuple) and all(isinstance(leaf, Tensor) for leaf in batch):  # the usual case, at no cost
        return tuple(leaf[index] for leaf in batch)
    return tree_map(lambda leaf: leaf[index], batch)


def to(batch: Batch, device: Any) -> Batch:
    """The batch on a device."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)


def tensors(data: Any) -> Batch:
    """Data as tensors in memory: a Dataset is read row by row once; arrays become tensors; tensors and streams stay themselves."""
    if isinstance(data, Stream):
        return data
    if isinstance(data, torch.utils.data.TensorDataset):
        return tuple(data.tensors)
    if isinstance(data, torch.utils.data.Dataset):
        length = len(data)  # type: ignore[arg-type]
        if length == 0:
            raise UserError("the Dataset is empty")
        return torch.utils.data.default_collate([data[i] for i in range(length)])
    return tree_map(lambda leaf: leaf if isinstance(leaf, Tensor) else torch.as_tensor(leaf), data)
