"""L2: the penalty l2 * sum W^2 joins the loss, so 2 l2 W joins the gradient. Weights only; biases and norms are left alone."""

from thalweg.core import Penalty, wrapper


@wrapper(stage="loss", shelf="regularizers", scope="element")
def l2(step, x, g, *, l2: Penalty = 1e-4, weights):
    return step(x, g + 2 * l2 * weights * x)
