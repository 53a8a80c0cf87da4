"""What the models are built of: layers and blocks that torch does not have, or not in this form."""

from thalweg.models.layers.batch_norm import BatchNorm
from thalweg.models.layers.dense import DenseBlock, Transition
from thalweg.models.layers.fractional_max_pool import FractionalMaxPool
from thalweg.models.layers.residual import ResidualBlock
from thalweg.models.layers.stochastic_depth import StochasticDepth

__all__ = ["BatchNorm", "DenseBlock", "FractionalMaxPool", "ResidualBlock", "StochasticDepth", "Transition"]
