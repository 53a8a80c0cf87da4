"""Gradient clipping by value: every component is cut to [-clip_value, clip_value]. Mikolov 2012"""

from thalweg.core import Threshold, wrapper


@wrapper(stage="gradient", scope="element")
def clip_value(step, x, g, *, clip_value: Threshold = 1.0):
    return step(x, g.clamp(-clip_value, clip_value))
