"""Watches a model run: each layer's outputs and the loss's derivatives by them, and the activation functions behind it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

RELUS, TANHS, SIGMOIDS = {"relu", "relu_", "relu6"}, {"tanh", "tanh_"}, {"sigmoid", "sigmoid_"}
CLAMPS = {"clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_", "hardtanh", "hardtanh_", "threshold", "threshold_", "_threshold"}
"""These are a ReLU where they cut at 0."""
FULL = 0.97
"""A tanh of larger size is saturated, and a sigmoid above it or as near to 0; the derivative is then below 6 % (3 %)."""


def squared(x: Tensor) -> float:
    """The sum of squares."""
    dense = x.detach().to_dense() if x.layout is not torch.strided else x.detach()
    return float(dense.double().square().sum())


@dataclass
class Seen:
    """What was seen of a layer over all batches."""

    name: str
    module: nn.Module
    parameters: list[tuple[str, nn.Parameter]]
    place: int = -1
    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    units: dict[int, Tensor] = field(default_factory=dict)  # number of units -> (units,), whether each was ever above 0
    full: int = 0
    gated: int = 0
    calls: list[float] = field(default_factory=list)  # squared norm of the derivative by each call's output, in this batch
    signals: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    unused: bool = True

    @property
    def deviation(self) -> float:
        mean = self.mean
        return math.sqrt(max(self.squares / self.count - mean * mean, 0.0)) if self.count else math.nan

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    @property
    def dead(self) -> float:
        alive = [float(unit.double().sum()) for unit in self.units.values()]
        return 1 - sum(alive) / sum(self.units) if self.units else math.nan

    @property
    def saturated(self) -> float:
        return self.full / self.gated if self.gated else math.nan


class Watch(TorchFunctionMode):
    """A block in which a model's layers are watched. times: for each batch, a recurrent layer's signal at each step, in order of time."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        owned: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, p in model.named_parameters():
            inside, parametrized, _ = f".{name}".partition(".parametrizations.")  # of a weight norm, which belongs to its module
            owned.setdefault(inside.removeprefix(".") if parametrized else name.rpartition(".")[0], []).append((name, p))
        modules = dict(model.named_modules())
        self.of = {modules[name]: Seen(name or type(model).__name__, modules[name], given) for name, given in owned.items()}
        self.model, self.stack, self.handles = model, [], []  # type: ignore[var-annotated]
        self.last: Seen | None = None
        self.rows = 0
        self.times: list[list[float]] = []

    def __enter__(self) -> Any:
        for module in self.model.modules():
            self.handles.append(module.register_forward_pre_hook(self._begin))
            self.handles.append(module.register_forward_hook(self._end))
        return self

    def __exit__(self, *raised: Any) -> None:
        for handle in self.handles:
            handle.remove()

    @contextlib.contextmanager
    def batch(self, rows: int) -> Iterator[None]:
        """A block with one forward and one backward of so many rows."""
        self.rows, self.last = rows, None
        self.stack.clear()
        for seen in self.of.values():
            seen.calls.clear()
        with contextlib.ExitStack() as stack:
            TorchFunctionMode.__enter__(self)
            stack.callback(TorchFunctionMode.__exit__, self, None, None, None)
            yield

    def gradients(self) -> None:
        """Take down what the batch's backward has left."""
        for seen in self.of.values():
            given = [p.grad for _, p in seen.parameters if p.grad is not None]
            seen.unused &= not given
            seen.norms.append(math.sqrt(sum(map(squared, given))))
            if seen.calls:
                seen.signals.append(math.sqrt(sum(seen.calls)))
            if len(seen.calls) >= 3:
                self.times.append([math.sqrt(value) for value in seen.calls])

    def layers(self) -> list[Seen]:
        """In the order in which they were first run; those that were not come last."""
        return sorted(self.of.values(), key=lambda seen: (seen.place < 0, seen.place))

    # --- hooks

    def _begin(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        seen = self.of.get(module)
        self.stack.append(seen)
        if seen is not None and seen.place < 0:
            seen.place = 1 + max(other.place for other in self.of.values())
        if isinstance(module, nn.RNNBase) and inputs and isinstance(inputs[0], Tensor) and inputs[0].is_floating_point():
            x = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
            along = 0 if x.dim() == 2 or not module.batch_first else 1
            x.register_hook(lambda g: self.times.append(g.transpose(0, along).flatten(1).double().norm(dim=1).tolist()))
            return (x, *inputs[1:])
        return None

    def _end(self, module: nn.Module, inputs: Any, output: Any) -> None:
        seen = self.stack.pop()
        if seen is None:
            return
        self.last = seen
        call = len(seen.calls)
        seen.calls.append(0.0)

        def arrived(g: Tensor) -> None:
            seen.calls[call] += squared(g)

        for leaf in tree_flatten(output)[0]:
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                numbers = leaf.detach().double()
                seen.count += numbers.numel()
                seen.total += float(numbers.sum())
                seen.squares += float(numbers.square().sum())
                if leaf.requires_grad:
                    leaf.register_hook(arrived)
        if isinstance(module, nn.RNN) and module.nonlinearity == "tanh" and isinstance(output[0], Tensor):
            self._acted(seen, "tanh", output[0].detach(), (), {})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = getattr(func, "__name__", "")
        if self.stack and kind in WATCHED and isinstance(out, Tensor) and out.is_floating_point():
            seen = next((one for one in reversed(self.stack) if one is not None), self.last)
            if seen is not None:
                with torch.no_grad():
                    self._acted(seen, kind, out, args, kwargs or {})
        return out

    def _acted(self, seen: Seen, kind: str, out: Tensor, args: Any, kwargs: Any) -> None:
        """Take down what an activation function gave."""
        if kind in RELUS or (kind in CLAMPS and _cuts_at_zero(kind, args, kwargs)):
            alive = _by_unit(out != 0, seen.module, self.rows)
            before = seen.units.get(len(alive))
            seen.units[len(alive)] = alive if before is None else alive | before
        elif kind in TANHS or kind in SIGMOIDS:
            seen.gated += out.numel()
            seen.full += int(((out.abs() > FULL) if kind in TANHS else ((out - 0.5).abs() > FULL - 0.5)).sum())


WATCHED = RELUS | TANHS | SIGMOIDS | CLAMPS


def _cuts_at_zero(kind: str, args: Any, kwargs: Any) -> bool:
    """Whether a clamp's lower end is the number 0; a threshold's, also what it puts below."""
    named = {"min", "min_val", "threshold"} & set(kwargs)
    low = args[1] if len(args) > 1 else kwargs[named.pop()] if named else None
    if "threshold" in kind:
        return low == 0 and (args[2] if len(args) > 2 else kwargs.get("value")) == 0
    return isinstance(low, int | float) and low == 0


def _by_unit(marks: Tensor, module: nn.Module, rows: int) -> Tensor:
    """Whether each unit is marked anywhere: channels of images, columns of the rest. (units,)"""
    if marks.dim() < 2:
        return marks.any().reshape(1) if marks.numel() == rows else marks.reshape(-1)
    channels = marks.dim() > 2 and isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.GroupNorm)
    unit = 1 if channels else marks.dim() - 1
    return marks.transpose(0, unit).flatten(1).any(1)
