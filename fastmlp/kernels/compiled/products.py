"""Products of dense rows: with panels of weights, of plain matrices, and inner products."""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.panels import (
    add_tile,
    copy_rows_finite,
    dense_group,
    panel,
    panel_count,
    set_tile,
    tile_height,
)
from fastmlp.kernels.compiled.runtime import body


@body
def forward_rows(z, length, a, weights, n_in, identity):
    """Add the product of ``length`` rows of a with the panels of weights to the rows of z."""
    vector.noinline()
    lanes = vector.lanes(z)
    for number in range(panel_count(weights.columns, lanes)):
        first, width = panel(weights.columns, number, lanes)
        group = dense_group(width // lanes)
        below = vector.matrix(weights.start, first * weights.rows, width)
        for k in range(0, n_in, tuning.DENSE_FEATURE_BLOCK):
            rows, count = vector.chosen(identity, k, below), min(tuning.DENSE_FEATURE_BLOCK, n_in - k)
            for s in range(0, length, group):
                factors = vector.factors(a.start, s * a.ld + k, 1, a.ld)
                add_tile(group, width // lanes, vector.block(z, s, first), factors, rows, count)


@body
def product_rows(out, length, a, weights, n_in, identity):
    """Set rows of out to the product of rows of a with the panels of weights."""
    lanes = vector.lanes(out)
    for number in range(panel_count(weights.columns, lanes)):
        first, width = panel(weights.columns, number, lanes)
        group = dense_group(width // lanes)
        rows = vector.chosen(identity, 0, vector.matrix(weights.start, first * weights.rows, width))
        for s in range(0, length, group):
            factors = vector.factors(a.start, s * a.ld, 1, a.ld)
            set_tile(group, width // lanes, vector.block(out, s, first), factors, rows, n_in)


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
            for _ in range(shape.terms // 2):
                even += a.start[i] * b.start[j]
                odd += a.start[i + next_a] * b.start[j + next_b]
                i += next_a + next_a
                j += next_b + next_b
            if shape.terms % 2 > 0:
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
    if shape.terms < lanes:
        left, right = vector.factors(a.start, 0, 1, a.ld), vector.factors(b.start, 0, 1, b.ld)
        add_products(out, left, right, shape, np.int64(0))
        return
    parts = -(-shape.terms * item // part)
    length = -(-shape.terms // (parts * lanes)) * lanes
    block = vector.DOT_COLUMNS * max(1, vector.FACTOR_BYTES // (vector.DOT_COLUMNS * length * item))
    for k in range(0, shape.terms, length):
        for first in range(0, shape.columns, block):
            columns, count = min(block, shape.columns - first), min(length, shape.terms - k)
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
            vector.dot_tile(height, width, to, left, right, shape.terms)
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
    step = min(tuning.TILE_FACTORS, shape.terms)
    height = vector.PADDING * max(1, vector.FACTOR_BYTES // (vector.PADDING * step * item))
    for k in range(0, shape.terms, step):
        for r in range(0, shape.rows, height):
            part = Shape(min(height, shape.rows - r), shape.columns, min(step, shape.terms - k))
            left = vector.factors(a.start, r * a.row + k * a.step, a.step, a.row)
            copied = shape.rows >= tuning.COPIED_FACTOR_ROWS
            if copied:
                # Each tile then reads one piece of memory.
                _copy_factors(vector.address(copies, step * vector.PANEL * vector.lanes(out)), left, part)
            to, below = vector.block(out, r, 0), vector.block(b, k, 0)
            fresh = np.int64(k == 0)
            multiply_panels(to, left, below, part, identity, (copies, step, np.int64(copied)), share, fresh)
            _multiply_rest(to, left, below, part, share, fresh)


@body
def _multiply_rest(out, a, b, shape, share, fresh):
    """Do as `multiply` for the columns beyond whole vectors: the last worker does."""
    tiled = shape.columns // vector.lanes(out) * vector.lanes(out)
    if share.worker == share.workers - 1 and tiled < shape.columns:
        rest = Shape(shape.rows, shape.columns - tiled, shape.terms)
        add_products(vector.block(out, 0, tiled), a, vector.factors(b.start, tiled, b.ld, 1), rest, fresh)


@body
def multiply_panels(out, a, b, shape, identity, copies, share, fresh):
    """Do as `multiply` for columns of whole vectors, panel by panel of b; add unless ``fresh``.

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
                copy_rows_finite(room, source, shape.terms, width)
                source = vector.matrix(room, 0, width)
            rows = vector.chosen(identity, 0, source)
            r = np.int64(0)
            while r < shape.rows:
                group = tile_height(shape.rows - r)
                left = vector.factors(a.start, r * a.row, a.step, a.row)
                if copied > 0:
                    left = vector.factors(room, step * vector.PANEL * lanes + r * shape.terms, group, 1)
                to = vector.block(out, r, first)
                if fresh > 0:
                    set_tile(group, width // lanes, to, left, rows, shape.terms)
                else:
                    add_tile(group, width // lanes, to, left, rows, shape.terms)
                r += group


@body
def _copy_factors(to, a, shape):
    """Copy the factors of register tiles, each tile's together."""
    vector.noinline()
    r = np.int64(0)
    while r < shape.rows:
        group = tile_height(shape.rows - r)
        for k in range(shape.terms):
            for g in range(group):
                to[r * shape.terms + k * group + g] = a.start[(r + g) * a.row + k * a.step]
        r += group


def inner_scratch(shape: Shape, part: int, itemsize: int) -> int:
    """Return the copies of `inner_products`."""
    lanes = vector.VECTOR_BYTES // itemsize
    if shape.rows < tuning.COPIED_FACTOR_ROWS or shape.terms < lanes:
        return 0
    length = -(-shape.terms // (-(-shape.terms * itemsize // part) * lanes)) * lanes
    block = vector.DOT_COLUMNS * max(1, vector.FACTOR_BYTES // (vector.DOT_COLUMNS * length * itemsize))
    return min(block, shape.columns) * length


def multiply_scratch(shape: Shape, itemsize: int) -> int:
    """Return the copies of `multiply`."""
    if shape.rows < tuning.COPIED_FACTOR_ROWS:
        return 0
    step = min(tuning.TILE_FACTORS, shape.terms)
    height = vector.PADDING * max(1, vector.FACTOR_BYTES // (vector.PADDING * step * itemsize))
    return step * vector.PANEL * vector.VECTOR_BYTES // itemsize + step * min(height, shape.rows)
