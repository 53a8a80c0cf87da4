"""Warm-up, stable, decay: 1 until the last `decay` updates (a fifth of all), then linearly to a floor. Hu et al. 2024, arXiv:2404.06395"""

from thalweg.core.schedule import schedule, warmed


@schedule
def wsd(total, warmup=0, decay=None, floor=0.0):
    last = max(1, total // 5 if decay is None else decay)
    return warmed(lambda t: floor + (1 - floor) * min(max((total - warmup - t) / last, 0.0), 1.0), warmup)
