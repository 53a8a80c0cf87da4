"""A layer is never updated: its parameters need no gradient, are not the optimizer's, or have the rate 0."""

from __future__ import annotations

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(explains=("rate_too_low", "rate_too_high", "vanishing_gradients", "dead_units"))
def frozen_layer(parts) -> Finding | None:
    if not parts.untrained:
        return None
    names, why = [part.name for part in parts.untrained], parts.untrained[0].why
    weights, many = sum(part.parameters for part in parts.untrained), len(names) > 1
    if why == "requires_grad is False":
        remedy = f"for p in model.get_submodule({names[0]!r}).parameters(): p.requires_grad_(True)"
        remedy += ", and give the optimizer all of model.parameters()"
    else:
        remedy = "give the optimizer all of model.parameters(), at a rate above 0"
    return Finding(
        "frozen_layer",
        f"{'The layers' if many else 'The layer'} {', '.join(names[:4])}{', ...' * (len(names) > 4)} "
        f"{'are' if many else 'is'} never updated.",
        f"{why[0].upper()}{why[1:]}: {weights} of the model's {parts.parameters} parameters lie in {'them' if many else 'it'}. "
        "(Where that is on purpose, as in fine-tuning, all is well.)",
        remedy,
        0.96,
        {"trainable": tuple(names)},
        {"parameters": float(weights), "of": float(parts.parameters)},
    )
