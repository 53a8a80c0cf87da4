"""Rprop: every number has a step of its own, longer while the gradient keeps its sign. Riedmiller and Braun 1993 (ICNN). Full batches."""

from typing import Annotated

from thalweg.core import Domain, Rate, filled, rule, zeros

Shorter = Annotated[float, Domain("Shorter", low=0, high=1, open_low=True, open_high=True)]
Longer = Annotated[float, Domain("Longer", low=1, open_low=True)]
Bound = Annotated[float, Domain("Bound", low=0)]


@rule
def rprop(
    x, g, before=zeros, size=filled("lr"), *,
    lr: Rate = 1e-2, eta_minus: Shorter = 0.5, eta_plus: Longer = 1.2, smallest: Bound = 1e-6, largest: Bound = 50.0,
):  # fmt: skip
    sign = (g * before).sign()
    same, other = sign.clamp(min=0), (-sign).clamp(min=0)  # 1 or 0
    size = (size * (1 + (eta_plus - 1) * same + (eta_minus - 1) * other)).clamp(min=smallest).clamp(max=largest)
    g = (1 - other) * g
    return x - size * g.sign(), g, size
