"""Products of dense rows: register tiles over panels, inner products, and sums of rows for each output."""

from itertools import pairwise

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.runtime import body

# ---- Panels ----


@body
def panel_count(columns, lanes):
    """Return how many panels hold so many columns."""
    return -(-columns // (vector.PANEL * lanes))


@body
def panel_start(columns, number, lanes):
    """Return the first column of a panel; the last two share what the very last would be short of."""
    full, count = vector.PANEL * lanes, panel_count(columns, lanes)
    if number >= count:
        return columns
    before = number * full
    if number == count - 1 and count > 1:
        before -= full
        before += -(-(columns - before) // (2 * lanes)) * lanes
    return before


@body
def panel(columns, number, lanes):
    """Return the first column and the width of a panel."""
    first = panel_start(columns, number, lanes)
    return first, panel_start(columns, number + 1, lanes) - first


@body
def add_tile(group, vectors, out, factors, rows, count):
    """Add a product to ``group`` rows of ``vectors`` vectors: see `vector.tile`, whose code is here for all callers."""
    vector.tile(group, vectors, out, factors, rows, count, 0)


@body
def set_tile(group, vectors, out, factors, rows, count):
    """Do as `add_tile`, whatever the rows hold."""
    vector.tile(group, vectors, out, factors, rows, count, 1)


@body
def set_rows(m, length, source, columns):
    """Set each of the rows, up to a multiple of PADDING, to the same ``columns`` elements."""
    vector.noinline()
    given = vector.part(source, 0, columns)
    for s in range(-(-length // vector.PADDING) * vector.PADDING):
        row = vector.row(m, s, columns)
        for c in range(columns):
            row[c] = given[c]


@body
def forward_rows(z, length, a, weights, n_in, identity):
    """Add the product of ``length`` rows of a with the panels of weights to the rows of z."""
    vector.noinline()
    group, lanes = vector.DENSE_GROUP, vector.lanes(z)
    for number in range(panel_count(weights.columns, lanes)):
        first, width = panel(weights.columns, number, lanes)
        below = vector.matrix(weights.start, first * weights.rows, width)
        for k in range(0, n_in, tuning.DENSE_FEATURE_BLOCK):
            rows, count = vector.chosen(identity, k, below), min(tuning.DENSE_FEATURE_BLOCK, n_in - k)
            for s in range(0, length, group):
                factors = vector.factors(a.start, s * a.ld + k, 1, a.ld)
                add_tile(group, width // lanes, vector.block(z, s, first), factors, rows, count)


@body
def product_rows(out, length, a, weights, n_in, identity):
    """Set rows of out to the product of rows of a with the panels of weights."""
    group, lanes = vector.DENSE_GROUP, vector.lanes(out)
    for number in range(panel_count(weights.columns, lanes)):
        first, width = panel(weights.columns, number, lanes)
        rows = vector.chosen(identity, 0, vector.matrix(weights.start, first * weights.rows, width))
        for s in range(0, length, group):
            factors = vector.factors(a.start, s * a.ld, 1, a.ld)
            set_tile(group, width // lanes, vector.block(out, s, first), factors, rows, n_in)


@body
def copy_rows_finite(panel, m, count, width):
    """Copy ``count`` rows of ``width`` elements, without gaps; return whether all are finite."""
    # Rows that are a power of two apart would take each other's place in the L1 cache.
    vector.noinline()
    finite = True
    for k in range(count):
        to, source = vector.part(panel, k * width, width), vector.row(m, k, width)
        for c in range(width):
            to[c] = source[c]
            finite &= source[c] - source[c] == 0
    return finite


# ---- Gradients ----


@body
def backward_rows(gradient, delta, a, shape, identity, copies):
    """Add the transposed product of ``count`` rows of a and of delta to the panels of a gradient."""
    vector.noinline()
    group, lanes, columns = vector.DENSE_GROUP, vector.lanes(delta), gradient.columns
    # Wide rows use each factor so often that copying it from far away first is worth it.
    copied = columns >= tuning.WIDE_VECTORS * lanes
    for s in range(0, shape.count, vector.DENSE_SAMPLES):
        count = min(vector.DENSE_SAMPLES, shape.count - s)
        for feature in range(0, shape.rows, tuning.DENSE_FEATURES):
            height = -(-min(tuning.DENSE_FEATURES, shape.rows - feature) // group) * group
            source = vector.block(a, s, feature)
            if copied:
                copy_rows_finite(copies, source, count, height)
                source = vector.matrix(copies, 0, height)
            for number in range(panel_count(columns, lanes)):
                first, width = panel(columns, number, lanes)
                rows = vector.chosen(identity, 0, vector.block(delta, s, first))
                for f in range(0, height, group):
                    out = vector.matrix(gradient.start, first * gradient.rows + (feature + f) * width, width)
                    add_tile(group, width // lanes, out, vector.factors(source.start, f, source.ld, 1), rows, count)


@body
def backward_few(gradient, delta, a, shape, identity):
    """Add the product of delta, transposed, and a to rows of a gradient: once through a for a few outputs."""
    vector.noinline()
    lanes = vector.lanes(delta)
    columns = -(-shape.columns // lanes) * lanes
    for number in range(panel_count(columns, lanes)):
        first, width = panel(columns, number, lanes)
        rows = vector.chosen(identity, 0, vector.block(a, 0, first))
        output = np.int64(0)
        while output < shape.rows:
            group = tile_height(shape.rows - output)
            factors = vector.factors(delta.start, output, delta.ld, 1)
            add_tile(group, width // lanes, vector.block(gradient, output, first), factors, rows, shape.count)
            output += group


@body
def _list_outputs(listed, delta, outputs, samples, block):
    """List, block by block of samples and output by output, the samples where delta is not zero."""
    vector.noinline()
    entry = at = np.int64(0)
    for t in range(0, samples, block):
        for output in range(outputs):
            listed.start[at] = entry
            at += 1
            there = vector.factors(delta.start, t * delta.ld + output, delta.ld, 0)
            entry = vector.list_nonzero(1, listed, entry, there, 0, min(block, samples - t))
    listed.start[at] = entry


@body
def add_by_output(gradient, delta, a, shape, fresh, copies, listed):
    """Add delta, transposed, times a to rows of a gradient, output by output over the samples of non-zero delta.

    There are ``rows`` outputs, ``columns``, whole vectors, of a, and ``count`` samples. Overwrites if ``fresh``.
    """
    vector.noinline()
    lanes = vector.lanes(delta)
    strip, item = vector.STRIPS[0] * lanes, vector.VECTOR_BYTES // lanes
    # The part of a that a block of samples meets stays in the L1 cache.
    block = -(-shape.count // -(-shape.count * strip * item // vector.SPARSE_BYTES))
    most, step = min(shape.rows, tuning.LISTED_OUTPUTS), -(-min(shape.count, tuning.SAMPLE_TILE) // block) * block
    for s in range(0, shape.count, step):
        samples = min(step, shape.count - s)
        for output in range(0, shape.rows, most):
            outputs = min(most, shape.rows - output)
            there = vector.block(delta, s, output)
            _list_outputs(listed, there, outputs, samples, block)
            c = np.int64(0)
            while c < shape.columns:
                vectors = _strip((shape.columns - c) // lanes)
                for t in range(0, samples, block):
                    _add_strip(
                        vectors, vector.block(gradient, output, c), vector.block(there, t, 0),
                        vector.block(a, s + t, c), Shape(outputs, vectors * lanes, min(block, samples - t)),
                        np.int64(fresh > 0 and s + t == 0), copies,
                        vector.Entries(vector.address(listed.start, t // block * outputs), listed.index, listed.value),
                    )  # fmt: skip
                c += vectors * lanes


@body
def _add_strip(vectors, out, delta, a, shape, fresh, copies, listed):
    """Add the product of a block of samples to a strip of columns."""
    width = shape.columns
    if copy_rows_finite(copies, a, shape.count, width):
        vector.sparse_rows(vectors, fresh, shape.rows, out, listed, vector.matrix(copies, 0, width))
    else:
        # No zero may be skipped: it could meet infinity.
        left, right = vector.factors(delta.start, 0, delta.ld, 1), vector.factors(copies, 0, width, 1)
        add_products(out, left, right, shape, fresh)


@body
def _strip(vectors):
    """Return how many of the remaining vectors `sparse_rows` takes next."""
    for count in vector.STRIPS:
        if count <= vectors:
            return count
    return 1


# ---- Products of plain matrices ----


@body
def add_products(out, a, b, shape, fresh):
    """out[r, c] += sum_k a(k, r) b(k, c), `Factors` both; overwrites if ``fresh``. No vectors: for shorter sums."""
    vector.noinline()
    # Unsigned, because numbers that may be negative are tested for it, which takes as long as the products.
    next_a, next_b, zero = np.uint64(a.step), np.uint64(b.step), vector.number(out, 0)
    for r in range(shape.rows):
        for c in range(shape.columns):
            i, j = np.uint64(r * a.row), np.uint64(c * b.row)
            # Two sums, because one would wait for each addition before the next.
            even = odd = zero
            for _ in range(shape.count // 2):
                even += a.start[i] * b.start[j]
                odd += a.start[i + next_a] * b.start[j + next_b]
                i += next_a + next_a
                j += next_b + next_b
            if shape.count % 2 > 0:
                even += a.start[i] * b.start[j]
            to = np.uint64(r * out.ld + c)
            out.start[to] = even + odd if fresh > 0 else out.start[to] + (even + odd)


@body
def inner_products(out, a, b, shape, part, copies):
    """out[r, c] += sum_k a[r, k] b[c, k], ``part`` bytes of each row at a time."""
    vector.noinline()
    # A part of each row at a time, so that the parts of a tile stay in the L1 cache beside the next ones of b; and as
    # many rows of b as a larger cache holds for all rows of a.
    lanes = vector.lanes(out)
    item = vector.VECTOR_BYTES // lanes
    if shape.count < lanes:
        left, right = vector.factors(a.start, 0, 1, a.ld), vector.factors(b.start, 0, 1, b.ld)
        add_products(out, left, right, shape, np.int64(0))
        return
    parts = -(-shape.count * item // part)
    length = -(-shape.count // (parts * lanes)) * lanes
    block = vector.DOT_COLUMNS * max(1, vector.FACTOR_BYTES // (vector.DOT_COLUMNS * length * item))
    for k in range(0, shape.count, length):
        for first in range(0, shape.columns, block):
            columns, count = min(block, shape.columns - first), min(length, shape.count - k)
            source = vector.block(b, first, k)
            if shape.rows >= tuning.COPIED_FACTOR_ROWS:
                copy_rows_finite(copies, source, columns, count)
                source = vector.matrix(copies, 0, count)
            there, to = vector.block(a, 0, k), vector.block(out, 0, first)
            _inner_block(to, there, source, Shape(shape.rows, columns, count))


@body
def _inner_block(out, a, b, shape):
    r = np.int64(0)
    while r < shape.rows:
        height = vector.DOT_ROWS if shape.rows - r >= vector.DOT_ROWS else 1
        c = np.int64(0)
        while c < shape.columns:
            width = vector.DOT_COLUMNS if shape.columns - c >= vector.DOT_COLUMNS else min(shape.columns - c, 2)
            to, left, right = vector.block(out, r, c), vector.block(a, r, 0), vector.block(b, c, 0)
            vector.dot_tile(height, width, to, left, right, shape.count)
            c += width
        r += height


@body
def multiply(out, a, b, shape, identity, copies, share):
    """out[r, c] = sum_k a(k, r) b[k, c]: `Factors` and a `Matrix`.

    Workers share the columns, in whole panels: every sum is made in the same way for any number of them.
    """
    vector.noinline()
    # A block of a at a time, which stays in the L2 cache from one panel of b to the next, and as many rows of a panel
    # as the L1 cache holds.
    item = vector.VECTOR_BYTES // vector.lanes(out)
    step = min(tuning.TILE_FACTORS, shape.count)
    height = vector.PADDING * max(1, vector.FACTOR_BYTES // (vector.PADDING * step * item))
    for k in range(0, shape.count, step):
        for r in range(0, shape.rows, height):
            part = Shape(min(height, shape.rows - r), shape.columns, min(step, shape.count - k))
            left = vector.factors(a.start, r * a.row + k * a.step, a.step, a.row)
            copied = shape.rows >= tuning.COPIED_FACTOR_ROWS
            if copied:
                # Each tile then reads one piece of memory.
                _copy_factors(vector.address(copies, step * vector.PANEL * vector.lanes(out)), left, part)
            to, below = vector.block(out, r, 0), vector.block(b, k, 0)
            fresh = np.int64(k == 0)
            _multiply_panels(to, left, below, part, identity, (copies, step, np.int64(copied)), share, fresh)
            _multiply_rest(to, left, below, part, share, fresh)


@body
def _multiply_rest(out, a, b, shape, share, fresh):
    """Do as `multiply` for the columns beyond whole vectors: the last worker does."""
    tiled = shape.columns // vector.lanes(out) * vector.lanes(out)
    if share.worker == share.workers - 1 and tiled < shape.columns:
        rest = Shape(shape.rows, shape.columns - tiled, shape.count)
        add_products(vector.block(out, 0, tiled), a, vector.factors(b.start, tiled, b.ld, 1), rest, fresh)


@body
def _multiply_panels(out, a, b, shape, identity, copies, share, fresh):
    """Do as `multiply`, panel by panel of b; add unless ``fresh``.

    ``copies`` are a room for a panel, with the copied factors behind ``step`` rows of it, and whether there are any.
    """
    vector.noinline()
    lanes, (room, step, copied) = vector.lanes(out), copies
    tiled = shape.columns // lanes * lanes
    panels = panel_count(tiled, lanes)
    for number in range(panels):
        first, width = panel(tiled, number, lanes)
        if number * share.workers // panels == share.worker:
            source = vector.block(b, 0, first)
            if copied > 0:
                copy_rows_finite(room, source, shape.count, width)
                source = vector.matrix(room, 0, width)
            rows = vector.chosen(identity, 0, source)
            r = np.int64(0)
            while r < shape.rows:
                group = tile_height(shape.rows - r)
                left = vector.factors(a.start, r * a.row, a.step, a.row)
                if copied > 0:
                    left = vector.factors(room, step * vector.PANEL * lanes + r * shape.count, group, 1)
                to = vector.block(out, r, first)
                if fresh > 0:
                    set_tile(group, width // lanes, to, left, rows, shape.count)
                else:
                    add_tile(group, width // lanes, to, left, rows, shape.count)
                r += group


@body
def tile_height(rows):
    """Return how many of the remaining rows the next tile has: an even number of rows all go into large tiles."""
    if rows < vector.GROUP:
        return min(rows, 2)
    return vector.GROUP if rows % vector.DENSE_GROUP >= 2 else vector.DENSE_GROUP


@body
def _copy_factors(to, a, shape):
    """Copy the factors of register tiles, each tile's together."""
    vector.noinline()
    r = np.int64(0)
    while r < shape.rows:
        group = tile_height(shape.rows - r)
        for k in range(shape.count):
            for g in range(group):
                to[r * shape.count + k * group + g] = a.start[(r + g) * a.row + k * a.step]
        r += group


# ---- The scratch that they need, in elements ----


def _skipping_block(samples: int, itemsize: int) -> tuple[int, int]:
    """Return at most how many of up to so many samples are a block of `add_by_output`, and the width of a strip."""
    strip = vector.STRIPS[0] * vector.VECTOR_BYTES // itemsize
    return min(samples, -(-vector.SPARSE_BYTES // (strip * itemsize))), strip


def skipping_scratch(samples: int, itemsize: int) -> int:
    """Return the copies of `add_by_output` for up to so many samples."""
    block, strip = _skipping_block(samples, itemsize)
    return block * strip


def skipping_lists(samples: int, outputs: int, itemsize: int) -> tuple[int, int]:
    """Return the lists and the entries that `add_by_output` makes for up to so many samples, and outputs."""
    block, _ = _skipping_block(samples, itemsize)
    most, tile = min(outputs, tuning.LISTED_OUTPUTS), min(samples, tuning.SAMPLE_TILE)
    blocks = -(-tile // max(1, block // 2)) + 1  # where there is more than one, a block is at least half full
    return blocks * most + 1, (tile + block) * most + 1


def inner_scratch(shape: Shape, part: int, itemsize: int) -> int:
    """Return the copies of `inner_products`."""
    lanes = vector.VECTOR_BYTES // itemsize
    if shape.rows < tuning.COPIED_FACTOR_ROWS or shape.count < lanes:
        return 0
    length = -(-shape.count // (-(-shape.count * itemsize // part) * lanes)) * lanes
    block = vector.DOT_COLUMNS * max(1, vector.FACTOR_BYTES // (vector.DOT_COLUMNS * length * itemsize))
    return min(block, shape.columns) * length


def multiply_scratch(shape: Shape, itemsize: int) -> int:
    """Return the copies of `multiply`."""
    if shape.rows < tuning.COPIED_FACTOR_ROWS:
        return 0
    step = min(tuning.TILE_FACTORS, shape.count)
    height = vector.PADDING * max(1, vector.FACTOR_BYTES // (vector.PADDING * step * itemsize))
    return step * vector.PANEL * vector.VECTOR_BYTES // itemsize + step * min(height, shape.rows)


def step_scratch(sizes: tuple[int, ...], tile: int, itemsize: int) -> int:
    """Return the copies of the products of a tile."""
    inner = max(inner_scratch(Shape(tile, n_out, n_in), n_in * itemsize, itemsize) for n_in, n_out in pairwise(sizes))
    return max(vector.DENSE_SAMPLES * tuning.DENSE_FEATURES, skipping_scratch(tile, itemsize), inner)
