"""Airfoil self-noise: sound pressure of wing sections. Brooks, Pope and Marcolini 1989, UCI doi:10.24432/C5VW2C"""

import io

import numpy as np
import torch

from thalweg.core.declare import dataset
from thalweg.core.files import Source, read
from thalweg.core.table import Table, scaling

_FILE = Source(
    "airfoil_self_noise.dat",
    "10ee06e6cfb27dae6b44213d421d217012fb1f9b697592e73a4e4016b52d425f",
    urls=(
        "https://archive.ics.uci.edu/ml/machine-learning-databases/00291/airfoil_self_noise.dat",
        "https://d2l-data.s3-accelerate.amazonaws.com/airfoil_self_noise.dat",
    ),
    text=True,
)


@dataset(task="regression", shape=(5,))
def airfoil(data) -> Table:
    """The first 1,500 of 1,503 rows; all columns, the target too, standardised over all 1,503 with ddof 0, as published.

    data: the folder with airfoil_self_noise.dat, or None for the usual places. X (1500, 5), loss half_mse. Raises
    UserError when the file is missing or damaged.

    >>> airfoil(data="/nowhere")
    Traceback (most recent call last):
        ...
    thalweg.errors.UserError: the data folder, /nowhere, is not a folder; name one that exists
    """
    rows = torch.from_numpy(np.loadtxt(io.BytesIO(read(_FILE, data)), delimiter="\t"))
    mean, sd = scaling(rows)
    rows = ((rows - mean) / sd)[:1500]
    return Table(
        rows[:, :5], rows[:, 5], "regression", columns=("frequency", "angle", "chord", "velocity", "thickness"),
        standardize=None, batch_size=10, epochs=2, loss="half_mse",
        notes=("first 1,500 rows of airfoil_self_noise.dat, all columns, the target too, standardised over all 1,503",),
    )  # fmt: skip
