"""Meyer's fit of a thermistor, whose Hessian has a condition number of 1e16. Meyer 1970; More, Garbow and Hillstrom 1981, 10"""

import torch
from torch import Tensor

from thalweg.core.method import function

Y = (34780.0, 28610.0, 23650.0, 19630.0, 16370.0, 13720.0, 11540.0, 9744.0, 8261.0, 7030.0, 6005.0, 5147.0, 4427.0, 3820.0, 3307.0, 2872.0)


@function(start=(0.02, 4000.0, 250.0), minimum=87.94585517085112, minimiser=(0.005609636471028053, 6181.346346286372, 345.2236346241365))
def meyer(x: Tensor) -> Tensor:
    t = 45 + 5 * torch.arange(1, 17, dtype=x.dtype, device=x.device)
    return ((x[0] * (x[1] / (t + x[2])).exp() - x.new_tensor(Y)) ** 2).sum()
