"""The shelf `probes`: measurements of a model, its loss and its data; each a plain function that leaves the model as it is."""

from thalweg.probes.spectrum import Spectrum, spectrum

__all__ = ["Spectrum", "spectrum"]
