"""MNIST: 70 000 handwritten digits of 28x28 pixels, by Y. LeCun, C. Cortes and C. J. C. Burges (CC BY-SA 3.0)."""

from typing import Any, TypeAlias

import numpy as np

from fastmlp.datasets import files

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MAX_VALUE = 255  #: Full ink.

# sha256 of the decompressed files.
_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def load_data() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Load MNIST from the folder ``mnist`` under the one that ``FASTMLP_DATA`` names.

    The folder holds the four IDX files, gzip-compressed or not. Their contents are verified by digest.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuple of tuples of ndarray
        Images uint8 (60000, 28, 28) and (10000, 28, 28), labels uint8 (60000,) and (10000,).

    Raises
    ------
    FileNotFoundError
        If ``FASTMLP_DATA`` is not set or a file is missing; the message says what to put where.
    ValueError
        If a file is damaged.
    """
    return files.load_idx("mnist", _SHA256)
