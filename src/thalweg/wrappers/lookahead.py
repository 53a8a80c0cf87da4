"""Lookahead: every few steps the weights go back, part of the way, to where slow weights follow. Zhang et al. 2019, arXiv:1907.08610"""

from typing import Annotated

from thalweg.core import Domain, Fraction, like_point, wrapper

Span = Annotated[int, Domain("Span", kind="int", low=1)]


@wrapper(stage="point", scope="element")
def lookahead(step, x, g, slow=like_point, *, lookahead: Fraction = 0.5, lookahead_steps: Span = 5, t):
    x = step(x, g)
    now = (t % lookahead_steps == 0) * 1.0
    slow = slow + now * lookahead * (x - slow)
    return x + now * (slow - x), slow
