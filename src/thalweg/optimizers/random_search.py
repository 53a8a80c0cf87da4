"""Random search: draw x ~ N(0, scale^2), keep the draw with the smallest loss seen. A baseline that ignores the gradient. Rastrigin 1963"""

import math

import torch

from thalweg.core import Scale, like_point, rule, scalar


@rule(scope="group", gradient=False)
def random_search(x, g, best=like_point, least=scalar(math.inf), *, scale: Scale = 1e-4, loss, noise):
    best = torch.where(loss < least, x, best)
    return scale * noise, best, torch.minimum(loss, least)


@random_search.readout
def answer(best):
    return best
