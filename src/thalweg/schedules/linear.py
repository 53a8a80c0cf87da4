"""A straight line from 1 to a floor, after a linear warm-up. As in Goyal et al. 2017 and BERT, Devlin et al. 2018, arXiv:1810.04805"""

from thalweg.core.schedule import schedule, warmed


@schedule
def linear(total, floor=0.0, warmup=0):
    return warmed(lambda t: floor + (1 - floor) * (1 - min(t / max(total - warmup, 1), 1.0)), warmup)
