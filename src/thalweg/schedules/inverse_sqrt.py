"""(t + 1)^(-1/2), which is 1 / sqrt(t) with t counted from 1. Zinkevich 2003; after a warm-up, Vaswani et al. 2017, arXiv:1706.03762"""

from thalweg.core.schedule import schedule, warmed


@schedule
def inverse_sqrt(warmup=0):
    return warmed(lambda t: (t + 1) ** -0.5, warmup)
