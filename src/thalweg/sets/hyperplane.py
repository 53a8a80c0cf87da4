"""Hyperplane: one linear equation, a . x = b. Boyd and Vandenberghe 2004, section 8.1"""

from __future__ import annotations

from thalweg.core.convex import Numbers, Projection, convex_set, normal, numbers


@convex_set
def hyperplane(a: Numbers, b: Numbers = 0.0) -> Projection:
    """The points with a . x = b. a: (n,), not zero. b: a number. Points are (..., n).

    >>> hyperplane([1.0, 1.0, 1.0], 1.0).project([1.0, 1.0, 2.0])
    tensor([0., 0., 1.], dtype=torch.float64)
    """
    a, b = normal(a, "hyperplane: a"), numbers(b, "hyperplane: b").reshape(())
    square = a @ a
    return lambda x: x - (((x @ a.to(x)) - b.to(x)) / square.to(x)).unsqueeze(-1) * a.to(x)
