"""Data sets, each a module with Keras' ``load_data() -> (x_train, y_train), (x_test, y_test)``."""

from fastmlp.datasets import digits, mnist

__all__ = ["digits", "mnist"]
