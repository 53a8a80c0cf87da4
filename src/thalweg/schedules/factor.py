"""max(floor, factor^t): the rate times a number below 1 at every update, down to a floor. Zhang et al., Dive into Deep Learning, 2021"""

from thalweg.core.schedule import schedule, warmed


@schedule
def factor(factor, floor=0.0, warmup=0):
    return warmed(lambda t: max(floor, float(factor) ** t), warmup)
