"""Data sets: modules with Keras' ``load_data() -> (x_train, y_train), (x_test, y_test)``, and `load` for files."""

from fastmlp.datasets import digits, fashion_mnist, mnist
from fastmlp.datasets.files import Dataset, load

__all__ = ["Dataset", "digits", "fashion_mnist", "load", "mnist"]
