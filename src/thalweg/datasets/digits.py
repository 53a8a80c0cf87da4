"""Handwritten digits, 8x8 pixels, embedded in scikit-learn. Alpaydin and Kaynak 1998, UCI doi:10.24432/C50P49"""

import torch

from thalweg.core.declare import dataset
from thalweg.core.table import Table


@dataset(task="classes", classes=10, shape=(64,))
def digits() -> Table:
    """1,797 digits: X (1797, 64) are pixels divided by 16, in [0, 1]; 10 classes.

    >>> table = digits()
    >>> table.X.shape, float(table.X.max()), table.y[:4].tolist()
    (torch.Size([1797, 64]), 1.0, [0, 1, 2, 3])
    """
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    notes = ("1,797 digits of 8x8 pixels from scikit-learn, divided by 16",)
    columns = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
    return Table(torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y), "classes", 10, columns, notes=notes)
