"""Lists of the entries that are not zero, how they are made on the way, and products over them."""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.memory import fill_zeros
from fastmlp.kernels.compiled.operands import Lists
from fastmlp.kernels.compiled.panels import add_tile, panel, panel_count
from fastmlp.kernels.compiled.runtime import body

_GROUP = vector.GROUP  # a constant to Numba, which an attribute of a module is not
_LINE = vector.LINE_BYTES // vector.VECTOR_BYTES  # vectors in a cache line


@body
def forward_lists(out, length, lists, first, parts, weights):
    """Add to ``length`` rows of out the products of the lists from ``first`` on with the panels of weights.

    There is a list for each group of rows and each of the ``parts``.
    """
    vector.noinline()
    group, lanes = vector.GROUP, vector.lanes(out)
    groups = -(-length // group)
    for begin in range(0, groups, vector.BLOCK):
        for number in range(panel_count(weights.columns, lanes)):
            c, width = panel(weights.columns, number, lanes)
            below = vector.matrix(weights.start, c * weights.rows, width)
            for r in range(parts):
                for q in range(begin, min(begin + vector.BLOCK, groups)):
                    add_list(width // lanes, vector.block(out, q * group, c), lists, first + q * parts + r, below)


@body
def backward_lists(gradient, delta, lists, first, groups):
    """Add to the panels of a gradient the products of the lists from ``first`` on with the rows of delta."""
    vector.noinline()
    group, lanes = vector.GROUP, vector.lanes(delta)
    for begin in range(0, groups, vector.BLOCK):
        for number in range(panel_count(gradient.columns, lanes)):
            c, width = panel(gradient.columns, number, lanes)
            for f in range(begin, min(begin + vector.BLOCK, groups)):
                out = vector.matrix(gradient.start, c * gradient.rows + f * group * width, width)
                add_list(width // lanes, out, lists, first + f, vector.block(delta, 0, c))


@body
def add_list(vectors, out, lists, number, m):
    """Add the product of one list with the rows of m that it names to a group of rows."""
    start = lists.start[number]
    rows, count = vector.chosen(lists.index, start, m), lists.stop[number] - start
    if lists.coded > 0:
        codes = vector.codes(lists.code, start * vector.GROUP, lists.table)
        add_tile(vector.GROUP, vectors, out, codes, rows, count)
    else:
        values = vector.factors(lists.value, start * vector.GROUP, vector.GROUP, 1)
        add_tile(vector.GROUP, vectors, out, values, rows, count)


@body
def decode(to, lists, number):
    """Set the factors of the entries of a list, each at its index."""
    vector.noinline()
    group = vector.GROUP
    for entry in range(lists.start[number], lists.stop[number]):
        for g in range(group):
            k = entry * group + g
            value = lists.table[lists.code[k]] if lists.coded > 0 else lists.value[k]
            to[lists.index[entry] * group + g] = value


@body
def copy_rows(buffer, rows, order, shift, length, features):
    """Copy the rows order[0:] + shift into the buffer, and `pad` it.

    ``features`` is the first one to copy, and how many.
    """
    vector.noinline()
    first, n = features
    for s in range(length):
        row, to = vector.row_of(rows, order[s] + shift, first, n), vector.row(buffer, s, n)
        for k in range(n):
            to[k] = row[k]
    pad(buffer, length, n)


@body
def pad(buffer, length, n):
    """Fill rows of a buffer with zeros up to whole groups of rows and features: what is there would be listed."""
    group = vector.GROUP
    for s in range(length):
        fill_zeros(buffer.start, s * buffer.ld + n, -(-n // group) * group - n)
    for s in range(length, -(-length // group) * group):
        fill_zeros(buffer.start, s * buffer.ld, n)


@body
def list_forward(listed, at, entry, m, length, n, part):
    """List, for each group of rows and each block of features, those in which any row is not zero; return the end."""
    vector.noinline()
    for s in range(0, length, vector.GROUP):
        for k in range(0, n, part):
            listed.start[at] = entry
            at += 1
            there = vector.factors(m.start, s * m.ld + k, 1, m.ld)
            entry = vector.list_nonzero(_GROUP, listed, entry, there, k, min(part, n - k))
    listed.start[at] = entry
    return entry


@body
def list_backward(back, m, first, length, n, names):
    """Append, for each group of features, the samples in which any is not zero; they are numbered from ``first`` on.

    m has a row for each feature. ``names`` are the features of the groups; beyond the last feature, those of zeros.
    """
    vector.noinline()
    listed = vector.Entries(back.start, back.index, back.value)
    for f in range(-(-n // vector.GROUP)):
        members = vector.address(names, f * vector.GROUP)
        back.stop[f] = vector.list_nonzero_rows(_GROUP, listed, back.stop[f], m, members, first, length)


@body
def list_neighbours(back, m, first, length, n, room):
    """Do as `list_backward` for groups of neighbours among the columns of m, with room for those of a group.

    Meanwhile it asks for the rows behind these, which are listed next.
    """
    vector.noinline()
    listed, share = vector.Entries(back.start, back.index, back.value), length * vector.GROUP
    for f in range(n // vector.GROUP):
        for k in range(0, share, _LINE * vector.lanes(m)):
            vector.prefetch(m.start, length * m.ld + f * share + k)
        there = vector.factors(m.start, f * vector.GROUP, m.ld, 1)
        back.stop[f] = vector.list_nonzero(_GROUP, listed, back.stop[f], there, first, length)
    _list_rest(back, vector.factors(m.start, 0, m.ld, 1), first, length, n, room)


@body
def list_by_feature(back, m, length, n, room):
    """Do as `list_neighbours` for all samples of a tile at once, which are the columns of m."""
    vector.noinline()
    listed, group, zero = vector.Entries(back.start, back.index, back.value), vector.GROUP, np.int64(0)
    for f in range(n // group):
        for g in range(group):
            ahead = (f * group + tuning.FEATURES_AHEAD + g) * m.ld
            for s in range(0, length, _LINE * vector.lanes(m)):
                vector.prefetch(m.start, ahead + s)
        there = vector.factors(m.start, f * group * m.ld, 1, m.ld)
        back.stop[f] = vector.list_nonzero(_GROUP, listed, back.stop[f], there, zero, length)
    _list_rest(back, vector.factors(m.start, 0, 1, m.ld), zero, length, n, room)


@body
def _list_rest(back, numbers, first, length, n, room):
    """List the last group if there are too few features for a whole one, filled up with zeros."""
    vector.noinline()
    last, rest = n // vector.GROUP, n % vector.GROUP
    if rest > 0:
        fill_zeros(room, 0, length * vector.GROUP)
        for g in range(rest):
            for s in range(length):
                room[g * length + s] = numbers.start[s * numbers.step + (n - rest + g) * numbers.row]
        listed, there = vector.Entries(back.start, back.index, back.value), vector.factors(room, 0, 1, length)
        back.stop[last] = vector.list_nonzero(_GROUP, listed, back.stop[last], there, first, length)


@body
def list_and_add(out, length, a, n, part, weights, work):
    """Add to ``length`` rows of out the product of rows of a with the panels of weights, without the zeros of a."""
    vector.noinline()
    group, zero, listed = vector.GROUP, np.int64(0), work.room.listed
    lists = Lists(listed.start, vector.address(listed.start, 1), listed.index, work.x.forward.code, listed.value, zero,
                  work.x.forward.table)  # fmt: skip
    parts = -(-n // part)
    step = min(work.room.entries // n, work.room.lists // parts) * group  # samples for which there is room
    for s in range(length, -(-length // group) * group):
        # The last list must not depend on what is stored behind the rows: its length decides how sums are grouped.
        fill_zeros(a.start, s * a.ld, n)
    for s in range(0, length, step):
        count = min(step, length - s)
        list_forward(listed, zero, zero, vector.block(a, s, 0), count, n, part)
        forward_lists(vector.block(out, s, 0), count, lists, zero, parts, weights)
