"""The shelf `sets`: every file here is an entry, found by being there. `union` is beside them: it is no convex set."""

from thalweg.core.catalogue import stock
from thalweg.core.convex import union as union

__all__ = stock(globals())
