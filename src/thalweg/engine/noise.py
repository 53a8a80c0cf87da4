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
from thalweg.core.problem import leaves
from thalweg.errors import UserError


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

    def __init__(self, every: bool) -> None:
        super().__init__()
        self.every = every
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MULTIPLYING:
            x, p, training = _arguments(args, kwargs or {})
            if training and (p > 0 or self.every):
                self.calls.append((func, x.shape, x.stride(), x.dtype, x.device, p))
            return x
        return func(*args, **(kwargs or {}))


class Replay(TorchFunctionMode):
    """Answers the dropout calls of a forward from a list of masks."""

    def __init__(self, masks: Sequence[Tensor], every: bool = False) -> None:
        super().__init__()
        self.masks, self.every = iter(masks), every

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MULTIPLYING:
            x, p, training = _arguments(args, kwargs or {})
            return x * next(self.masks) if training and (p > 0 or self.every) else x
        return func(*args, **(kwargs or {}))


class Paired:
    """The noise of a fleet's forwards.

    forward()(batch): one lane's plain forward, held weakly.
    other: whether it draws random numbers besides dropout's; such a fleet must share
    one seed, and the forward draws for itself. every: dropout layers whose own probability is 0 count too. still: it is known to draw
    nothing.
    """

    def __init__(self, forward: Callable[[], Any], device: torch.device, batch: Any, every: bool = False, still: bool = False) -> None:
        self.forward, self.device, self.every, self.still = forward, device, every, still and not every
        self.calls: dict[tuple[Any, ...], list[Call]] = {}
        self.other = False if self.still else self._note(batch)

    def _note(self, batch: Any) -> bool:
        """List the dropout calls of a forward of this batch's shape; say whether it draws other random numbers."""
        calls, other = _list(lambda: self.forward()(batch), self.device, self.every)
        self.calls[_shapes(batch)] = calls
        return other

    def masks(self, batch: Any, seeds: Sequence[int], t: int, one: bool, rates: Sequence[float] | None = None) -> list[Tensor]:
        """What the dropout calls of step t multiply with; `batch` is one lane's.

        one: without a dimension of lanes, which then share a seed. rates: each lane's dropout probability, in place of the model's own.
        """
        if self.still:
            return []
        shapes = _shapes(batch)
        if shapes not in self.calls:
            self._note(batch)
        calls = self.calls[shapes]
        if not calls:
            return []
        kinds: list[tuple[int, float | None]] = list(zip(seeds, rates if rates is not None else [None] * len(seeds), strict=True))
        drawn = {kind: _draw(calls, kind[0], t, kind[1]) for kind in dict.fromkeys(kinds)}
        return drawn[kinds[0]] if one else [torch.stack([drawn[kind][i] for kind in kinds]) for i in range(len(calls))]


def _shapes(batch: Any) -> tuple[Any, ...]:
    return tuple(leaf.shape for leaf in leaves(batch))


def _list(forward: Callable[[], Any], device: torch.device, every: bool) -> tuple[list[Call], bool]:
    with torch.random.fork_rng(), _List(every) as mode, torch.no_grad():
        torch.manual_seed(0)
        forward()
        after = states(device)
        torch.manual_seed(0)
        before = states(device)
    return mode.calls, any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def states(device: torch.device) -> list[Tensor]:
    """The states of the generators that a forward on this device may draw from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _mask(f: Callable, shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype, device: torch.device, p: float) -> Tensor:
    return f(torch.empty_strided(shape, stride, dtype=dtype, device=device).fill_(1.0), p, True)


def _draw(calls: Sequence[Call], seed: int, t: int, rate: float | None) -> list[Tensor]:
    """The masks of step t for one seed, at the calls' own probability or at another."""
    seed_step(seed, t, calls[0][4])
    return [_mask(*call[:-1], call[-1] if rate is None else rate) for call in calls]


class Smoothed(TorchFunctionMode):
    """Answers cross entropies with smoothed labels, by a share that is a tensor."""

    def __init__(self, share: Tensor) -> None:
        super().__init__()
        self.share = share

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.cross_entropy:
            return func(*args, **(kwargs or {}))
        names = ("input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction")
        values = {"weight": None, "ignore_index": -100, "reduction": "mean", **dict(zip(names, args, strict=False)), **(kwargs or {})}
        x, target = values["input"], values["target"]
        if values["weight"] is not None or target.is_floating_point() or values["reduction"] != "mean" or x.dim() < 2:
            raise UserError("label_smoothing can be set for a mean cross_entropy of class labels without class weights")
        logs = F.log_softmax(x, 1)
        kept = target != values["ignore_index"]
        nll = F.nll_loss(logs, target, ignore_index=values["ignore_index"])
        even = -(logs.mean(1) * kept).sum() / kept.sum()
        return (1 - self.share) * nll + self.share * even


class Dropped(TorchFunctionMode):
    """Gives every dropout call of a forward in training another probability."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _MULTIPLYING:
            return func(*args, **(kwargs or {}))
        x, _, training = _arguments(args, kwargs or {})
        return func(x, self.p, training)


def normal(seed: int, t: int, like: Tensor) -> Tensor:
    """The standard normal numbers that a rule asks for at step t, in the shape of `like`."""
    generator = torch.Generator(device=like.device).manual_seed(step_seed(seed, t))
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
