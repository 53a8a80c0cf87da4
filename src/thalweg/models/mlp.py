"""Multilayer perceptron of any depth. Rumelhart et al. 1986; initialised after He et al. 2015, Glorot and Bengio 2010"""

import math
from typing import Annotated

from torch import nn

from thalweg.core import Choice, Count, Flag
from thalweg.core.declare import Probability, Width, model
from thalweg.models.layers import BatchNorm


@model(tasks=("regression", "binary", "classes"))
def mlp(
    shape: tuple[int, ...],
    outputs: int,
    *,
    hidden: Width = 64,
    depth: Count = 2,
    activation: Annotated[str, Choice("relu", "tanh", "sigmoid")] = "relu",
    batch_norm: Flag = False,
    dropout: Probability = 0.0,
) -> nn.Module:
    """Multilayer perceptron: `depth` hidden layers of `hidden` units, then an affine layer; depth 0 is a linear model.

    Weights start as N(0, 2 / fan in) under relu, N(0, 2 / (fan in + fan out)) under tanh and sigmoid and in the last
    layer; biases at 0.
    batch_norm: between the affine map, which then has no bias, and the activation. dropout: its probability after each
    activation.
    shape: of one row, which is flattened. The module maps (n, *shape) to (n, outputs).

    >>> mlp((64,), 10, hidden=32, depth=1, batch_norm=True, dropout=0.5)
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=64, out_features=32, bias=False)
      (2): BatchNorm(32, eps=1e-05, momentum=0.1)
      (3): ReLU()
      (4): Dropout(p=0.5, inplace=False)
      (5): Linear(in_features=32, out_features=10, bias=True)
    )
    """
    kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(shape)
    for _ in range(depth):
        # a norm takes out whatever a bias before it adds
        affine = nn.Linear(width, hidden, bias=not batch_norm)
        if activation == "relu":
            nn.init.kaiming_normal_(affine.weight, nonlinearity="relu")
        else:
            nn.init.xavier_normal_(affine.weight)
        layers += [affine, *([BatchNorm(hidden)] if batch_norm else []), kinds[activation]()]
        layers += [nn.Dropout(dropout)] if dropout else []
        width = hidden
    layers.append(nn.Linear(width, outputs))
    nn.init.xavier_normal_(layers[-1].weight)  # type: ignore[arg-type]
    for layer in layers:
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
