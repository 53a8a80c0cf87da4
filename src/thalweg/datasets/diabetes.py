"""Diabetes progression of 442 patients, embedded in scikit-learn. Efron, Hastie, Johnstone and Tibshirani 2004"""

import torch

from thalweg.core.declare import dataset
from thalweg.core.table import Table


@dataset(task="regression", shape=(10,))
def diabetes() -> Table:
    """442 patients: X (442, 10) as measured; the target is the disease's progression in a year. Standardised by default.

    >>> table = diabetes()
    >>> table.X.shape, table.columns[:3], table.y[:2].tolist()
    (torch.Size([442, 10]), ('age', 'sex', 'bmi'), [151.0, 75.0])
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    X, y = torch.tensor(bunch.data, dtype=torch.float64), torch.tensor(bunch.target, dtype=torch.float64)
    notes = ("442 patients from scikit-learn, features as measured",)
    return Table(X, y, "regression", columns=tuple(bunch.feature_names), standardize=True, epochs=50, notes=notes)
