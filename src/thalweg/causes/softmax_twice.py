"""The outputs are probabilities, and the loss takes the softmax, or the sigmoid, of them once more."""

from __future__ import annotations

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(explains=("rate_too_low", "vanishing_gradients", "rate_too_high"))
def softmax_twice(outputs, parts) -> Finding | None:
    if outputs.probabilities and outputs.same == "cross_entropy" and outputs.scores > 1:
        what, least = "softmax", f"at best {_floor(outputs.scores):.3g}, not 0, for {outputs.scores} classes"
        seen = "Each row of the outputs sums to 1"
    elif outputs.unit and outputs.same == "binary_cross_entropy_with_logits" and parts.last == "Sigmoid":
        what, least, seen = "sigmoid", "at best 0.313, not 0", "All outputs lie between 0 and 1, behind a Sigmoid"
    else:
        return None
    return Finding(
        "softmax_twice",
        f"The {what} is taken twice: the model ends in one, and {outputs.same} takes another.",
        f"{seen}, and the loss equals {outputs.same} of them to 4 digits, which is made for scores: it is then {least}, and its gradients "
        "are small.",
        f"leave out the {what} at the model's end, and take it only where you want probabilities",
        0.98,
        {"outputs": "scores"},
        {"loss": outputs.loss},
    )


def _floor(classes: int) -> float:
    import math

    return math.log(math.e + classes - 1) - 1
