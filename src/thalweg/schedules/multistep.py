"""Times gamma at every milestone; a milestone belongs to the piece it begins. He et al. 2016, arXiv:1512.03385"""

from bisect import bisect_right

from thalweg.core.schedule import ramped, schedule


@schedule
def multistep(milestones, gamma=0.1, warmup=0):
    return ramped(lambda t: float(gamma) ** bisect_right(milestones, t), warmup)
