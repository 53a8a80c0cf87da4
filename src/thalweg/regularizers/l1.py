"""L1: the penalty l1 * sum |W| as a proximal step, which makes weights exactly zero. Beck and Teboulle 2009 (ISTA). Weights only."""

from thalweg.core import Penalty, wrapper


@wrapper(stage="loss", shelf="regularizers", scope="element")
def l1(step, x, g, *, l1: Penalty = 1e-4, lr, weights):
    x = step(x, g)
    return x.sign() * (x.abs() - lr * l1 * weights).clamp(min=0.0)
