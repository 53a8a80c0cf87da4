"""Kullback-Leibler divergence: the mean over rows of sum_j p_j log(p_j / q_j) with q = softmax(s). Kullback and Leibler 1951."""

from torch import Tensor
from torch.nn import functional

from thalweg.core.declare import Reduction, loss, reduced
from thalweg.errors import UserError


@loss(tasks=("binary", "classes"), target="label")
def kl_divergence(output: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """KL(p | q), the mean over rows of sum_j p_j log(p_j / q_j), where a p_j of 0 adds nothing.

    output: scores s, (n, classes), whose softmax is q; log q serves as well. target: probabilities p in the shape of the
    output, or int64 labels (n,), whose p is 1 at the label: then it is the cross-entropy. Raises UserError where
    probabilities have another shape.

    >>> import torch
    >>> q, p = torch.tensor([[0.1, 0.4, 0.5]]), torch.tensor([[0.2, 0.3, 0.5]])
    >>> kl_divergence(q.log(), p)  # 0.2 log 2 + 0.3 log 0.75
    tensor(0.0523)
    """
    logs = functional.log_softmax(output, 1)
    if not target.is_floating_point():
        return functional.nll_loss(logs, target, reduction=reduction)
    if target.shape != output.shape:
        raise UserError(
            f"the model's output has shape {tuple(output.shape)} and the probabilities {tuple(target.shape)}: "
            "kl_divergence takes a probability for each score"
        )
    p = target.to(logs.dtype)
    return reduced((p.xlogy(p) - p * logs).sum(1), reduction)
