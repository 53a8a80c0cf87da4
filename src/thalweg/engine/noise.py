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
from torch.utils._pytree import tree_flatten

from thalweg.core.batches import step_seed


def seed_step(seed: int, t: int, device: torch.device) -> None:
    """`torch.manual_seed(step_seed(seed, t))`, but for what it costs: that call also walks the stack for devices not in use."""
    torch.default_generator.manual_seed(step_seed(seed, t))
    if device.type == "cuda":
        torch.cuda.manual_seed(step_seed(seed, t))
    elif device.type == "mps":
        torch.mps.manual_seed(step_seed(seed, t))


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


class Paired:
    """The noise of a fleet's forwards.

    forward(batch): one lane's plain forward. other: whether it draws random numbers besides dropout's; such a fleet must share
    one seed, and the forward draws for itself.
    """

    def __init__(self, forward: Callable[[Any], Any], device: torch.device, batch: Any) -> None:
        self.forward, self.device = forward, device
        self.calls: dict[tuple[Any, ...], list[Call]] = {}
        self.other = self._note(batch)

    def _note(self, batch: Any) -> bool:
        """List the dropout calls of a forward of this batch's shape; say whether it draws other random numbers."""
        calls, other = _list(lambda: self.forward(batch), self.device)
        self.calls[_shapes(batch)] = calls
        return other

    def masks(self, batch: Any, seeds: Sequence[int], t: int) -> list[Tensor]:
        """What the dropout calls of step t multiply with; `batch` is one lane's."""
        if self.other:  # the forward draws, dropout too, as the loop's would
            seed_step(seeds[0], t, self.device)
            return []
        if _shapes(batch) not in self.calls:
            self._note(batch)
        calls = self.calls[_shapes(batch)]
        return _draw(calls, seeds, t) if calls else []

    def check(self, batch: Any, seed: int, loss: Tensor) -> bool:
        """Whether a first loss agrees with the plain forward's: not every operation draws alike under vmap."""
        seed_step(seed, 0, self.device)
        alone = self.forward(batch).detach().reshape(())
        return torch.allclose(alone, loss, rtol=1e-4, atol=1e-6, equal_nan=True)


def _shapes(batch: Any) -> tuple[Any, ...]:
    return tuple(leaf.shape for leaf in tree_flatten(batch)[0])


def _list(forward: Callable[[], Any], device: torch.device) -> tuple[list[Call], bool]:
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


def _draw(calls: Sequence[Call], seeds: Sequence[int], t: int) -> list[Tensor]:
    """The masks of step t: (lanes, ...) each, or without the lane dimension when all lanes share a seed."""
    drawn: dict[int, list[Tensor]] = {}
    for seed in dict.fromkeys(seeds):
        seed_step(seed, t, calls[0][4])
        drawn[seed] = [_mask(*call) for call in calls]
    if len(drawn) == 1:
        return next(iter(drawn.values()))
    return [torch.stack([drawn[seed][i] for seed in seeds]) for i in range(len(calls))]


def normal(seed: int, t: int, like: Tensor) -> Tensor:
    """The standard normal numbers that a rule asks for at step t, in the shape of `like`."""
    generator = torch.Generator(device=like.device).manual_seed(step_seed(seed, t))
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
