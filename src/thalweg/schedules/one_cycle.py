"""Half a cosine up to 1 over the first part of all updates, another down to a floor. Smith and Topin 2017, arXiv:1708.07120"""

import math

from thalweg.core.schedule import schedule


@schedule
def one_cycle(total, peak=0.3, start=0.04, floor=4e-6):
    top = max(peak * total, 1.0)

    def f(t):
        low, share = (start, t / top) if t < top else (floor, 1 - min((t - top) / max(total - top, 1.0), 1.0))
        return low + (1 - low) * (1 - math.cos(math.pi * share)) / 2

    return f
