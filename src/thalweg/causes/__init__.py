"""The shelf `causes`: what can be wrong with a training; every file here is an entry, found by being there."""

from thalweg.core.catalogue import stock

__all__ = stock(globals())
