"""Three modes: a class of three blobs against all that lies around them. Karpathy 2015, CS231n, linear classification"""

import torch

from thalweg.core.declare import dataset
from thalweg.core.table import Table


@dataset(task="binary", classes=2, shape=(2,))
def three_modes() -> Table:
    """1,200 points of the plane, the same every time: 600 of three discs (label 1), 600 of the square around them (label 0).

    X (1200, 2). The discs have radius 0.5 and centres 1.2 from the origin, a third of a turn apart; the rest is uniform on the square
    from -2 to 2, 0.65 or more from every centre. A line gets at best 2 of 3 right.

    >>> table = three_modes()
    >>> table.X.shape, table.y.bincount().tolist()
    (torch.Size([1200, 2]), [600, 600])
    """
    generator = torch.Generator().manual_seed(0)
    turns = torch.pi * torch.tensor([1 / 2, 7 / 6, 11 / 6], dtype=torch.float64)
    centres = 1.2 * torch.stack([turns.cos(), turns.sin()], dim=1)  # (3, 2)
    around = 4 * torch.rand(1200, 2, generator=generator, dtype=torch.float64) - 2
    around = around[torch.cdist(around, centres).amin(1) >= 0.65][:600]
    share, turn = torch.rand(2, 600, generator=generator, dtype=torch.float64)
    radius, angle = 0.5 * share.sqrt(), 2 * torch.pi * turn
    within = centres[torch.arange(600) % 3] + torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    notes = ("1,200 points of the plane, three discs (label 1) and what is around them (label 0)",)
    y = torch.arange(2).repeat_interleave(600)
    return Table(torch.cat([around, within]), y, "binary", 2, ("x1", "x2"), epochs=30, notes=notes)
