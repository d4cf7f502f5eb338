"""Lists of entries that are not zero, and products over them."""

import functools
from typing import Any

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.memory import aligned, fill_zeros, round_up, row_stride
from fastmlp.kernels.compiled.operands import Lists
from fastmlp.kernels.compiled.plan import part_size
from fastmlp.kernels.compiled.products import panel_width
from fastmlp.kernels.compiled.runtime import body

_GROUP = vector.GROUP  # a constant to Numba, which an attribute of a module is not


@body
def forward_lists(
    out, at, ld, length, starts, first, parts, index, code, value, coded, table, weights, at_w, rows, columns
):
    """Add to ``length`` rows of out what the lists from ``first`` on have times the weights, panels of ``rows`` rows.

    A list for each group of rows and each of the ``parts``.
    """
    vector.outline()
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // out.itemsize
    groups = -(-length // group)
    for block in range(0, groups, vector.BLOCK):
        c = 0
        while c < columns:
            width = panel_width(columns, c, lanes)
            at_b = at_w + c * rows
            for r in range(parts):
                for q in range(block, min(block + vector.BLOCK, groups)):
                    o = at + q * group * ld + c
                    start, stop = starts[first + q * parts + r], starts[first + q * parts + r + 1]
                    if coded:
                        vector.coded_tile(width // lanes, out, o, ld, code, start * group, table,
                              index, start, weights, at_b, width, stop - start)  # fmt: skip
                    else:
                        vector.tile(group, width // lanes, out, o, ld, value, start * group, group, 1,
                              index, start, weights, at_b, width, stop - start, 0)  # fmt: skip
            c += width


@body
def backward_lists(grad, d, at_d, ld, starts, stops, first, groups, index, code, value, coded, table, layer):
    """Add to a layer's packed gradient the rows of d times what the lists from ``first`` on have for its inputs."""
    vector.outline()
    group, lanes = vector.GROUP, vector.VECTOR_BYTES // d.itemsize
    columns, rows = layer.columns, layer.rows
    for block in range(0, groups, vector.BLOCK):
        c = 0
        while c < columns:
            width = panel_width(columns, c, lanes)
            for f in range(block, min(block + vector.BLOCK, groups)):
                o = layer.at_w + c * rows + f * group * width
                start, stop = starts[first + f], stops[first + f]
                if coded:
                    vector.coded_tile(width // lanes, grad, o, width, code, start * group, table,
                          index, start, d, at_d + c, ld, stop - start)  # fmt: skip
                else:
                    vector.tile(group, width // lanes, grad, o, width, value, start * group, group, 1,
                          index, start, d, at_d + c, ld, stop - start, 0)  # fmt: skip
            c += width


@body
def list_and_add(out, at, ld, length, a, at_a, a_ld, n, part, weights, at_w, rows, columns, lists, worker, x):
    """Add to ``length`` rows of out those of a (length, n) times the weights, without the zeros of a."""
    vector.outline()
    starts, index, value = lists.forward_start[worker], lists.forward_index[worker], lists.forward_value[worker]
    parts, zero = -(-n // part), np.int64(0)
    step = min((len(index) - 1) // n, (len(starts) - 1) // parts) * vector.GROUP  # what there is room for
    for s in range(length, -(-length // vector.GROUP) * vector.GROUP):
        # The last list must not depend on what lies behind the rows: how a tile groups its sums depends on the list.
        fill_zeros(a, at_a + s * a_ld, n)
    for s in range(0, length, step):
        count = min(step, length - s)
        list_forward(index, value, starts, zero, zero, a, at_a + s * a_ld, a_ld, count, n, part)
        forward_lists(out, at + s * ld, ld, count, starts, zero, parts, index, x.forward_code, value, len(index) < 0,
                       x.table, weights, at_w, rows, columns)  # fmt: skip


# ---- Lists of what is not zero ----
@body
def copy_rows(buffer, ld, rows, order, first, length, base):
    """Copy the rows order[first:] - base into the buffer; zeros fill it up to whole groups of rows and features."""
    vector.outline()
    n, group = rows.shape[1], vector.GROUP
    for s in range(length):
        row, to = rows[order[first + s] - base], buffer[s * ld : (s + 1) * ld]
        for k in range(n):
            to[k] = row[k]
        for k in range(n, -(-n // group) * group):
            to[k] = 0
    for s in range(length, -(-length // group) * group):
        fill_zeros(buffer, s * ld, n)


@body
def list_forward(index, value, starts, at, entry, rows, at_row, ld, length, n, part):
    """List, for each group of rows and each part, the features in which any row is not zero; return the end."""
    vector.outline()
    for s in range(0, length, vector.GROUP):
        for k in range(0, n, part):
            starts[at] = entry
            at += 1
            some = min(part, n - k)
            entry = vector.list_nonzero(_GROUP, index, value, entry, rows, at_row + s * ld + k, 1, ld, k, some)
    starts[at] = entry
    return entry


@body
def list_backward(index, value, stops, rows, at_row, ld, first, length, n):
    """Append, for each group of features, the rows in which any is not zero; they are numbered from ``first`` on."""
    vector.outline()
    for f in range(-(-n // vector.GROUP)):
        at = at_row + f * vector.GROUP
        stops[f] = vector.list_nonzero(_GROUP, index, value, stops[f], rows, at, ld, 1, first, length)


def list_buffers(workers: int, n: int, tile: int, dtype: Any, blocks: int, hidden: tuple[int, ...] = ()) -> Lists:
    """Return room for the backward lists of a tile, and for the forward lists of ``blocks`` blocks of samples.

    And, in the same memory, for forward lists of the hidden layers.
    """
    itemsize = np.dtype(dtype).itemsize
    ld = row_stride(round_up(n, vector.PADDING), itemsize)
    forward = [(blocks * tuning.COPIED_ROWS // vector.GROUP, n)]
    forward += [(max(1, tuning.LISTED_BYTES // (width * (4 + vector.GROUP * itemsize))), width) for width in hidden]
    feature_groups = -(-n // vector.GROUP)
    # One entry more than a list can hold, because list_nonzero writes before it decides.
    entries, back_entries = max(groups * width for groups, width in forward) + 1, feature_groups * (tile + 1)

    def room(count: int, kind: Any) -> Any:
        return aligned(workers * count, kind).reshape(workers, count)

    return Lists(
        room(tuning.COPIED_ROWS * ld, dtype),
        room(max(groups * -(-width // part_size(width)) for groups, width in forward) + 1, np.int64),
        room(entries, np.int32),
        room(entries * vector.GROUP, dtype),
        np.arange(feature_groups) * (tile + 1),
        room(feature_groups, np.int64),
        room(back_entries, np.int32),
        room(back_entries * vector.GROUP, dtype),
    )


@functools.lru_cache(maxsize=64)
def _no_lists(workers: int, dtype: Any) -> Lists:
    """Return what takes the place of lists where none are made."""
    return list_buffers(workers, 1, 1, dtype, 1)


def lists_of(workers: int, sizes: tuple[int, ...], tile: int, dtype: Any, *, plain: bool) -> Lists:
    """Return room for the lists of hidden layers before a wide one, and of a ``plain`` input."""
    listed = len(sizes) > 3 or sizes[-1] > (tuning.WIDE_VECTORS - 1) * vector.VECTOR_BYTES // np.dtype(dtype).itemsize
    hidden = sizes[1:-1] if listed else ()
    if not plain and not hidden:
        return _no_lists(workers, dtype)
    return list_buffers(workers, sizes[0] if plain else 1, tile, dtype, 1, hidden)
