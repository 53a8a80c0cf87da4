"""Spedicato's trigonometric function; most methods end in the local minimum 2.795e-5. More, Garbow and Hillstrom 1981, 26"""

import torch
from torch import Tensor

from thalweg.core.method import function


@function(n=10, start=lambda n: [1 / n] * n, minimum=0.0, minimiser=lambda n: [0.0] * n, others=(2.7950561218794563e-05,))
def trigonometric(x: Tensor) -> Tensor:
    i = torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device)
    return ((len(x) - x.cos().sum() + i * (1 - x.cos()) - x.sin()) ** 2).sum()
