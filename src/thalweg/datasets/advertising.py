"""Advertising: spending on TV, radio and newspapers against sales. James, Witten, Hastie and Tibshirani 2013, ISLR"""

import io

import numpy as np
import torch

from thalweg.core.declare import dataset
from thalweg.core.files import Source, read
from thalweg.core.table import Table

_FILE = Source("advertising.csv", "bab086bd954764b86a19c14c8c17b31180d7257c5517d32a781e4066f5cf8a18", text=True)


@dataset(task="regression", shape=(3,))
def advertising(data) -> Table:
    """200 markets: X (200, 3) is spending in thousands of dollars, the target sales in thousands of units; raw by default.

    data: the folder with advertising.csv, or None for the usual places. The target is never scaled, so that errors are
    in squared units of sales. Raises UserError when the file is missing or damaged.

    >>> advertising(data="/nowhere")
    Traceback (most recent call last):
        ...
    thalweg.errors.UserError: the data folder, /nowhere, is not a folder; name one that exists
    """
    rows = torch.from_numpy(np.loadtxt(io.BytesIO(read(_FILE, data)), delimiter=",", skiprows=1))
    return Table(
        rows[:, :3], rows[:, 3], "regression", columns=("TV", "radio", "newspaper"),
        scale_target=False, batch_size=64, epochs=100, notes=("200 markets of advertising.csv",),
    )  # fmt: skip
