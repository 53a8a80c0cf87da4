"""Sharpness-aware minimisation: the gradient is taken at the point uphill at distance `sam`. Foret et al. 2020, arXiv:2010.01412"""

from thalweg.core import Scale, wrapper


@wrapper(stage="ascent")
def sam(x, g, *, sam: Scale = 0.05):
    return x + sam * g / (g.norm() + 1e-12)
