"""Products with the samples of a batch, over lists of their non-zero features: see `sample_lists`."""

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.sample_lists import CODED_BITS, entry_code, entry_index, page_of


@body
def prefetch_lists(x, order, count, blocks):
    """Ask for the lists of samples order[0:], which are far apart in memory: those of some blocks of features."""
    # Where the lists begin must be known first. Without this loop, each sample would wait for the memory by itself.
    for s in range(count):
        vector.prefetch(x.start, order[s] * x.parts + blocks[0])
    for s in range(count):
        number = order[s] * x.parts
        first, stop = x.start[number + blocks[0]], x.start[number + blocks[1]]
        for entry in range(first, stop, vector.line_of(x.index)):
            vector.prefetch(x.index, entry)
        if x.coded == 0:
            for entry in range(first, stop, vector.line_of(x.value)):
                vector.prefetch(x.value, entry)


@body
def _set_lists(x, order, count, blocks, room):
    """Set where the lists of samples order[0:] begin and end: those of some blocks of features."""
    first, stop = blocks
    for s in range(count):
        number = order[s] * x.parts
        room.start[s], room.stop[s] = x.start[number + first], x.start[number + stop]


@body
def _values(entries, start, stop):
    """Return lists of the entries of `SampleLists` or of `FeatureLists`."""
    return vector.RowLists(start, stop, vector.address(entries.index, 0), vector.address(entries.value, 0))


@body
def _codes(entries, table, start, stop):
    """Do as `_values` for coded entries."""
    return vector.CodedLists(start, stop, vector.address(entries.index, 0), vector.address(table, 0))


@body
def _strip_vectors(vectors):
    """Return how many of the remaining vectors come next: strips are as wide as they may be, and much alike."""
    return -(-vectors // -(-vectors // vector.WIDEST_STRIP))


@body
def _add_strips(lists, out, m, columns, count):
    c, lanes = 0, vector.lanes(out)
    while c < columns:
        vectors = _strip_vectors((columns - c) // lanes)
        vector.listed_rows(vectors, 0, count, vector.block(out, 0, c), lists, vector.block(m, 0, c))
        c += vectors * lanes


@body
def add_listed(x, order, count, blocks, room, out, weights, columns):
    """Add to rows of out the products of samples order[0:] with the weights of some blocks of features, on one page.

    ``blocks`` is the first one and the end; columns are whole vectors.
    """
    vector.noinline()
    _set_lists(x, order, count, blocks, room)
    there = vector.block(weights, page_of(x, blocks[0]), 0)
    if x.coded > 0:
        _add_strips(_codes(x, x.table, room.start, room.stop), out, there, columns, count)
    else:
        _add_strips(_values(x, room.start, room.stop), out, there, columns, count)


@body
def turn_entry(lists, there, x, entry, s):
    """Set an entry of the list of a feature to an entry of sample s, counted from the first one of the list."""
    if x.coded > 0:
        lists.index[there] = s + (entry_code(x, entry) << CODED_BITS)
    else:
        lists.index[there] = s
        lists.value[there] = x.value[entry]


@body
def turn_lists(x, order, count, block, room):
    """Return `FeatureLists` of a block for samples order[0:], in the memory of a thread."""
    vector.noinline()
    turned, shift = room.turned, block % x.paged * x.part
    vector.copy_elements(turned.stop, turned.start, min(x.part, x.features - block * x.part))
    _set_lists(x, order, count, (block, block + 1), room)
    for s in range(count):
        for entry in range(room.start[s], room.stop[s]):
            k = entry_index(x, entry) - shift
            there = turned.stop[k]
            turned.stop[k] = there + 1
            turn_entry(turned, there, x, entry, s)
    return turned


@body
def gather_lists(x, lists, rows, fresh, gradient, deltas, columns):
    """Do as `scatter_listed` for ``rows`` of the gradient, from `FeatureLists`; set them if ``fresh``."""
    vector.noinline()
    if x.coded > 0:
        _order_strips(_codes(lists, x.table, lists.start, lists.stop), gradient, deltas, columns, rows, fresh)
    else:
        _order_strips(_values(lists, lists.start, lists.stop), gradient, deltas, columns, rows, fresh)


@body
def update_lists(x, lists, rows, fresh, gradient, deltas, columns, update):
    """Make a `vector.RowUpdate` of the rows whose gradient `gather_lists` would set.

    The gradient is only what sums begin with, if they are not ``fresh``.
    """
    vector.noinline()
    if x.coded > 0:
        _update_strips(_codes(lists, x.table, lists.start, lists.stop), gradient, deltas, columns, rows, fresh, update)
    else:
        _update_strips(_values(lists, lists.start, lists.stop), gradient, deltas, columns, rows, fresh, update)


@body
def _update_strips(lists, out, m, columns, count, fresh, update):
    c, lanes = 0, vector.lanes(out)
    while c < columns:
        vectors = _strip_vectors((columns - c) // lanes)
        p, first, second = vector.address(update.p, c), vector.address(update.m, c), vector.address(update.v, c)
        of_strip = vector.RowUpdate(p, first, second, update.numbers, update.constants, update.fault)
        vector.adam_rows(vectors, fresh, count, vector.block(out, 0, c), lists, vector.block(m, 0, c), of_strip)
        c += vectors * lanes


@body
def _order_strips(lists, out, m, columns, count, fresh):
    c, lanes = 0, vector.lanes(out)
    while c < columns:
        vectors = _strip_vectors((columns - c) // lanes)
        vector.ordered_rows(vectors, fresh, count, vector.block(out, 0, c), lists, vector.block(m, 0, c))
        c += vectors * lanes


@body
def _scatter_strips(lists, out, m, columns, count):
    c, lanes = 0, vector.lanes(out)
    while c < columns:
        vectors = _strip_vectors((columns - c) // lanes)
        vector.scatter_rows(vectors, count, vector.block(out, 0, c), lists, vector.block(m, 0, c))
        c += vectors * lanes


@body
def scatter_listed(x, order, count, block, room, gradient, deltas, columns):
    """Add to the gradient of a block of features the products of samples order[0:] with their deltas."""
    vector.noinline()
    blocks = block, block + 1
    _set_lists(x, order, count, blocks, room)
    # As if the rows began with those of the first feature of the page.
    to = vector.block(gradient, page_of(x, block) - block * x.part, 0)
    if x.coded > 0:
        _scatter_strips(_codes(x, x.table, room.start, room.stop), to, deltas, columns, count)
    else:
        _scatter_strips(_values(x, room.start, room.stop), to, deltas, columns, count)
