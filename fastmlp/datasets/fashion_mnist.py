"""Fashion-MNIST: 70 000 articles of clothing of 28x28 pixels, by H. Xiao, K. Rasul and R. Vollgraf (MIT licence)."""

from typing import Any, TypeAlias

import numpy as np

from fastmlp.datasets import published

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MAX_VALUE = 255  #: Black.

#: The names of the classes 0 to 9.
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

#: Files and addresses. Digests of the decompressed content are not known: decompressed files are checked by shape only.
PUBLISHED = published.Published(
    "fashion_mnist",
    (
        published.File("train-images-idx3-ubyte", (60000, 28, 28), "8d4fb7e6c68d591d4c3dfef9ec88bf0d", None),
        published.File("train-labels-idx1-ubyte", (60000,), "25c81989df183df01b3e8a0aad5dffbe", None),
        published.File("t10k-images-idx3-ubyte", (10000, 28, 28), "bef4ecab320f06d8554ea6380940ec79", None),
        published.File("t10k-labels-idx1-ubyte", (10000,), "bb300cfdad3c16e7a12a480ee83cd310", None),
    ),
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
)


def load_data() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Load Fashion-MNIST as Keras does: from ``FASTMLP_DATA``, the cache folder, or its publisher.

    The files are taken from the first of these places: ``FASTMLP_DATA``, either its subfolder ``fashion_mnist`` or the
    folder itself; the subfolder ``fashion_mnist`` of the cache folder, which ``FASTMLP_CACHE`` can set; the network,
    which fills the cache. A folder holds the four IDX files, gzip-compressed or not. Downloads are verified by digest.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuple of tuples of ndarray
        Images uint8 (60000, 28, 28) and (10000, 28, 28), labels uint8 (60000,) and (10000,).

    Raises
    ------
    FileNotFoundError
        If a file is missing and cannot be downloaded; the message says where to put the files.
    ValueError
        If a file under ``FASTMLP_DATA`` is damaged.
    ImportError
        If files are missing and pooch, which downloads them, is not installed; it comes with the extra ``cli``.

    Examples
    --------
    >>> from fastmlp.datasets import fashion_mnist
    >>> fashion_mnist.CLASSES[9]
    'Ankle boot'
    """
    return published.load(PUBLISHED)
