"""L-BFGS with a closure, as torch.optim has it, that never leaves parameters which are not finite. Nocedal 1980; Liu and Nocedal 1989"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import UserError

HALVINGS = 30
_STEP = inspect.unwrap(torch.optim.LBFGS.step)
"""torch's step without what it runs around steps, hooks among it, which ours has too."""


class LBFGS(torch.optim.LBFGS):
    """L-BFGS: steps along a quasi-Newton direction from the last `history_size` gradients; `step` needs a closure.

    Arguments as in torch.optim.LBFGS, and `maximize`. Where torch's steps lead to a loss or to parameters that are not finite, ours goes
    back to the point before the call, forgets the history and tries half the rate, then a quarter, and so on; the rate itself stays.
    Raises UserError where step() has no closure, or the loss is not finite at the point where the call begins.
    """

    def __init__(
        self, params: Any, lr: float | Tensor = 1, max_iter: int = 20, max_eval: int | None = None, tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9, history_size: int = 100, line_search_fn: str | None = None, *, maximize: bool = False,
    ) -> None:  # fmt: skip
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not 0 < float(lr) < float("inf"):
            raise UserError(f"Invalid learning rate: {lr} (LBFGS: lr must be positive and finite)")
        for name, value in (("max_iter", max_iter), ("history_size", history_size)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"Invalid {name} value: {value} (LBFGS: {name} must be a whole number of at least 1)")
        if line_search_fn not in (None, "strong_wolfe"):
            raise UserError(f"Invalid line_search_fn value: {line_search_fn!r} (LBFGS: it is 'strong_wolfe' or None)")
        super().__init__(params, lr, max_iter, max_eval, tolerance_grad, tolerance_change, history_size, line_search_fn)
        self.maximize = maximize

    def __getstate__(self) -> dict[str, Any]:
        own = {n: v for n, v in self.__dict__.items() if n in ("maximize", "_params", "_numel_cache")}
        return super().__getstate__() | own

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Up to `max_iter` iterations; gives back the loss at the point where it began."""
        if closure is None:
            raise UserError("LBFGS evaluates the loss more than once a step: give step() a closure that clears, computes and returns it")
        (group,) = self.param_groups
        before = [p.detach().clone() for p in group["params"]]
        memory, rate = deepcopy(self.state_dict()["state"]), group["lr"]
        first: list[Any] = []

        def call() -> Any:
            loss = closure()
            first.append(loss)
            if self.maximize:
                for p in group["params"]:
                    p.grad = None if p.grad is None else -p.grad
                return -loss
            return loss

        try:
            for halving in range(HALVINGS):
                with torch.no_grad():
                    loss = _STEP(self, call)
                if not torch.isfinite(torch.as_tensor(first[0])).all():
                    raise UserError(
                        f"LBFGS: the loss is {float(first[0])} at the point where the step begins; start from a point where it is finite"
                    )
                if all(bool(torch.isfinite(p).all()) for p in group["params"]) and bool(torch.isfinite(torch.as_tensor(first[-1]))):
                    return -loss if self.maximize else loss
                self._back(before, memory if halving == 0 else {})
                group["lr"] = rate / 2 ** (halving + 1)
            return first[0]
        except Exception:
            self._back(before, memory)
            raise
        finally:
            group["lr"] = rate

    def _back(self, points: list[Tensor], memory: dict[Any, Any]) -> None:
        (group,) = self.param_groups
        with torch.no_grad():
            for p, point in zip(group["params"], points, strict=True):
                p.copy_(point)
        self.state.clear()
        if memory:
            self.state[group["params"][0]].update(deepcopy(memory[0]))
