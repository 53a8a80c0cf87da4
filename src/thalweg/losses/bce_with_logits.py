"""Binary cross-entropy on logits: the mean of -y log p - (1 - y) log(1 - p) with p = sigmoid(z). Cox 1958."""

from torch import Tensor
from torch.nn import functional

from thalweg.core.declare import Reduction, align, loss


@loss(tasks=("binary",), target="float")
def bce_with_logits(output: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """Binary cross-entropy on logits z, as max(z, 0) - y z + log(1 + exp(-|z|)), which neither overflows nor loses digits.

    output: logits, (n,) or (n, 1). target: floats in [0, 1], (n,) or (n, 1). Raises UserError where their numbers of
    elements differ.

    >>> import torch
    >>> bce_with_logits(torch.tensor([[1000.0], [-1000.0]]), torch.tensor([1.0, 1.0]))
    tensor(500.)
    """
    output, target = align(output, target)
    return functional.binary_cross_entropy_with_logits(output, target, reduction=reduction)
