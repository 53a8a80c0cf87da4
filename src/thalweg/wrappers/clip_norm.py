"""Gradient clipping by norm: a gradient longer than `clip_norm` is shortened to it. Pascanu et al. 2013, arXiv:1211.5063"""

from thalweg.core import Threshold, wrapper


@wrapper(stage="gradient")
def clip_norm(step, x, g, *, clip_norm: Threshold = 1.0):
    shrink = (clip_norm / (g.norm() + 1e-6)).clamp(max=1.0)
    return step(x, shrink * g)
