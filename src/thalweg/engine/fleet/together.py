"""Gradients of all lanes together, under vmap: products of all lanes become one and small operations are shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.core.problem import leaves
from thalweg.engine.fleet.gradient import Gradient, compare
from thalweg.engine.fleet.lanes import Lanes, length
from thalweg.engine.recording.program import Program
from thalweg.engine.work import Stepper


class Together(Gradient):
    """All lanes under vmap. dims: which of batch and masks have a lane dimension."""

    def __init__(self, stepper: Stepper, lanes: Lanes, slopes: bool, one_batch: bool, one_mask: bool, taped: bool = True) -> None:
        super().__init__(stepper, lanes, slopes, taped)
        self.dims = (None if one_batch else 0, None if one_mask else 0)

    def __call__(
        self, batch: Any, masks: Sequence[Tensor], live: Sequence[int], check: bool = False, seed: Callable[[int], None] | None = None
    ) -> dict[str, Tensor]:
        assert seed is None, "draws of its own are taken lane by lane"
        self.ready()
        key = self.key(batch, masks)
        if self.taped and key not in self.tapes:
            self._bind(key, batch, masks)
        if not self.taped:
            return self._plain(batch, masks)
        held, program = self.tapes[key]
        for mine, new in zip(held, leaves((batch, *masks)), strict=True):
            if mine is not new:
                mine.copy_(new)
        ends = program()
        if check:
            self._compare(batch, masks)
        return dict(zip(self.lanes.buffers, ends[2 + len(self.lanes.g) :], strict=True))

    def _bind(self, key: Any, batch: Any, masks: Sequence[Tensor]) -> None:
        lanes = self.lanes
        masks = [mask.clone() for mask in masks]
        held = leaves((batch, *masks))
        known = [*lanes.points.values(), *lanes.constants.values(), *lanes.buffers.values(), *held]
        places = [lanes.loss, lanes.norm, *lanes.g]
        tape = self._record(lambda *_: self._answer(batch, masks), [*known, *places])
        if tape is not None:
            donate = {i: len(known) + i for i in range(len(places))}
            self.tapes[key] = (held, Program(tape, [*known, *places], donate))

    def _answer(self, batch: Any, masks: Sequence[Tensor]) -> list[Tensor]:
        """loss, norm, a gradient a block, and the buffers after the forward."""
        lanes, dims = self.lanes, (0, 0, *self.dims)
        others = {**lanes.constants, **lanes.buffers}
        loss: Any = 0.0
        g: list[Any] = [0.0] * len(lanes.x)

        def one(points: Any, others: Any, batch: Any, masks: Any) -> Any:
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention know no lanes
                return self.lose({**points, **others}, batch, masks)

        for share, rows, own in self.parts(batch, masks, 0 if dims[2] is None else 1):
            if self.slopes:
                slopes, part, after = self._slopes(one, dims, others, rows, own)
                pieces = [[slopes[n].reshape(len(part), -1) for n in b.names] for b in lanes.blocks]
                g = [_sum(was, share, torch.cat(p, 1) if len(p) > 1 else p[0]) for was, p in zip(g, pieces, strict=True)]
            else:
                with torch.no_grad():
                    part, after = vmap(one, in_dims=dims, randomness="same")(lanes.points, others, rows, own)
                g = [torch.zeros_like(x) for x in lanes.x]
            loss = _sum(loss, share, part)
            others.update(after)
        return [loss.detach(), length(g).detach(), *(part.detach() for part in g), *(others[n].detach() for n in lanes.buffers)]

    def _slopes(self, one: Callable[..., Any], dims: Any, others: Any, rows: Any, own: Any) -> tuple[Any, Tensor, dict[str, Tensor]]:
        """Gradients, losses and buffers of all lanes at some rows."""
        if self.taped:  # differentiated within the lanes, gradients come out in the order of the weights, by the cheaper operations
            slopes, (part, after) = vmap(grad_and_value(one, has_aux=True), in_dims=dims, randomness="same")(
                self.lanes.points, others, rows, own
            )
            return slopes, part, after
        # without a tape outside of them: at its first use the other loads torch's compiler, which takes longer than a short run.
        # Lanes do not meet: the gradient of the sum of their losses is each one's own.
        with torch.enable_grad():
            points = {n: x.detach().requires_grad_() for n, x in self.lanes.points.items()}
            part, after = vmap(one, in_dims=dims, randomness="same")(points, others, rows, own)
            found = torch.autograd.grad(part.sum(), list(points.values()), materialize_grads=True)
        return dict(zip(points, found, strict=True)), part.detach(), {n: tensor.detach() for n, tensor in after.items()}

    def _plain(self, batch: Any, masks: Sequence[Tensor]) -> dict[str, Tensor]:
        ends = self._answer(batch, masks)
        for place, end in zip([self.lanes.loss, self.lanes.norm, *self.lanes.g], ends, strict=False):
            place.copy_(end)
        return dict(zip(self.lanes.buffers, ends[2 + len(self.lanes.g) :], strict=True))

    def _compare(self, batch: Any, masks: Sequence[Tensor]) -> None:
        again = self._answer(batch, masks)
        for now, then in zip([self.lanes.loss, *self.lanes.g], [again[0], *again[2:]], strict=False):
            compare(now, then, self.stepper.precision)


def _sum(before: Any, share: float, part: Tensor) -> Tensor:
    return part if share == 1.0 else before + share * part
