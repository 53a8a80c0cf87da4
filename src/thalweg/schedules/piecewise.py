"""Constant pieces: values[k] from milestone k on; a milestone belongs to the piece it begins. Krizhevsky et al. 2012"""

from bisect import bisect_right

from thalweg.core.schedule import ramped, schedule
from thalweg.errors import UserError


@schedule
def piecewise(milestones, values, warmup=0):
    if len(values) != len(milestones) + 1:
        wanted = len(milestones) + 1
        raise UserError(f"piecewise: {len(milestones)} milestones need {wanted} values, one before each and one after; got {len(values)}")
    return ramped(lambda t: float(values[bisect_right(milestones, t)]), warmup)
