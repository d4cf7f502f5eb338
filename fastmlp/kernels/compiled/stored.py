"""A packed matrix as named arrays, which a file can hold, and the constants that their layout depends on."""

from typing import Any

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.memory import row_stride, sample_rows
from fastmlp.kernels.compiled.operands import Lists
from fastmlp.kernels.compiled.plan import no_input, part_size
from fastmlp.kernels.compiled.tree import leaf_size, tiling


def layout(m: int, n: int, itemsize: int) -> dict[str, int]:
    """Return the constants on which the layout of m samples of n features depends: they differ between processors."""
    tiles = tiling(m, m)
    return {
        "vector": vector.VECTOR_BYTES, "group": vector.GROUP, "padding": vector.PADDING, "part": part_size(n),
        "stride": row_stride(n, itemsize), "leaf": leaf_size(m, n), "tile": tiles.most, "few": tuning.FEW_DENSE_SAMPLES,
    }  # fmt: skip


def to_arrays(x: Any) -> dict[str, Any]:
    """Return the arrays of a packed matrix, as `packing.pack` returns it, by name."""
    if isinstance(x, np.ndarray):
        return {"rows": x}
    found = {"order": x.order, "dense": x.dense, "dense_start": x.dense_start}
    for name, lists in (("forward", x.forward), ("backward", x.backward)):
        # The stops are the starts of the lists behind.
        found[f"{name}_ends"] = np.append(0, lists.stop)
        found[f"{name}_index"] = lists.index
        found[f"{name}_number"] = lists.code if lists.coded else lists.value
    if (np.diff(x.places) != 1).any():  # else features are in their own order
        found["places"] = x.places
    return found


def from_arrays(arrays: dict[str, Any], n: int, whole: int) -> Any:
    """Return the packed matrix of these arrays, which are not copied, unless they are rows; ``whole`` as in `pack`."""
    if "rows" in arrays:
        return sample_rows(arrays["rows"].T)
    dtype = arrays["dense"].dtype
    empty = no_input(dtype, n, whole)
    return empty._replace(
        order=arrays["order"],
        dense=arrays["dense"],
        dense_start=arrays["dense_start"],
        forward=_lists(empty.forward, arrays, "forward"),
        backward=_lists(empty.backward, arrays, "backward"),
        places=arrays.get("places", empty.places),
    )


def _lists(empty: Lists, arrays: dict[str, Any], name: str) -> Lists:
    ends, number = arrays[f"{name}_ends"], arrays[f"{name}_number"]
    coded = number.dtype == np.uint8
    return empty._replace(
        start=ends[:-1],
        stop=ends[1:],
        index=arrays[f"{name}_index"],
        coded=int(coded),
        **{"code" if coded else "value": number},
    )
