"""Moving average of the weights: the answer is a leaky average of the points, and the run does not feel it. Polyak and Juditsky 1992"""

from thalweg.core import Decay, like_point, wrapper


@wrapper(stage="point", scope="element")
def ema(step, x, g, mean=like_point, *, ema: Decay = 0.999):
    x = step(x, g)
    return x, ema * mean + (1 - ema) * x


@ema.readout
def _answer(mean):
    return mean
