"""Dropout probability of every dropout layer of the model, in place of the one it was made with. Srivastava et al. 2014"""

from typing import Annotated

from thalweg.core import Domain, wrapper

Share = Annotated[float, Domain("Share", low=0, high=1, open_high=True, search=(0.0, 0.7))]


@wrapper(stage="model", scope="element")
def dropout(*, dropout: Share = 0.5): ...
