"""ReLUs that are zero on every row: no gradient reaches their weights, and they stay so. Lu et al. 2019, arXiv:1903.06733"""

from __future__ import annotations

from thalweg.core.cause import cause, learnt
from thalweg.core.finding import Finding


@cause
def dead_units(flow, course=None, outputs=None, rates=None) -> Finding | None:
    dead = [layer for layer in flow.layers if layer.name in flow.dead]
    if not dead or learnt(outputs, course):
        return None
    worst = max(dead, key=lambda layer: layer.dead)
    said = f"{worst.dead:.0%} of the units of {worst.name} are 0 on all {flow.rows} rows"
    said += f"; before the ReLU their mean is {worst.mean:.3g}, the deviation {worst.deviation:.2g}."
    blamed = rates is None or rates.works or not rates.learns
    still = outputs is not None and outputs.constant
    if still:
        said += " The output is the same for all rows."
    if rates is not None and rates.works:
        said += f" From fresh weights, {rates.steps} steps at the same settings end at a loss of {rates.own:.3g}."
    if course is not None:
        said = f"{course.words} {said}"
    return Finding(
        "dead_units", f"The ReLUs behind {', '.join(layer.name for layer in dead[:3])} are dead.", said,
        "layer.reset_parameters() with biases at 0, a lower rate if they died in training, or torch.nn.LeakyReLU()",
        (0.9 if worst.dead > 0.95 or still else 0.6) * (1.0 if blamed else 0.6), {"init": "fitting"}, {"dead": worst.dead},
    )  # fmt: skip
