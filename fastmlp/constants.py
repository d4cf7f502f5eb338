"""Constants of optimizers and schedules: their checks, and how frozen dataclasses hold them."""

from typing import Any

import numpy as np

from fastmlp import checks


def set_fields(instance: object, **values: object) -> None:
    """Set fields of a frozen dataclass, which only its ``__post_init__`` may do."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def rate(name: str, value: Any) -> float:
    """Return ``value`` as a learning rate: a finite float >= 0."""
    return float(checks.learning_rate(name, value, negative=False))


def rate_or_schedule(name: str, value: Any) -> Any:
    """Return ``value`` if it can be called, else as a learning rate."""
    return value if callable(value) else rate(name, value)


def share(name: str, value: Any, remedy: str = "pass a share of the updates, such as 0.1") -> float:
    """Return ``value`` as a float from 0 to 1."""
    number = checks.nonnegative(name, value, remedy)
    if number > 1:
        raise ValueError(checks.message(name, number, "a number from 0 to 1", remedy))
    return number


def decay(name: str, value: Any, remedy: str) -> float:
    """Return ``value`` as a float from 0 to below 1."""
    number = checks.nonnegative(name, value, remedy)
    if number >= 1:
        raise ValueError(checks.message(name, number, "a number from 0 to below 1", remedy))
    return number


def flag(name: str, value: Any) -> bool:
    """Return ``value`` as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(checks.message(name, repr(value), "True or False", "pass one of them"))
    return bool(value)
