"""Sparse features: rare ones tell the class, frequent ones nothing, as words do. After Duchi, Hazan and Singer 2011, JMLR 12"""

import torch

from thalweg.core.declare import dataset
from thalweg.core.table import Table

ROWS, FEATURES, FREQUENT = 2000, 500, 20
PRESENT = 3.0  # with which the best rates of sgd and of adagrad lie inside the ranges that are searched


@dataset(task="binary", classes=2, shape=(FEATURES,))
def sparse_features() -> Table:
    """2,000 rows of 500 features, the same every time; the j-th (from 1) is 3 in a share 1 / (2 j) of the rows and 0 in the others.

    X (2000, 500), of which 0.7 % is not 0. The first 20 features say nothing of the label; each of the others adds 5 to the log-odds of
    label 1, or takes 5 away. A rate per feature, as AdaGrad's, is what rare features need.

    >>> table = sparse_features()
    >>> table.X.shape, table.X.unique().tolist()
    (torch.Size([2000, 500]), [0.0, 3.0])
    """
    generator = torch.Generator().manual_seed(0)
    share = 0.5 / torch.arange(1, FEATURES + 1, dtype=torch.float64)
    there = torch.rand(ROWS, FEATURES, generator=generator, dtype=torch.float64) < share
    weight = 5.0 * (2 * torch.randint(2, (FEATURES,), generator=generator) - 1).double()
    weight[:FREQUENT] = 0
    y = (torch.rand(ROWS, generator=generator, dtype=torch.float64) < torch.sigmoid(there.double() @ weight)).long()
    notes = ("2,000 rows of 500 sparse features; the rare ones tell the class",)
    return Table(PRESENT * there, y, "binary", 2, tuple(f"x{j}" for j in range(1, FEATURES + 1)), epochs=5, notes=notes)
