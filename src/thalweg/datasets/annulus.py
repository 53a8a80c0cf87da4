"""Annulus: a disc inside a ring, which no line divides. Karpathy 2015, CS231n, linear classification"""

import torch

from thalweg.core.declare import dataset
from thalweg.core.table import Table


@dataset(task="binary", classes=2, shape=(2,))
def annulus() -> Table:
    """1,000 points of the plane, the same every time: 500 of the disc of radius 1 (label 0), 500 of the ring from 1.4 to 2.2 (label 1).

    X (1000, 2), each class uniform on its area. A line gets at best 7 of 10 right, the circle of radius 1.2 all.

    >>> table = annulus()
    >>> bool(((table.X.norm(dim=1) > 1.2) == (table.y == 1)).all())
    True
    """
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(1000) % 2
    inner, outer = torch.tensor([0.0, 1.4], dtype=torch.float64)[y], torch.tensor([1.0, 2.2], dtype=torch.float64)[y]
    share, turn = torch.rand(2, 1000, generator=generator, dtype=torch.float64)
    radius, angle = (inner**2 + share * (outer**2 - inner**2)).sqrt(), 2 * torch.pi * turn
    X = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return Table(X, y, "binary", 2, ("x1", "x2"), epochs=30, notes=("1,000 points of the plane, a disc (label 0) inside a ring (label 1)",))
