"""The shelf `probes`: measurements of a model, its loss and its data; each a plain function that leaves all of them as they were."""

from thalweg.core.catalogue import stock

__all__ = stock(globals())
