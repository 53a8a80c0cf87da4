"""The gradient vanishes on its way to the first layers, or to the first steps of a sequence. Glorot and Bengio 2010; Pascanu et al. 2013,
arXiv:1211.5063"""

from __future__ import annotations

import math

from thalweg.core.cause import cause, learnt
from thalweg.core.finding import Finding

LOST = 1e-5
"""So little of the gradient at the last step of a sequence is left at the first, or less."""


@cause(explains=("rate_too_low", "rate_too_high", "dead_units"))
def vanishing_gradients(flow=None, flow_fresh=None, memory=None, parts=None, course=None, outputs=None) -> Finding | None:
    if learnt(outputs, course):
        return None
    if memory is not None and memory.steps > 2 and memory.first < LOST * memory.last:
        said = f"The loss's derivative by the inputs is {memory.first:.2g} at the first step of the sequence and "
        said += f"{memory.last:.2g} at the last: "
        said += f"a step back in time leaves {memory.factor:.2g} of it, over {memory.steps} steps."
        if memory.radius:
            said += f" The recurrent weights' largest eigenvalue has the size {memory.radius:.2g}."
        return Finding(
            "vanishing_gradients", "The gradient vanishes through time: what came early in a sequence is not learnt.", said,
            "torch.nn.init.orthogonal_(rnn.weight_hh_l0) before training, or an LSTM or GRU in place of the RNN", 0.87,
            {"init": "orthogonal"}, {"factor": memory.factor, "radius": memory.radius},
        )  # fmt: skip
    seen, when = (flow, "") if flow is not None and flow.vanishing else (flow_fresh, " at fresh weights")
    if seen is None or not seen.vanishing:
        return None
    chain = [layer for layer in seen.layers if math.isfinite(layer.signal)]
    first, last = next(layer for layer in chain if layer.name == seen.vanishing[0]), chain[-1]
    said = f"The loss's derivative by the output of {first.name} has{when} the norm {first.signal:.2g}, by that of {last.name} "
    said += f"{last.signal:.2g}: "
    said += f"a layer leaves {seen.signal_factor:.2g} of it."
    bent = parts is not None and any(kind in ("Sigmoid", "Tanh") for kind in parts.activations)
    if parts is not None and "Sigmoid" in parts.activations:
        said += " A sigmoid's slope is at most 1/4."
    if course is not None:
        said = f"{course.words} {said}"
    remedy = "torch.nn.ReLU() in place of the sigmoids, weights drawn by torch.nn.init.kaiming_uniform_, and a batch norm after each layer"
    fitting = "torch.nn.init.kaiming_uniform_(layer.weight) for each layer, and a batch norm after each"
    change = {"activation": "relu"} if bent else {}
    return Finding(
        "vanishing_gradients", f"The gradient vanishes before it reaches {', '.join(seen.vanishing[:3])}.", said,
        remedy if bent else fitting, 0.9, {**change, "init": "fitting", "norm": True}, {"signal_factor": seen.signal_factor},
    )  # fmt: skip
