"""Dropout in lanes: every lane gets the noise that its own loop would draw after `torch.manual_seed(step_seed(seed, t))`.

A first pass lists a forward's dropout calls. At each step the masks are drawn with torch's own functions, seed by seed, and handed
to the fleet, whose dropout calls then only multiply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from thalweg.core.batches import step_seed

# those that multiply their input by noise that does not depend on it
_MULTIPLYING = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d}

Call = tuple[Callable, torch.Size, tuple[int, ...], torch.dtype, torch.device, float]
"""A dropout call: the function, and the shape, strides, type, device and probability of what it multiplies (torch fills noise in
memory order, so that strides count)."""


def _arguments(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Tensor, float, bool]:
    names = ("input", "p", "training")
    values = {"p": 0.5, "training": True, **dict(zip(names, args, strict=False)), **kwargs}
    return values["input"], values["p"], values["training"]


class _List(TorchFunctionMode):
    """Lists the dropout calls of a forward and lets the input through."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MULTIPLYING:
            x, p, training = _arguments(args, kwargs or {})
            if training and p > 0:
                self.calls.append((func, x.shape, x.stride(), x.dtype, x.device, p))
            return x
        return func(*args, **(kwargs or {}))


class Replay(TorchFunctionMode):
    """Answers the dropout calls of a forward from a list of masks."""

    def __init__(self, masks: Sequence[Tensor]) -> None:
        super().__init__()
        self.masks = iter(masks)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MULTIPLYING:
            x, p, training = _arguments(args, kwargs or {})
            return x * next(self.masks) if training and p > 0 else x
        return func(*args, **(kwargs or {}))


def list_calls(forward: Callable[[], Any], device: torch.device) -> tuple[list[Call], bool]:
    """The dropout calls of a forward, and whether it draws any other random numbers."""
    with torch.random.fork_rng(), _List() as mode, torch.no_grad():
        torch.manual_seed(0)
        forward()
        after = [torch.get_rng_state()]
        if device.type == "cuda":
            after.append(torch.cuda.get_rng_state(device))
        torch.manual_seed(0)
        before = [torch.get_rng_state()]
        if device.type == "cuda":
            before.append(torch.cuda.get_rng_state(device))
    return mode.calls, any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def _mask(f: Callable, shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype, device: torch.device, p: float) -> Tensor:
    return f(torch.empty_strided(shape, stride, dtype=dtype, device=device).fill_(1.0), p, True)


def draw(calls: Sequence[Call], seeds: Sequence[int], t: int) -> list[Tensor]:
    """The masks of step t: (lanes, ...) each, or without the lane dimension when all lanes share a seed."""
    drawn: dict[int, list[Tensor]] = {}
    for seed in dict.fromkeys(seeds):
        torch.manual_seed(step_seed(seed, t))
        drawn[seed] = [_mask(*call) for call in calls]
    if len(drawn) == 1:
        return next(iter(drawn.values()))
    return [torch.stack([drawn[seed][i] for seed in seeds]) for i in range(len(calls))]
