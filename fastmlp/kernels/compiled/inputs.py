"""The forms of the input: tiles (`packing`), which whole passes read, and lists of samples, which batches read."""

from collections.abc import Iterator
from typing import Any

from fastmlp.kernels.compiled import packing, sample_lists, tuning, unpacking
from fastmlp.kernels.compiled.memory import sample_rows
from fastmlp.kernels.compiled.sample_lists import SampleLists


def _form(x: Any) -> Any:
    return sample_lists if isinstance(x, SampleLists) else packing


def operands(x: Any, table: Any) -> Any:
    """Return the operand for the dtype of ``table`` (256,), which decodes uint8."""
    return _form(x).operands(x, table)


def plain_operand(rows: Any) -> Any:
    """Return the operand of samples, float rows (m, n), for `network_logits` alone: unless they are few, no copy."""
    return sample_rows(rows.T) if len(rows) <= tuning.FEW_DENSE_SAMPLES else rows


def other_form(x: Any, density: float) -> Any:
    """Return lists of the samples of tiles, or tiles of listed samples; ``density`` as in `list_samples`."""
    if isinstance(x, SampleLists):
        return packing.pack_samples(x)
    return sample_lists.list_rows(unpacking.unpack(x), *unpacking.stored(x), density)


def unpack(x: Any) -> Iterator[tuple[int, Any]]:
    """Yield the samples as they are stored, a few at a time: the first one, and rows (m, n) or `Columns`."""
    return sample_lists.unpack(x) if isinstance(x, SampleLists) else unpacking.unpack(x)


def packed_facts(x: Any) -> tuple[str, int]:
    """Return the form ("dense", "sparse" or "mixed") and the bytes."""
    facts: tuple[str, int] = _form(x).facts(x)
    return facts
