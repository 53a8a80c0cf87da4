"""Half a cosine from 1 to a floor, after a linear warm-up. Loshchilov and Hutter 2016, arXiv:1608.03983"""

import math

from thalweg.core.schedule import schedule, warmed


@schedule
def cosine(total, floor=0.0, warmup=0):
    def f(t):
        share = min(t / max(total - warmup, 1), 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2

    return warmed(f, warmup)
