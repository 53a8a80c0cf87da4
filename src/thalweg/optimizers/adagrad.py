"""AdaGrad: divide by the root of the sum of all squared gradients. Duchi, Hazan and Singer 2011, JMLR 12"""

from typing import Annotated

from thalweg.core import Domain, Epsilon, Rate, filled, rule

Amount = Annotated[float, Domain("Amount", low=0)]


@rule
def adagrad(
    x, g, s=filled("initial"), *,
    lr: Rate = 1e-2, lr_decay: Amount = 0.0, initial: Amount = 0.0, eps: Epsilon = 1e-10, eps_root: Epsilon = 0.0, t,
):  # fmt: skip
    s = s + g * g
    return x - lr / (1 + (t - 1) * lr_decay) * g / ((s + eps_root).sqrt() + eps), s
