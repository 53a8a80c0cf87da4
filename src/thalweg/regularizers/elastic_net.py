"""Elastic net: the penalty elastic_net * sum (elastic_beta W^2 + |W|) as a proximal step. Zou and Hastie 2005. Weights only."""

from typing import Annotated

from thalweg.core import Domain, Penalty, wrapper

Ratio = Annotated[float, Domain("Ratio", low=0)]


@wrapper(stage="loss", shelf="regularizers", scope="element")
def elastic_net(step, x, g, *, elastic_net: Penalty = 1e-4, elastic_beta: Ratio = 1.0, lr, weights):
    x = step(x, g)
    shrink = lr * elastic_net * weights
    return x.sign() * (x.abs() - shrink).clamp(min=0.0) / (1 + 2 * elastic_beta * shrink)
