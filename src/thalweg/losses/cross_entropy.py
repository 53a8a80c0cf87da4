"""Cross-entropy of the softmax of scores: the mean of log sum_j exp(s_j) - s_y. Bridle 1990."""

from torch import Tensor
from torch.nn import functional

from thalweg.core.declare import Reduction, loss


@loss(tasks=("binary", "classes"), target="label")
def cross_entropy(output: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """Cross-entropy of softmax scores, the mean over rows of log sum_j exp(s_j) - s_y.

    output: scores, (n, classes). target: int64 labels 0..classes-1 of shape (n,), or probabilities in the shape of the
    output.

    >>> import torch
    >>> cross_entropy(torch.zeros(2, 10), torch.tensor([3, 7]))
    tensor(2.3026)
    """
    return functional.cross_entropy(output, target, reduction=reduction)
