"""One loop of C over a list of tensors: an optimizer's whole update, in place, in one pass over memory.

A rule is recorded once, on tensors of three numbers, and written as C. What depends on one tensor alone (its count of updates, corrections
for bias, states of one number) is worked out in double precision before the loop over its numbers. The tensors stay where they are, of any
size and number: nothing is gathered, and nothing is compiled again when shapes, rates or the number of tensors change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from thalweg.engine.bound import Bound
from thalweg.engine.optimizer.written import Key, Text, Unwritten
from thalweg.engine.recording import kernel
from thalweg.engine.recording.tape import Unrecordable

TILE = 8192
"""Numbers that a thread takes at a time."""
GIVEN = frozenset({"t", "weights"})
"""What a rule may ask for here."""


@dataclass(frozen=True)
class Loop:
    """A compiled update. slots: for every tensor the places of its point, gradient, step count and states, in the order of `key.states`."""

    call: Any
    hypers: tuple[str, ...]
    width: int  # doubles of scratch a tensor
    slots: int


def compiled(bound: Bound, key: Key) -> Loop | None:
    """The update as a loop; None where there is no compiler, or the rule is not one that treats every number by itself.

    bound: of a layout of one vector of three numbers.
    """
    if not (kernel.available() and bound.by_number and bound.rule.scope == "element" and bound.requests <= GIVEN):
        return None
    rule = bound.rule
    name = (rule.function, rule.decay, tuple(bound.structure.items()), bound.active, tuple(w.function for w in bound.wrappers), key)
    if name not in _loops:  # many an optimizer has the same update
        try:
            text = Text(bound, key)
            call = kernel.load(text.source())
            _loops[name] = None if call is None else Loop(call, text.hypers, max(1, len(text.kept)), 3 + len(key.states))
        except (Unrecordable, Unwritten):
            _loops[name] = None
    return _loops[name]


_loops: dict[Any, Loop | None] = {}
"""The loops of this process."""
