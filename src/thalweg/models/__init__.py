"""The shelf `models`: every file here is an entry, found by being there; `layers` holds what they are built of."""

from thalweg.core.catalogue import stock
from thalweg.models.layers import BatchNorm as BatchNorm
from thalweg.models.layers import DenseBlock as DenseBlock
from thalweg.models.layers import FractionalMaxPool as FractionalMaxPool
from thalweg.models.layers import ResidualBlock as ResidualBlock
from thalweg.models.layers import StochasticDepth as StochasticDepth
from thalweg.models.layers import Transition as Transition

__all__ = stock(globals())
