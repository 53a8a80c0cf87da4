"""Times gamma every so many updates, such as every 30 epochs. He et al. 2016, arXiv:1512.03385"""

from thalweg.core.schedule import ramped, schedule


@schedule
def step(every, gamma=0.1, warmup=0):
    return ramped(lambda t: float(gamma) ** (t // every), warmup)
