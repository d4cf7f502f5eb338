"""The forms of the input: tiles (`packing`), which whole passes read, and lists of samples, which batches read."""

from typing import Any

from fastmlp.kernels.compiled import packing, sample_lists
from fastmlp.kernels.compiled.sample_lists import SampleLists


def _form(x: Any) -> Any:
    return sample_lists if isinstance(x, SampleLists) else packing


def operands(x: Any, table: Any) -> Any:
    """Return the operand for the dtype of ``table`` (256,), which decodes uint8."""
    return _form(x).operands(x, table)


def unpack(x: Any, first: int, stop: int) -> Any:
    """Return the features ``first`` to below ``stop`` as they are stored, rows (m, stop - first)."""
    return _form(x).unpack(x, first, stop)


def packed_facts(x: Any) -> tuple[str, int]:
    """Return the form ("dense", "sparse" or "mixed") and the bytes."""
    facts: tuple[str, int] = _form(x).facts(x)
    return facts
