"""Multiclass SVM: the mean over rows of sum_{j != y} max(0, s_j - s_y + 1). Weston and Watkins 1999."""

import torch
from torch import Tensor

from thalweg.core.declare import Reduction, loss, reduced


@loss(tasks=("binary", "classes"), target="label")
def multiclass_svm(output: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """Multiclass SVM loss, the mean over rows of sum_{j != y} max(0, s_j - s_y + 1).

    output: scores, (n, classes). target: int64 labels 0..classes-1, (n,).

    >>> import torch
    >>> multiclass_svm(torch.tensor([[3.2, 5.1, -1.7]]), torch.tensor([0]))
    tensor(2.9000)
    """
    label = target.unsqueeze(1)  # (n, 1)
    margins = (output - output.gather(1, label) + 1).clamp(min=0)
    # the true class is masked, not subtracted as a 1: small losses keep their digits
    own = torch.arange(output.shape[1], device=output.device) == label
    return reduced(margins.masked_fill(own, 0.0).sum(1), reduction)
