"""The shelf `pictures`: every file here is an entry, found by being there; `draw` takes one by name, `draw_all` all that apply."""

from thalweg.core.catalogue import stock
from thalweg.core.picture import applicable as applicable
from thalweg.core.picture import draw as draw
from thalweg.core.picture import draw_all as draw_all
from thalweg.core.picture import save as save

__all__ = stock(globals())
