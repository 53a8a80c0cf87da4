"""MNIST: handwritten digits, 28x28 pixels. LeCun, Cortes and Burges 1998, yann.lecun.com/exdb/mnist"""

from thalweg.core.declare import dataset
from thalweg.core.table import Table, images

_FOLDERS = ("mnist", "MNIST/raw")
_ADDRESSES = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)
_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@dataset(task="classes", classes=10, shape=(1, 28, 28))
def mnist(data) -> Table:
    """Handwritten digits with pixels in [0, 1], not standardised.

    X (60000, 1, 28, 28) and the official test rows X_test (10000, 1, 28, 28); 10 classes.
    data: the folder with the four IDX files, in it or in its folder `mnist`, or None for the usual places. Raises
    UserError when one is missing or damaged.

    >>> mnist(data="/nowhere")
    Traceback (most recent call last):
        ...
    thalweg.errors.UserError: the data folder, /nowhere, is not a folder; name one that exists
    """
    return images(data, _SHA256, _FOLDERS, _ADDRESSES, "MNIST, pixels in [0, 1], official test rows")
