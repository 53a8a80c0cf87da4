"""Breast cancer, Wisconsin diagnostic, from scikit-learn. Street, Wolberg and Mangasarian 1993, doi:10.24432/C5DW2B"""

import torch

from thalweg.core.declare import dataset
from thalweg.core.table import Table


@dataset(task="binary", classes=2, shape=(30,))
def breast_cancer() -> Table:
    """569 tumours: X (569, 30) measurements of cell nuclei; label 0 is malignant, 1 benign. Standardised by default.

    >>> table = breast_cancer()
    >>> table.X.shape, table.y.bincount().tolist()
    (torch.Size([569, 30]), [212, 357])
    """
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    X, y = torch.tensor(bunch.data, dtype=torch.float64), torch.tensor(bunch.target)
    notes = ("569 tumours from scikit-learn, label 0 malignant, 1 benign",)
    columns = tuple(str(name) for name in bunch.feature_names)
    return Table(X, y, "binary", 2, columns, standardize=True, epochs=30, notes=notes)
