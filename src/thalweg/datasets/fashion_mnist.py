"""Fashion-MNIST: pictures of clothing, 28x28 pixels. Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747"""

from thalweg.core.declare import dataset
from thalweg.core.table import Table, images

_FOLDERS = ("fashion-mnist", "FashionMNIST/raw")
_ADDRESSES = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
)
_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataset(task="classes", classes=10, shape=(1, 28, 28))
def fashion_mnist(data) -> Table:
    """Pictures of clothing with pixels in [0, 1], not standardised.

    X (60000, 1, 28, 28) and the official test rows X_test (10000, 1, 28, 28); 10 classes.
    data: the folder with the four IDX files, in it or in its folder `fashion-mnist`, or None for the usual places.
    Raises UserError when one is missing or damaged.

    >>> fashion_mnist(data="/nowhere")
    Traceback (most recent call last):
        ...
    thalweg.errors.UserError: the data folder, /nowhere, is not a folder; name one that exists
    """
    return images(data, _SHA256, _FOLDERS, _ADDRESSES, "Fashion-MNIST, pixels in [0, 1], official test rows")
