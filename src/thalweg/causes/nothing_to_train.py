"""The model has no parameter that could be trained."""

from __future__ import annotations

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(explains=("frozen_layer",))
def nothing_to_train(parts) -> Finding | None:
    if parts.trained:
        return None
    said = "It has no parameters." if not parts.parameters else f"None of its {parts.parameters} parameters needs a gradient."
    remedy = "keep weights as nn.Parameter, and modules in nn.ModuleList instead of a list"
    if parts.parameters:
        remedy = "model.requires_grad_(True), and the loss outside of torch.no_grad()"
    change = {"trainable": "all"} if parts.parameters else {}
    return Finding("nothing_to_train", "The model has nothing that could be trained.", said, remedy, 0.99, change, {})
