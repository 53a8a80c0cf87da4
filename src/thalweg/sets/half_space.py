"""Half-space: one linear inequality, a . x <= b. Boyd and Vandenberghe 2004, section 8.1"""

from __future__ import annotations

from thalweg.core.convex import Numbers, Projection, convex_set, normal, numbers


@convex_set
def half_space(a: Numbers, b: Numbers = 0.0) -> Projection:
    """The points with a . x <= b. a: (n,), not zero. b: a number. Points are (..., n).

    >>> half_space([1.0, 2.0], 1.0).project([3.0, 2.0])
    tensor([ 1.8000, -0.4000], dtype=torch.float64)
    """
    a, b = normal(a, "half_space: a"), numbers(b, "half_space: b").reshape(())
    square = a @ a
    return lambda x: x - (((x @ a.to(x)) - b.to(x)).clamp(min=0) / square.to(x)).unsqueeze(-1) * a.to(x)
