"""Data sets: modules with Keras' ``load_data() -> (x_train, y_train), (x_test, y_test)``, and `load` for files.

All names are imported at first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmlp.datasets import digits, fashion_mnist, mnist
    from fastmlp.datasets.files import Dataset, load

__all__ = ["Dataset", "digits", "fashion_mnist", "load", "mnist"]


def __getattr__(name: str) -> Any:
    if name in ("Dataset", "load"):
        return getattr(importlib.import_module("fastmlp.datasets.files"), name)
    if name in __all__:
        return importlib.import_module(f"fastmlp.datasets.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
