"""Gradients with respect to the weights of a layer, from dense rows of its inputs."""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.operands import Shape
from fastmlp.kernels.compiled.panels import add_tile, copy_rows_finite, dense_group, panel, panel_count, tile_height
from fastmlp.kernels.compiled.products import add_products
from fastmlp.kernels.compiled.runtime import body


@body
def backward_rows(gradient, delta, a, shape, identity, copies):
    """Add the transposed product of ``count`` rows of a and of delta to the panels of a gradient."""
    vector.noinline()
    lanes, columns = vector.lanes(delta), gradient.columns
    # Wide rows use each factor so often that copying it from far away first is worth it.
    copied = columns >= tuning.WIDE_VECTORS * lanes
    for s in range(0, shape.terms, vector.DENSE_SAMPLES):
        count = min(vector.DENSE_SAMPLES, shape.terms - s)
        for feature in range(0, shape.rows, tuning.DENSE_FEATURES):
            height = -(-min(tuning.DENSE_FEATURES, shape.rows - feature) // vector.PADDING) * vector.PADDING
            source = vector.block(a, s, feature)
            if copied:
                copy_rows_finite(copies, source, count, height)
                source = vector.matrix(copies, 0, height)
            for number in range(panel_count(columns, lanes)):
                first, width = panel(columns, number, lanes)
                rows, group = vector.chosen(identity, 0, vector.block(delta, s, first)), dense_group(width // lanes)
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
            add_tile(group, width // lanes, vector.block(gradient, output, first), factors, rows, shape.terms)
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
    block = -(-shape.terms // -(-shape.terms * strip * item // vector.SPARSE_BYTES))
    most, step = min(shape.rows, tuning.LISTED_OUTPUTS), -(-min(shape.terms, tuning.SAMPLE_TILE) // block) * block
    for s in range(0, shape.terms, step):
        samples = min(step, shape.terms - s)
        for output in range(0, shape.rows, most):
            outputs = min(most, shape.rows - output)
            there = vector.block(delta, s, output)
            _list_outputs(listed, there, outputs, samples, block)
            c = np.int64(0)
            while c < shape.columns:
                vectors = strip_vectors((shape.columns - c) // lanes)
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
    if copy_rows_finite(copies, a, shape.terms, width):
        lists = vector.RowLists(listed.start, vector.address(listed.start, 1), listed.index, listed.value)
        vector.sparse_rows(vectors, fresh, shape.rows, out, lists, vector.matrix(copies, 0, width))
    else:
        # No zero may be skipped: it could meet infinity.
        left, right = vector.factors(delta.start, 0, delta.ld, 1), vector.factors(copies, 0, width, 1)
        add_products(out, left, right, shape, fresh)


@body
def strip_vectors(vectors):
    """Return how many of the remaining vectors `sparse_rows` takes next."""
    for count in vector.STRIPS:
        if count <= vectors:
            return count
    return 1


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
