"""Linear warm-up from 0 over the first `warmup` updates (a twentieth of all), then constant. Goyal et al. 2017, arXiv:1706.02677"""

from thalweg.core.schedule import schedule, warmed


@schedule
def warmup(total, warmup=None):
    return warmed(lambda t: 1.0, max(1, total // 20) if warmup is None else warmup)
