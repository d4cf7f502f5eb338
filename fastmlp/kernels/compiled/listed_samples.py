"""Samples that are listed for batches, as packing reads them: entry by entry, where a matrix would be searched."""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.memory import copy, fill_zeros
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.sample_lists import BITS, entry_code, entry_index, page_of


@body
def copy_listed(buffer, x, order, count, features):
    """Copy listed samples order[0:] into the buffer, as `lists.copy_rows` copies rows: features from the first on."""
    vector.noinline()
    first, n = features
    group = vector.GROUP
    for s in range(-(-count // group) * group):
        fill_zeros(buffer.start, s * buffer.ld, -(-n // group) * group)
    for s in range(count):
        to, at = vector.row(buffer, s, n), order[s] * x.parts
        for p in range(first // x.part, (first + n - 1) // x.part + 1):
            shift = page_of(x, p) - first
            for entry in range(x.start[at + p], x.start[at + p + 1]):
                k = shift + entry_index(x, entry)
                if k >= 0 and k < n:
                    _set_number(to, k, x, entry)


@body
def _set_number(to, k, x, entry):
    """Set an element to the number of an entry, as it is stored."""
    if x.coded > 1:
        to[k] = x.table[entry_code(x, entry)]
    elif x.coded > 0:
        to[k] = entry_code(x, entry)
    else:
        to[k] = x.value[entry]


@body
def group_listed(listed, entry, x, order, members, features, room):
    """Append to the lists of a group of listed samples order[0:], as `lists.list_forward` does; return the end.

    The room is a matrix of zeros and a bit for each feature, which are zero again afterwards, and the features of a
    block. Only entries are read, where a matrix would be searched for them.
    """
    vector.noinline()
    first, n = features
    values, marks, part, at = room
    one, group = np.uint64(1), vector.GROUP
    for g in range(members):
        lists = order[g] * x.parts
        for p in range(first // x.part, (first + n - 1) // x.part + 1):
            shift = page_of(x, p) - first
            for source in range(x.start[lists + p], x.start[lists + p + 1]):
                k = shift + entry_index(x, source)
                if k >= 0 and k < n:
                    marks[k // BITS] |= one << np.uint64(k % BITS)
                    _set_number(values, k * group + g, x, source)
    listed.start[at] = entry
    stop = part
    for word in range(-(-n // BITS)):
        bits = marks[word]
        while bits != 0:
            k = word * BITS + vector.trailing_zeros(bits)
            while k >= stop:
                at += 1
                listed.start[at] = entry
                stop += part
            listed.index[entry] = k
            copy(vector.address(listed.value, entry * group), vector.address(values, k * group), group)
            fill_zeros(values, k * group, group)
            entry += 1
            bits &= bits - one
        marks[word] = np.uint64(0)
    while stop < n + part:
        at += 1
        listed.start[at] = entry
        stop += part
    return entry


@body
def turn_listed(back, x, order, length, features, places):
    """Append listed samples order[0:] to the lists of groups of features, as `lists.list_backward` does.

    ``places`` are those of the features in their groups.
    """
    vector.noinline()
    first, n = features
    group = vector.GROUP
    for s in range(length):
        lists = order[s] * x.parts
        for p in range(first // x.part, (first + n - 1) // x.part + 1):
            shift = page_of(x, p) - first
            for source in range(x.start[lists + p], x.start[lists + p + 1]):
                k = shift + entry_index(x, source)
                if k < 0 or k >= n:
                    continue
                k = np.int64(places[k])
                f, entry = k // group, back.stop[k // group]
                if entry > back.start[f] and back.index[entry - 1] == s:
                    entry -= 1
                else:
                    back.index[entry] = s
                    fill_zeros(back.value, entry * group, group)
                    back.stop[f] = entry + 1
                _set_number(back.value, entry * group + k % group, x, source)


@body
def listed_bits(keys, x, s):
    """Set the two keys of a listed sample: see `packing`."""
    n, at, one = x.features, s * x.parts, np.uint64(1)
    keys[0], keys[1] = np.uint64(0), np.uint64(0)
    for p in range(x.parts):
        page = page_of(x, p)
        for entry in range(x.start[at + p], x.start[at + p + 1]):
            run = (128 * (page + entry_index(x, entry) + 1) - 1) // n  # the one of 128 into which the feature falls
            keys[run // 64] |= one << np.uint64(63 - run % 64)
