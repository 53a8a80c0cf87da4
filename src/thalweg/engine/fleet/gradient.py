"""What gradients of all lanes have in common, whichever way they are taken: see `together` and `apart`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_unflatten

from thalweg.core.problem import leaves
from thalweg.engine import noise
from thalweg.engine.fleet.lanes import Lanes
from thalweg.engine.recording.program import Program
from thalweg.engine.recording.strategies import REWRITES
from thalweg.engine.recording.tape import Tape, record
from thalweg.engine.work import Stepper
from thalweg.errors import ThalwegError

logger = logging.getLogger(__name__)


class Drifted(ThalwegError):
    """A tape answered differently from the model: its forward depends on more than weights, buffers and batch."""


class Gradient:
    """What both ways have in common: the model's step as a pure function of named tensors, and tapes by the shapes of their batches.

    A call writes loss, gradients and norms into `lanes` and returns the buffers after the forward, valid until the next call.
    """

    def __init__(self, stepper: Stepper, lanes: Lanes, slopes: bool, taped: bool = True) -> None:
        self.stepper, self.lanes, self.slopes, self.taped = stepper, lanes, slopes, taped
        self.smoothed, self.every, self.accumulate = False, False, 1
        self.patient = True  # whether there are steps enough to find out what is fastest
        self.tapes: dict[Any, Any] = {}
        self.recorded = 0
        self.peak = 0  # bytes in use at once while a tape was recorded

    def __call__(
        self, batch: Any, masks: Sequence[Tensor], live: Sequence[int], check: bool = False, seed: Callable[[int], None] | None = None
    ) -> Mapping[str, Tensor]:
        """Gradients at this batch of the lanes that live. check: compare a replay with the model itself.
        seed: called with a lane's number before its forward, where that draws random numbers by itself."""
        raise NotImplementedError

    def ready(self) -> None:
        """Put the model into training mode, where it is not."""
        if not self.stepper.training:
            self.stepper.train()

    def lose(self, named: Mapping[str, Tensor], batch: Any, masks: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One lane's loss, and its buffers after the forward."""
        tensors = {f"module.{n}": tensor for n, tensor in named.items()}
        tensors.update({f"module.{n}": named[n].clone() for n in self.lanes.buffers})
        with contextlib.ExitStack() as stack:
            if self.smoothed:
                stack.enter_context(noise.Smoothed(masks[-1]))
                masks = masks[:-1]
            if masks:
                stack.enter_context(noise.Replay(masks, self.every))
            loss = functional_call(self.stepper, tensors, (batch,))
        return loss.reshape(()), {n: tensors[f"module.{n}"] for n in self.lanes.buffers}

    def parts(self, batch: Any, masks: Sequence[Tensor], axis: int = 0) -> list[tuple[float, Any, Sequence[Tensor]]]:
        """The parts of a batch whose gradients are summed: share of the rows, rows, masks. axis: that of the rows."""
        return cut(batch, masks, self.accumulate, axis, self.smoothed)

    def key(self, batch: Any, masks: Sequence[Tensor]) -> Any:
        return tuple((leaf.shape, leaf.dtype) for leaf in leaves((batch, *masks)))

    @property
    def memory(self) -> int:
        """Bytes that replays need, beside the lanes' own."""
        return sum(program.pool.taken for program in self.programs)

    @property
    def programs(self) -> list[Program]:
        return [part for held in self.tapes.values() for part in held if isinstance(part, Program)]

    @property
    def operations(self) -> int:
        """How many operations the longest tape has."""
        return max((len(program.tape.nodes) for program in self.programs), default=0)

    @property
    def outside(self) -> bool:
        """Whether tapes hold tensors of the user's own besides single numbers."""
        return any(value.constant is not None and value.constant.numel() > 1 for program in self.programs for value in program.tape.values)

    def forget(self) -> None:
        """The lanes' memory has changed."""
        self.tapes = {}

    @property
    def way(self) -> str:
        """The name under which `pick` takes this way again."""
        return "together"

    def close(self) -> None:
        """End what the gradient keeps running."""

    def _record(self, function: Callable[..., Any], inputs: Sequence[Tensor]) -> Tape | None:
        """A tape of a function, or None where there can be none; then it is called as it is from now on."""
        try:
            tape = record(function, inputs, REWRITES)
        except Exception as error:  # the user's own mistakes come up again in the plain call that follows
            logger.debug("trained without a tape: %s: %s", type(error).__name__, error)
            self.taped = False
            return None
        tape.answer = None
        self.recorded += 1
        self.peak = max(self.peak, tape.peak)
        return tape


ROUND_OFF = {torch.float64: 1e-6, torch.float32: 2e-2}
"""By how much gradients may differ whose sums are formed in another order, relative to their length; convolutions differ most."""


def compare(now: Tensor, then: Tensor, precision: str = "full") -> None:
    """Raise Drifted where two answers differ by more than round-off."""
    tolerance = ROUND_OFF.get(now.dtype, 0.2) if precision == "full" else 0.2
    gap, size = (now - then).double().nan_to_num(0, 0, 0).norm(), then.double().nan_to_num(0, 0, 0).norm()
    if gap > tolerance * size + 1e-9:
        raise Drifted(f"a tape is off by {float(gap / size):.1e}: the forward depends on more than weights, buffers and batch")


def measure(call: Callable[[], Any], device: torch.device, most: int = 3) -> float:
    """The least seconds of a few calls after a first one."""
    times = []
    for _ in range(most):
        start = perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
        if len(times) > 1 and sum(times) > 0.5:
            break
    return min(times[1:])


Part = tuple[float, Any, Sequence[Tensor]]


def cut(batch: Any, masks: Sequence[Tensor], count: int, axis: int = 0, smoothed: bool = False) -> list[Part]:
    """A batch in so many parts, or as many as it has rows: share of the rows, rows, masks (the share of smoothing is in all of them)."""
    leaves, spec = tree_flatten(batch)
    rows = leaves[0].shape[axis]
    count = min(count, rows)
    if count == 1:
        return [(1.0, batch, masks)]
    own, shared = (masks[:-1], masks[-1:]) if smoothed else (masks, [])
    each = len(own) // count
    pieces = zip(*[leaf.tensor_split(count, axis) for leaf in leaves], strict=True)
    return [
        (piece[0].shape[axis] / rows, tree_unflatten(list(piece), spec), [*own[i * each : (i + 1) * each], *shared])
        for i, piece in enumerate(pieces)
    ]
