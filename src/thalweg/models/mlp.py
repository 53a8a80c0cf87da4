"""Multilayer perceptron of any depth. Rumelhart et al. 1986; initialised after He et al. 2015, Glorot and Bengio 2010"""

import math
from typing import Annotated

from torch import nn

from thalweg.core import Choice, Count, Domain
from thalweg.core.declare import model

Width = Annotated[int, Domain("Width", kind="int", low=1)]


@model(tasks=("regression", "binary", "classes"))
def mlp(
    shape: tuple[int, ...],
    outputs: int,
    *,
    hidden: Width = 64,
    depth: Count = 2,
    activation: Annotated[str, Choice("relu", "tanh", "sigmoid")] = "relu",
) -> nn.Module:
    """Multilayer perceptron: `depth` hidden layers of `hidden` units, then an affine layer; depth 0 is a linear model.

    Weights start as N(0, 2 / fan in) under relu, N(0, 2 / (fan in + fan out)) under tanh and sigmoid and in the last
    layer; biases at 0.
    shape: of one row, which is flattened. The module maps (n, *shape) to (n, outputs).

    >>> mlp((64,), 10, hidden=32, depth=1)
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=64, out_features=32, bias=True)
      (2): ReLU()
      (3): Linear(in_features=32, out_features=10, bias=True)
    )
    """
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(shape)
    for _ in range(depth):
        affine = nn.Linear(width, hidden)
        if activation == "relu":
            nn.init.kaiming_normal_(affine.weight, nonlinearity="relu")
        else:
            nn.init.xavier_normal_(affine.weight)
        layers += [affine, kinds[activation]()]
        width = hidden
    layers.append(nn.Linear(width, outputs))
    nn.init.xavier_normal_(layers[-1].weight)  # type: ignore[arg-type]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
