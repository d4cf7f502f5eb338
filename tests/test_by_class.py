"""The counts that ``fastmlp evaluate`` prints for each class."""

import tracemalloc

import numpy as np

from fastmlp import commands


def test_classes_are_counted_by_their_labels():
    y, predictions = np.array([2, 0, 2, 2, 0, 2, 2]), np.array([2, 0, 1, 1, 2, 0, 2])
    assert commands._by_class(y, predictions, ("a", "b", "c")) == [
        {"name": "a", "samples": 2, "right": 1, "taken_for": {"c": 1}},
        {"name": "c", "samples": 5, "right": 2, "taken_for": {"b": 2, "a": 1}},
    ]


def test_of_many_classes_only_those_that_occur_take_memory():
    """A table of all pairs of 65536 classes would need 32 GiB."""
    names = tuple(map(str, range(65_536)))
    tracemalloc.start()
    try:
        found = commands._by_class(np.array([65_535, 3, 3]), np.array([65_535, 65_535, 3]), names)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert [(one["name"], one["right"], one["taken_for"]) for one in found] == [
        ("3", 1, {"65535": 1}),
        ("65535", 1, {}),
    ]
