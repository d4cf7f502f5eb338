"""Products of dense rows."""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.memory import aligned_room, fill_zeros
from fastmlp.kernels.compiled.runtime import body


@body
def panel_width(columns, first, lanes):
    """Return the width of the panel that begins at column ``first``; the last two share what one would leave short."""
    left, panel = columns - first, vector.PANEL * lanes
    if panel < left < 2 * panel:
        return -(-left // (2 * lanes)) * lanes
    return min(left, panel)


@body
def decode_all(factors, at, code, value, coded, table, index, start, stop, length):
    """Set factors[at:] to the values of all ``length`` entries, zeros included."""
    vector.outline()
    group = vector.GROUP
    fill_zeros(factors, at, length * group)
    for entry in range(start, stop):
        for g in range(group):
            k = entry * group + g
            factors[at + index[entry] * group + g] = table[code[k]] if coded else value[k]


@body
def forward_rows(z, at_z, ld, length, a, at_a, a_ld, packed, layer, identity):
    """Compute z (length, n_out) = a (length, n_in) W^T + bias, rows of ld and a_ld elements."""
    vector.outline()
    group, lanes = vector.DENSE_GROUP, vector.VECTOR_BYTES // z.itemsize
    n_in, columns, rows = layer.n_in, layer.columns, layer.rows
    set_rows(z, at_z, ld, length, packed, layer.at_b, columns)
    if layer.narrow > 0:
        inner_products(z, at_z, ld, a, at_a, a_ld, packed, layer.at_w, n_in, length, layer.n_out, n_in,
                        n_in * z.itemsize)  # fmt: skip
        return
    first = 0
    while first < columns:
        width = panel_width(columns, first, lanes)
        at_w = layer.at_w + first * rows
        for k in range(0, n_in, tuning.DENSE_FEATURE_BLOCK):
            for s in range(0, length, group):
                vector.tile(group, width // lanes, z, at_z + s * ld + first, ld, a, at_a + s * a_ld + k, 1, a_ld,
                      identity, k, packed, at_w, width, min(tuning.DENSE_FEATURE_BLOCK, n_in - k), 0)  # fmt: skip
        first += width


@body
def set_rows(z, at_z, ld, length, source, at, columns):
    """Set each of the rows, up to a multiple of PADDING, to the same ``columns`` elements."""
    vector.outline()
    what = source[at : at + columns]
    for s in range(-(-length // vector.PADDING) * vector.PADDING):
        row = z[at_z + s * ld : at_z + s * ld + columns]
        for c in range(columns):
            row[c] = what[c]


@body
def copy_panel(panel, b, p, b_row, count, width):
    """Copy ``count`` rows of ``width`` elements; return whether all are finite."""
    # Rows that are a power of two apart would take each other's place in the first-level cache.
    vector.outline()
    finite = True
    for k in range(count):
        to, what = panel[k * width : (k + 1) * width], b[p + k * b_row : p + k * b_row + width]
        for c in range(width):
            to[c] = what[c]
            finite &= what[c] - what[c] == 0
    return finite


@body
def add_by_unit(grad, o, o_row, d, at_d, ld, units, a, at_a, a_ld, length, begin, stop, fresh):
    """grad[o + u o_row + c] += sum_s d[at_d + s ld + u] a[at_a + s a_ld + c], s < length, begin <= c < stop.

    Without the samples in which d is zero: behind a ReLU about half of them. c takes whole vectors; set, if ``fresh``.
    """
    vector.outline()
    lanes = vector.VECTOR_BYTES // d.itemsize
    strip = vector.STRIPS[0] * lanes
    # Samples whose part of a lies in the first-level cache.
    block = -(-length // -(-length * strip * d.itemsize // vector.SPARSE_BYTES))
    some = min(units, tuning.LISTED_OUTPUTS)
    blocks = -(-min(length, tuning.SAMPLE_TILE) // block)
    rows, starts = aligned_room(block * strip, d), np.empty(blocks * some + 1, np.int64)
    index, value = np.empty(blocks * block * some + 1, np.int32), np.empty(blocks * block * some + 1, d.dtype)
    for s in range(0, length, blocks * block):
        here = min(blocks * block, length - s)
        for u in range(0, units, some):
            count = min(some, units - u)
            entry = at = np.int64(0)
            for t in range(0, here, block):
                for one in range(count):
                    starts[at] = entry
                    at += 1
                    entry = vector.list_nonzero(1, index, value, entry, d, at_d + (s + t) * ld + u + one, ld, ld, 0,
                                                min(block, here - t))  # fmt: skip
            starts[at] = entry
            c = begin
            while c < stop:
                vectors = _strip((stop - c) // lanes)
                width = vectors * lanes
                for t in range(0, here, block):
                    at_c, samples = at_a + (s + t) * a_ld + c, min(block, here - t)
                    to, first = o + u * o_row + c, np.int64(fresh and s + t == 0)
                    if copy_panel(rows, a, at_c, a_ld, samples, width):
                        vector.sparse_rows(vectors, first, count, grad, to, o_row, value, index, starts,
                              t // block * count, rows, 0, width)  # fmt: skip
                    else:
                        # No zero may be skipped: it could meet infinity.
                        add_products(grad, to, o_row, d, at_d + (s + t) * ld + u, np.int64(1), ld, rows, np.int64(0),
                                      np.int64(1), width, count, width, samples, first != 0)  # fmt: skip
                c += width


@body
def _strip(vectors):
    """Return how many of the vectors that are left `sparse_rows` takes next."""
    for one in vector.STRIPS:
        if one <= vectors:
            return one
    return 1


@body
def backward_rows(grad, d, at_d, ld, length, a, at_a, a_ld, layer, identity):
    """Add a^T d to the packed gradient of a layer; rows of a_ld and ld elements."""
    vector.outline()
    group, lanes = vector.DENSE_GROUP, vector.VECTOR_BYTES // d.itemsize
    columns, rows = layer.columns, layer.rows
    # Wide rows use a factor so often that it repays fetching it from afar on its own: 39.5 GFLOP/s become 42.
    copied = columns >= tuning.WIDE_VECTORS * lanes
    factors = np.empty(vector.DENSE_SAMPLES * tuning.DENSE_FEATURES if copied else 0, d.dtype)
    for s in range(0, length, vector.DENSE_SAMPLES):
        count = min(vector.DENSE_SAMPLES, length - s)
        for block in range(0, layer.n_in, tuning.DENSE_FEATURES):
            some = -(-min(tuning.DENSE_FEATURES, layer.n_in - block) // group) * group
            source, at, source_ld = a, at_a + s * a_ld + block, a_ld
            if copied:
                copy_panel(factors, a, at, a_ld, count, some)
                source, at, source_ld = factors, np.int64(0), some
            c = 0
            while c < columns:
                width = panel_width(columns, c, lanes)
                for f in range(0, some, group):
                    o = layer.at_w + c * rows + (block + f) * width
                    vector.tile(group, width // lanes, grad, o, width, source, at + f, source_ld, 1,
                          identity, 0, d, at_d + s * ld + c, ld, count, 0)  # fmt: skip
                c += width


@body
def backward_narrow(grad, d, at_d, ld, length, a, at_a, a_ld, layer, identity):
    """Add d^T a to the gradient of a layer of few units: once through a for a few of them."""
    vector.outline()
    lanes = vector.VECTOR_BYTES // d.itemsize
    columns = -(-layer.n_in // lanes) * lanes
    c = 0
    while c < columns:
        width = panel_width(columns, c, lanes)
        u = 0
        while u < layer.n_out:
            group = _height(layer.n_out - u)
            o = layer.at_w + u * layer.by_unit + c
            vector.tile(group, width // lanes, grad, o, layer.by_unit, d, at_d + u, ld, 1,
                  identity, 0, a, at_a + c, a_ld, length, 0)  # fmt: skip
            u += group
        c += width


@body
def add_products(out, o, o_row, a, at, a_row, a_k, b, p, b_c, b_k, rows, columns, count, fresh):
    """out[o + r o_row + c] += sum_k a[at + r a_row + k a_k] b[p + c b_c + k b_k], r < rows, c < columns, k < count.

    Set, where it is ``fresh``. No vectors: for what is shorter than one.
    """
    vector.outline()
    # Unsigned, because numbers that may be negative are tested for it, which takes as long as the products.
    next_a, next_b, zero = np.uint64(a_k), np.uint64(b_k), out.dtype.type(0)
    for r in range(rows):
        for c in range(columns):
            i, j = np.uint64(at + r * a_row), np.uint64(p + c * b_c)
            # Two sums, because one would wait for each addition before the next.
            even = odd = zero
            for _ in range(count // 2):
                even += a[i] * b[j]
                odd += a[i + next_a] * b[j + next_b]
                i += next_a + next_a
                j += next_b + next_b
            if count % 2 > 0:
                even += a[i] * b[j]
            to = np.uint64(o + r * o_row + c)
            out[to] = even + odd if fresh else out[to] + (even + odd)


@body
def inner_products(out, o, o_row, a, at, a_row, b, p, b_row, rows, columns, count, part):
    """out[o + r o_row + c] += sum_k a[at + r a_row + k] b[p + c b_row + k], r < rows, c < columns, k < count.

    ``part`` bytes of each row at a time.
    """
    vector.outline()
    # A part of each row at a time, so that those of a tile stay in the first-level cache beside the next ones of b; and
    # as many rows of b as a larger cache holds for all rows of a.
    lanes = vector.VECTOR_BYTES // out.itemsize
    if count < lanes:
        add_products(out, o, o_row, a, at, a_row, np.int64(1), b, p, b_row, np.int64(1), rows, columns, count, False)
        return
    parts = -(-count * out.itemsize // part)
    length = -(-count // (parts * lanes)) * lanes
    block = vector.DOT_COLUMNS * max(1, vector.FACTOR_BYTES // (vector.DOT_COLUMNS * length * out.itemsize))
    copied = rows >= tuning.COPIED_FACTOR_ROWS
    panel = aligned_room(min(block, columns) * length if copied else 0, out)
    for k in range(0, count, length):
        for first in range(0, columns, block):
            some, source, at_b, row = min(block, columns - first), b, p + first * b_row + k, b_row
            if copied:
                copy_panel(panel, b, at_b, b_row, some, min(length, count - k))
                source, at_b, row = panel, np.int64(0), min(length, count - k)
            r = np.int64(0)
            while r < rows:
                height = vector.DOT_ROWS if rows - r >= vector.DOT_ROWS else 1
                c = np.int64(0)
                while c < some:
                    width = vector.DOT_COLUMNS if some - c >= vector.DOT_COLUMNS else min(some - c, 2)
                    vector.dot_tile(height, width, out, o + r * o_row + first + c, o_row, a, at + r * a_row + k, a_row,
                                    source, at_b + c * row, row, min(length, count - k))  # fmt: skip
                    c += width
                r += height


@body
def multiply(out, o, o_row, a, at, a_row, a_k, b, p, b_row, rows, columns, count, identity, worker, workers):
    """out[o + r o_row + c] = sum_k a[at + r a_row + k a_k] b[p + k b_row + c], r < rows, c < columns, k < count.

    Workers share the columns, in whole panels: every sum is made in the same way for any number of them.
    """
    vector.outline()
    # A block of a at a time, which stays in the second-level cache from one panel of b to the next, and of a panel as
    # many rows as the first level holds.
    lanes = vector.VECTOR_BYTES // out.itemsize
    step = min(tuning.TILE_FACTORS, count)
    height = vector.PADDING * max(1, vector.FACTOR_BYTES // (vector.PADDING * step * out.itemsize))
    copied = rows >= tuning.COPIED_FACTOR_ROWS
    panel = aligned_room(step * vector.PANEL * lanes if copied else 0, out)
    factors = np.empty(step * min(height, rows) if copied else 0, out.dtype)
    for k in range(0, count, step):
        for r in range(0, rows, height):
            _multiply_some(out, o + r * o_row, o_row, a, at + r * a_row + k * a_k, a_row, a_k, b, p + k * b_row, b_row,
                           min(height, rows - r), columns, min(step, count - k), identity, factors, panel, k == 0,
                           worker, workers)  # fmt: skip


@body
def _multiply_some(out, o, o_row, a, at, a_row, a_k, b, p, b_row, rows, columns, count, identity, factors, panel,
                   fresh, worker, workers):  # fmt: skip
    """Do as `multiply`, panel by panel of b; add unless ``fresh``.

    ``factors`` and ``panel`` have room for copies of a and of a panel, or none.
    """
    vector.outline()
    lanes = vector.VECTOR_BYTES // out.itemsize
    tiled_columns = columns // lanes * lanes
    panels = max(1, -(-tiled_columns // (vector.PANEL * lanes)))
    copied = len(panel) > 0
    if copied:
        _copy_factors(factors, a, at, a_row, a_k, rows, count)
    first = number = np.int64(0)
    while first < tiled_columns:
        width = panel_width(tiled_columns, first, lanes)
        if number * workers // panels == worker:
            source, at_b, row = b, p + first, b_row
            if copied:
                copy_panel(panel, b, p + first, b_row, count, width)
                source, at_b, row = panel, np.int64(0), width
            r = np.int64(0)
            while r < rows:
                group = _height(rows - r)
                left, at_left, left_k, left_row = a, at + r * a_row, a_k, a_row
                if copied:
                    left, at_left, left_k, left_row = factors, r * count, group, 1
                vector.tile(group, width // lanes, out, o + r * o_row + first, o_row, left, at_left, left_k, left_row,
                      identity, 0, source, at_b, row, count, fresh)  # fmt: skip
                r += group
        first += width
        number += 1
    if worker == workers - 1 and tiled_columns < columns:
        add_products(out, o + first, o_row, a, at, a_row, a_k, b, p + first, np.int64(1), b_row, rows,
                      columns - first, count, fresh)  # fmt: skip


@body
def _height(rows):
    """Return how many of the rows that are left are the next tile's: all of an even number go into large ones."""
    if rows < vector.GROUP:
        return min(rows, 2)
    return vector.GROUP if rows % vector.DENSE_GROUP >= 2 else vector.DENSE_GROUP


@body
def _copy_factors(factors, a, at, a_row, a_k, rows, count):
    """Copy the factors a[at + r a_row + k a_k] of register tiles, so that each tile reads one piece of memory."""
    vector.outline()
    r = 0
    while r < rows:
        group = _height(rows - r)
        for k in range(count):
            for g in range(group):
                factors[r * count + k * group + g] = a[at + (r + g) * a_row + k * a_k]
        r += group
