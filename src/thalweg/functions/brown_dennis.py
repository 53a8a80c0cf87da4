"""Brown and Dennis' function: a sum of fourth powers, 85822 at its least. 1971; More, Garbow and Hillstrom 1981, 16"""

import torch
from torch import Tensor

from thalweg.core.method import function

BEST = (-11.594439904762163, 13.203630051207202, -0.40343948817685954, 0.23677877445573625)


@function(start=(25.0, 5.0, -5.0, -1.0), minimum=85822.20162635631, minimiser=BEST)
def brown_dennis(x: Tensor) -> Tensor:
    t = torch.arange(1, 21, dtype=x.dtype, device=x.device) / 5
    return (((x[0] + t * x[1] - t.exp()) ** 2 + (x[2] + x[3] * t.sin() - t.cos()) ** 2) ** 2).sum()
