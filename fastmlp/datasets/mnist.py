"""MNIST: 70 000 handwritten digits of 28x28 pixels, by Y. LeCun, C. Cortes and C. J. C. Burges (CC BY-SA 3.0)."""

from typing import Any, TypeAlias

import numpy as np

from fastmlp.datasets import published

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MAX_VALUE = 255  #: Full ink.

#: Addresses, and files with the sha256 of their decompressed content.
PUBLISHED = published.Published(
    "mnist",
    (
        published.File(
            "train-images-idx3-ubyte",
            (60000, 28, 28),
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        published.File(
            "train-labels-idx1-ubyte",
            (60000,),
            "d53e105ee54ea40749a09fcbcd1e9432",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        published.File(
            "t10k-images-idx3-ubyte",
            (10000, 28, 28),
            "9fb629c4189551a2d022fa330f9573f3",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        published.File(
            "t10k-labels-idx1-ubyte",
            (10000,),
            "ec29112dd5afa0611ce80d1b7f02629c",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
)


def load_data() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Load MNIST as Keras does: from ``FASTMLP_DATA``, the cache folder, or the network.

    The files are taken from the first of these places: ``FASTMLP_DATA``, either its subfolder ``mnist`` or the folder
    itself; the subfolder ``mnist`` of the cache folder, which ``FASTMLP_CACHE`` can set; the network, which fills the
    cache. A folder holds the four IDX files, gzip-compressed or not. Their contents are verified by digest.

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
    """
    return published.load(PUBLISHED)
