"""The loss does not fit the outputs or the targets: it is made for log-probabilities, for numbers, or for another shape."""

from __future__ import annotations

from thalweg.core.cause import cause
from thalweg.core.finding import Finding


@cause(
    explains=(
        "rate_too_high",
        "rate_too_low",
        "exploding_gradients",
        "momentum_too_high",
        "batch_too_small",
        "dead_units",
        "features_unscaled",
    )
)
def wrong_loss(outputs, table=None) -> Finding | None:
    shape, targets = outputs.shape, outputs.targets
    labels = table is not None and table.labels and table.classes > 2
    if outputs.same == "nll_loss" and not outputs.log_probabilities:
        title = "The loss is made for log-probabilities, and the model gives something else."
        what = "probabilities" if outputs.probabilities else "scores"
        evidence = f"The loss equals nll_loss, and the outputs are {what}: the mean of exp(output) over a row is not 1 / {outputs.scores}. "
        evidence += f"It is {outputs.loss:.3g} here" + (", and has no lower bound." if outputs.loss < 0 and what == "scores" else ".")
        remedy = "loss = torch.nn.CrossEntropyLoss(), which takes the model's scores"
        return Finding("wrong_loss", title, evidence, remedy, 0.97, {"loss": "cross_entropy"}, {"loss": outputs.loss})
    if outputs.same.endswith("all pairs of rows") and len(shape) != len(targets) and shape[0] > 1:
        evidence = (
            f"Outputs {shape} and targets {targets} are broadcast to ({shape[0]}, {shape[0]}): the loss equals the mean over all pairs "
        )
        evidence += "of an output and another row's target, which is least where all outputs are the targets' mean."
        return Finding(
            "wrong_loss", "The loss compares every output with every target, because their shapes differ.", evidence,
            "give both one shape: loss(model(X).squeeze(1), y), or y.unsqueeze(1) in the data", 0.98, {"loss": "shapes"},
            {"loss": outputs.loss},
        )  # fmt: skip
    if outputs.same == "cross_entropy" and outputs.scores == 1 and len(shape) > 1:
        evidence = f"The outputs have the shape {shape}: the softmax of one score is 1 whatever it is, so that the loss cannot fall."
        remedy = "one output a class for cross_entropy, or binary_cross_entropy_with_logits for one output"
        return Finding("wrong_loss", "Cross-entropy is taken of one score a row.", evidence, remedy, 0.97, {"loss": "cross_entropy"}, {})
    # outputs beyond the first do not matter to a loss of the first alone
    if labels and outputs.scores > 1 and outputs.scores >= table.classes and outputs.same == "" and _regresses(outputs):
        title = "The loss treats the classes' labels as numbers."
        evidence = (
            f"The targets are {table.classes} classes and the model has {outputs.scores} outputs, but the loss is none of those of scores "
        )
        evidence += f"and classes: {outputs.used} of the outputs matter to it."
        remedy = "loss = torch.nn.CrossEntropyLoss(), which takes the model's scores and the labels"
        return Finding("wrong_loss", title, evidence, remedy, 0.93, {"loss": "cross_entropy"}, {"used": float(outputs.used)})
    return None


def _regresses(outputs) -> bool:
    return 0 < outputs.used < outputs.scores
