"""Label smoothing of the training loss: a share of each label is spread over all classes. Szegedy et al. 2015, arXiv:1512.00567"""

from thalweg.core import Fraction, wrapper


@wrapper(stage="model", scope="element")
def label_smoothing(*, label_smoothing: Fraction = 0.1): ...
