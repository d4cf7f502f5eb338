"""The 8x8 digits bundled with scikit-learn: 1797 real handwritten digits, available offline.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.datasets import files

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MAX_VALUE = 16  #: A pixel is the number of dark points in a 4x4 block.


def load_data() -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Load the digits in a fixed stratified split: every fifth image of each class is a test image.

    Returns
    -------
    (x_train, y_train), (x_test, y_test) : tuple of tuples of ndarray
        Images uint8 (1433, 8, 8) and (364, 8, 8) with values from 0 to 16, labels uint8 (1433,) and (364,).

    Raises
    ------
    ImportError
        If scikit-learn is not installed; it comes with the extra ``cli``.

    Examples
    --------
    >>> from fastmlp.datasets import digits
    >>> (x_train, y_train), (x_test, y_test) = digits.load_data()
    >>> x_train.shape, y_train.dtype, x_test.shape
    ((1433, 8, 8), dtype('uint8'), (364, 8, 8))
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise checks.extra("digits come with scikit-learn", error) from error
    bundled = load_digits()
    x, y = bundled.images.astype(np.uint8), bundled.target.astype(np.uint8)
    test = files.held_out(y)
    return (x[~test], y[~test]), (x[test], y[test])
