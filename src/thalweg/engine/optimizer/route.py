"""Two optimizers as one: matrices to one rule, the rest to another."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import UserError

Make = Callable[..., torch.optim.Optimizer]


class Routed(torch.optim.Optimizer):
    """Optimizers that step together. `param_groups` are those of all, so that schedulers and scalers see one optimizer."""

    def __init__(self, parts: Mapping[str, torch.optim.Optimizer]) -> None:
        self.parts, self.joined = dict(parts), False
        groups = [group for part in self.parts.values() for group in part.param_groups]
        super().__init__([{"params": list(group["params"])} for group in groups], {})
        self._join()

    def _join(self) -> None:
        """See the parts' own groups and states."""
        self.joined = True
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    @property
    def state(self) -> Any:
        """The states of all parts."""
        return {p: s for part in self.__dict__.get("parts", {}).values() for p, s in part.state.items()}

    @state.setter
    def state(self, value: Any) -> None:
        pass  # the base class makes an empty one; states live in the parts

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "parts": self.parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._join()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every part. closure: called once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state dicts of the parts, by name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` gave; raises ValueError where the parts differ."""
        if set(state_dict) != set(self.parts):
            raise UserError(
                f"loaded state dict has the parts {', '.join(map(str, state_dict))}; this optimizer has {', '.join(self.parts)}"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self._join()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Groups belong to a part: `optimizer.parts["rest"].add_param_group(...)`."""
        if self.joined:
            raise UserError(f"add the group to one of the parts ({', '.join(self.parts)}): optimizer.parts['rest'].add_param_group(...)")
        super().add_param_group(param_group)


def route(params: Iterable[Any], *, matrices: Make, rest: Make, except_for: str | Sequence[str] = ()) -> Routed:
    """One optimizer that steps matrices by one class and everything else by another.

    params: tensors, or (name, tensor) pairs as `model.named_parameters()` gives them. matrices, rest: classes, or partials of them with
    their arguments. except_for: patterns of names, such as "embed*" or "*.head.*", whose matrices go with the rest. A side without
    parameters is left out. Raises ValueError where patterns are given without names.

    >>> from functools import partial
    >>> from thalweg import optim
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
    >>> optimizer = optim.route(model.named_parameters(), matrices=partial(optim.Muon, lr=0.02), rest=partial(optim.AdamW, lr=3e-4))
    >>> [len(group["params"]) for group in optimizer.param_groups]
    [2, 2]
    """
    given = list(params)
    patterns = [except_for] if isinstance(except_for, str) else list(except_for)
    if patterns and not all(isinstance(part, tuple) for part in given):
        raise UserError("except_for matches names: give model.named_parameters() in place of model.parameters()")

    def matrix(part: Any) -> bool:
        p: Tensor = part[1] if isinstance(part, tuple) else part
        return p.ndim == 2 and not (isinstance(part, tuple) and any(fnmatch.fnmatchcase(part[0], pattern) for pattern in patterns))

    sides = {"matrices": (matrices, [p for p in given if matrix(p)]), "rest": (rest, [p for p in given if not matrix(p)])}
    if not given:
        raise UserError("route got an empty parameter list")
    return Routed({name: make(chosen) for name, (make, chosen) in sides.items() if chosen})
