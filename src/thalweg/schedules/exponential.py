"""e^(-rate t): the same share is lost at every update. Robbins and Monro's conditions fail, so it may stall. Bottou 2010"""

import math

from thalweg.core.schedule import schedule, warmed


@schedule
def exponential(rate, floor=0.0, warmup=0):
    return warmed(lambda t: max(floor, math.exp(-rate * t)), warmup)
