"""Half the mean squared error, whose gradient has no factor 2: the mean of (output - target)^2 / 2. Gauss 1809."""

from torch import Tensor

from thalweg.core.declare import Reduction, align, loss, reduced


@loss(tasks=("regression",), target="float")
def half_mse(output: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """Half the mean squared error, the mean over all numbers of (output - target)^2 / 2.

    output, target: any shapes with equally many numbers, such as (n, 1) and (n,). Raises UserError where they have not.

    >>> import torch
    >>> half_mse(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 0.0]))
    tensor(2.5000)
    """
    output, target = align(output, target)
    return reduced((output - target).square(), reduction) / 2
