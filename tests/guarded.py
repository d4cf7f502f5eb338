"""Arrays between canaries that end, or begin, exactly at a protected page, and the micro-kernels run on them.

Run in a process of its own: to touch a protected page is SIGSEGV. ``check("tile", "float32")`` runs one check.
"""

import contextlib
import ctypes
import faulthandler
import inspect
import itertools
import os
import pickle
import signal
from unittest import mock

import naive
import numba
import numpy as np
from compare import assert_close, assert_same_bits, assert_softmax, relative_difference
from numba.core.runtime import _nrt_python
from pages import SIDES, Guarded

import fastmlp
from fastmlp import activations, backend
from fastmlp.kernels import compiled, nets, rules, vector
from fastmlp.kernels.parts import Drawn

# What kernels allocate themselves: with PYTHONMALLOC=debug, Python's allocator ends the process when it frees memory
# whose end was written over. Numba leaves up to 64 bytes of slack, so this sees vectors, not single elements.
_nrt_python.memsys_use_cpython_allocator()

_GROUP = vector.GROUP  # a constant to Numba, which an attribute of a module is not
# Elements before what a kernel is given, none where a protected page stands there.
SKIPPED = {"end": 3, "start": 0}


class Buffers:
    """Copies of arrays in guarded memory; nothing but ``written`` may differ when the block is left."""

    def __init__(self, side, **arrays):
        self._given = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
        self._guarded = {name: Guarded(x.size, x.dtype, side) for name, x in self._given.items()}
        for name, x in self._given.items():
            self._guarded[name].array[:] = x.ravel()

    def __getattr__(self, name):
        return self._guarded[name].array.reshape(self._given[name].shape)

    def check(self, *written):
        for name, guarded in self._guarded.items():
            assert guarded.intact(), name
            if name not in written:
                assert_same_bits(guarded.array, self._given[name].ravel())


# Operands begin at element ``at``; the table of codes, and lists, at their arrays' first.


@numba.njit
def run_tile(group, vectors, out, o_row, a, a_k, a_g, index, b, b_row, count, at, fresh):
    rows = vector.chosen(index, at, vector.matrix(b, at, b_row))
    vector.tile(group, vectors, vector.matrix(out, at, o_row), vector.factors(a, at, a_k, a_g), rows, count, fresh)


@numba.njit
def run_coded_tile(vectors, out, o_row, codes, table, index, b, b_row, count, at, fresh):
    rows = vector.chosen(index, at, vector.matrix(b, at, b_row))
    vector.tile(_GROUP, vectors, vector.matrix(out, at, o_row), vector.codes(codes, at, table), rows, count, fresh)


@numba.njit
def run_dot_tile(rows, columns, out, o_row, a, a_row, b, b_row, count, at):
    of_a, of_b = vector.matrix(a, at, a_row), vector.matrix(b, at, b_row)
    vector.dot_tile(rows, columns, vector.matrix(out, at, o_row), of_a, of_b, count)


@numba.njit
def row_lists(starts, index, value, at):
    first, stops = vector.address(starts, at), vector.address(starts, at + 1)
    return vector.RowLists(first, stops, vector.address(index, 0), vector.address(value, 0))


@numba.njit
def coded_lists(starts, word, table, at):
    first, stops = vector.address(starts, at), vector.address(starts, at + 1)
    return vector.CodedLists(first, stops, vector.address(word, 0), vector.address(table, 0))


def rows_with(product, lists_of):
    """Return a function that calls an intrinsic, `sparse_rows` or another one like it, for lists of one kind."""

    @numba.njit
    def run(vectors, fresh, rows, out, o_row, lists, b, b_row, at):
        to, listed = vector.matrix(out, at, o_row), lists_of(*lists)
        product(vectors, fresh, rows, to, listed, vector.matrix(b, at, b_row))

    return run


def adam_rows_with(lists_of):
    """Return a function that calls `adam_rows` for lists of one kind."""

    @numba.njit
    def run(vectors, fresh, rows, out, row, lists, b, b_row, state, numbers, fault, at):
        first, second, third = state
        p, m, v = vector.address(first, at), vector.address(second, at), vector.address(third, at)
        of_update, constants = vector.address(numbers, 0), vector.address(numbers, 4)
        update = vector.RowUpdate(p, m, v, of_update, constants, vector.address(fault, 0))
        to, listed = vector.matrix(out, at, row), lists_of(*lists)
        vector.adam_rows(vectors, fresh, rows, to, listed, vector.matrix(b, at, b_row), update)

    return run


@numba.njit
def run_scatter_rows(vectors, rows, out, o_row, lists, b, b_row, at):
    to, listed = vector.matrix(out, at, o_row), row_lists(*lists)
    vector.scatter_rows(vectors, rows, to, listed, vector.matrix(b, at, b_row))


@numba.njit
def run_coded_scatter_rows(vectors, rows, out, o_row, lists, b, b_row, at):
    to, listed = vector.matrix(out, at, o_row), coded_lists(*lists)
    vector.scatter_rows(vectors, rows, to, listed, vector.matrix(b, at, b_row))


@numba.njit
def run_copy_elements(out, x, at, count):
    vector.copy_elements(vector.address(out, at), vector.address(x, at), count)


@numba.njit
def run_block_size(x):
    return vector.block_size(vector.matrix(x, 0, 0))


@numba.njit
def run_transpose(out, o_row, x, x_row, at):
    vector.transpose(vector.matrix(out, at, o_row), vector.matrix(x, at, x_row))


@numba.njit
def run_list_nonzero(grouped, starts, index, value, entry, a, a_k, a_g, first, count, at):
    entries = vector.Entries(vector.address(starts, 0), vector.address(index, 0), vector.address(value, 0))
    if grouped:
        return vector.list_nonzero(_GROUP, entries, entry, vector.factors(a, at, a_k, a_g), first, count)
    return vector.list_nonzero(1, entries, entry, vector.factors(a, at, a_k, a_g), first, count)


@numba.njit
def run_list_nonzero_rows(starts, index, value, entry, a, ld, names, first, count, at):
    entries = vector.Entries(vector.address(starts, 0), vector.address(index, 0), vector.address(value, 0))
    members = vector.address(names, 0)
    return vector.list_nonzero_rows(_GROUP, entries, entry, vector.matrix(a, at, ld), members, first, count)


@numba.njit
def run_nonzero_bits(x, at):
    return vector.nonzero_bits(vector.address(x, at), 0)


@numba.njit
def run_list_words(words, entry, codes, mask, first, at):
    return vector.list_words(vector.address(words, 0), entry, vector.address(codes, at), 0, mask, first)


@numba.njit
def run_exp_columns(out, z, statistics, first, width, apart):
    rows, ld = z.shape
    to, source = vector.matrix(out.reshape(-1), first, ld), vector.matrix(z.reshape(-1), first, ld)
    vector.exp_columns(to, source, vector.matrix(statistics, 0, apart), rows, width)


@numba.njit
def run_softmax_columns(out, z, first, width):
    rows, ld = z.shape
    to, source = vector.matrix(out.reshape(-1), first, ld), vector.matrix(z.reshape(-1), first, ld)
    vector.softmax_columns(to, source, rows, width)


@numba.njit
def run_exp_and_log(exp, log, x):
    for k in range(len(x)):
        exp[k], log[k] = vector.exp(x[k]), vector.log(x[k])


def spaced(rng, rows, columns, apart, dtype):
    """Return random rows, ``apart`` elements from one to the next, that end with the last element of the last."""
    return rng.standard_normal((rows - 1) * apart + columns).astype(dtype)


def behind(skipped, x):
    """Return the elements of ``x`` behind some that no kernel may use: as a float NaN, as a number out of range."""
    garbage = np.nan if x.dtype.kind == "f" else np.iinfo(x.dtype).max
    return np.concatenate([np.full(skipped, garbage, x.dtype), x.ravel()])


def as_rows(x, rows, columns, apart):
    return np.lib.stride_tricks.as_strided(x, (rows, columns), (apart * x.itemsize, x.itemsize))


def assert_added(out, before, product, o_row):
    """The product was added to the rows of ``out``, and what lies between them is as before."""
    expected = before.astype(naive.WIDE)
    as_rows(expected, *product.shape, o_row)[...] += product
    assert_close(out, expected, "tile", out.dtype)
    between = np.ones(out.shape, bool)
    as_rows(between, *product.shape, o_row)[...] = False
    assert_same_bits(out[between], before[between])


def tile(rng, dtype, overrun=0):
    """Every shape, each remainder of its loop, factors along either direction, rows of b in any order, twice too."""
    lanes = vector.VECTOR_BYTES // dtype.itemsize
    groups = {vector.GROUP, vector.DENSE_GROUP}
    shapes = {*itertools.product(groups | {1, 2}, range(1, vector.PANEL + 1)), (vector.GROUP, 0)}
    shapes |= {(group, vectors) for vectors, group in enumerate(vector.NARROW_GROUPS)}
    for (group, vectors), count, side in itertools.product(sorted(shapes), (*range(1, 18), 0), SIDES):
        width = vectors * lanes or 1
        o_row, b_row, rows = width + 3, width + 5, max(count, 1)
        index = rng.integers(rows, size=count).astype(np.int32)
        index[:1] = rows - 1  # the last row, which ends at the page
        a = rng.standard_normal((count, group)).astype(dtype)
        b = spaced(rng, rows, width, b_row, dtype)
        product = naive.product(a.T, as_rows(b, rows, width, b_row)[index])
        between = spaced(rng, group, width, o_row, dtype)
        as_rows(between, group, width, o_row)[...] = 0
        garbage = between.copy()
        as_rows(garbage, group, width, o_row)[...] = np.nan
        for a_k, a_g, factors, fresh in ((group, 1, a, 0), (1, count, a.T, 1)):
            before, out = (between, garbage) if fresh else (spaced(rng, group, width, o_row, dtype),) * 2
            at = SKIPPED[side]
            given = Buffers(
                side, **{k: behind(at, v) for k, v in {"out": out, "a": factors, "index": index, "b": b}.items()}
            )
            run_tile(group, vectors, given.out, o_row, given.a, a_k, a_g, given.index, given.b, b_row,
                     count + overrun, at, fresh)  # fmt: skip
            given.check("out")
            assert np.isnan(given.out[:at]).all()
            assert_added(given.out[at:], before, product, o_row)


def transpose(rng, dtype):
    lanes = run_block_size(np.empty(1, dtype))
    for o_row, x_row, side in itertools.product((lanes, lanes + 3), (lanes, lanes + 1), SIDES):
        at = SKIPPED[side]
        x, before = (spaced(rng, lanes, lanes, row, dtype) for row in (x_row, o_row))
        given = Buffers(side, out=behind(at, before), x=behind(at, x))
        run_transpose(given.out, o_row, given.x, x_row, at)
        given.check("out")
        expected = before.copy()
        as_rows(expected, lanes, lanes, o_row)[...] = as_rows(x, lanes, lanes, x_row).T
        assert_same_bits(given.out, behind(at, expected))


def copy_elements(rng, dtype):
    """Any number of elements, also of one byte, up to the end of a buffer."""
    for kind, count, side in itertools.product((dtype, np.dtype(np.uint16), np.dtype(np.uint8)), range(70), SIDES):
        at = SKIPPED[side]
        x, before = rng.integers(200, size=(2, at + count)).astype(kind)
        given = Buffers(side, out=before, x=x)
        run_copy_elements(given.out, given.x, at, count)
        given.check("out")
        assert_same_bits(given.out, np.append(before[:at], x[at:]))


def coded_tile(rng, dtype):
    lanes = vector.VECTOR_BYTES // dtype.itemsize
    table = rng.standard_normal(256).astype(dtype)
    shapes = itertools.product(range(vector.PANEL + 1), range(18), (0, 1), SIDES)
    for vectors, count, fresh, side in shapes:
        width = vectors * lanes or 1
        o_row, b_row, rows = width + 1, width + 2, max(count, 1)
        index = rng.permutation(rows)[:count].astype(np.int32)
        codes = rng.integers(256, size=(count, vector.GROUP)).astype(np.uint8)
        codes.flat[:2] = 255, 0
        b = spaced(rng, rows, width, b_row, dtype)
        before = spaced(rng, vector.GROUP, width, o_row, dtype)
        out = before.copy()
        if fresh:
            as_rows(before, vector.GROUP, width, o_row)[...] = 0
            as_rows(out, vector.GROUP, width, o_row)[...] = np.nan
        at = SKIPPED[side]
        arrays = {k: behind(at, v) for k, v in {"out": out, "codes": codes, "index": index, "b": b}.items()}
        given = Buffers(side, table=table, **arrays)
        run_coded_tile(vectors, given.out, o_row, given.codes, given.table, given.index, given.b, b_row, count, at,
                       fresh)  # fmt: skip
        given.check("out")
        assert np.isnan(given.out[:at]).all()
        product = naive.product(table[codes].T, as_rows(b, rows, width, b_row)[index])
        assert_added(given.out[at:], before, product, o_row)


def dot_tile(rng, dtype):
    lanes = vector.VECTOR_BYTES // dtype.itemsize
    turn = vector.target.CHAINS * lanes  # the most that a turn of the loop takes
    counts = {*range(2 * lanes + 2), *range(turn - 1, turn + lanes + 1), 2 * turn - 1, 2 * turn, 2 * turn + 1}
    shapes = itertools.product({1, vector.DOT_ROWS}, {1, 2, vector.DOT_COLUMNS})
    for (rows, columns), count, side in itertools.product(shapes, sorted(counts), SIDES):
        a_row, b_row, o_row = count + 1, count + 2, columns + 1
        a, b = spaced(rng, rows, count, a_row, dtype), spaced(rng, columns, count, b_row, dtype)
        out = spaced(rng, rows, columns, o_row, dtype)
        at = SKIPPED[side]
        given = Buffers(side, **{k: behind(at, v) for k, v in {"out": out, "a": a, "b": b}.items()})
        run_dot_tile(rows, columns, given.out, o_row, given.a, a_row, given.b, b_row, count, at)
        given.check("out")
        assert np.isnan(given.out[:at]).all()
        product = as_rows(a, rows, count, a_row).astype(naive.WIDE) @ as_rows(b, columns, count, b_row).T
        assert_added(given.out[at:], out, product, o_row)


def list_lengths():
    """Return how many entries each list has, every number of them, and where they begin, with their end."""
    counts = [0, *range(1, 20), 0]
    return counts, np.concatenate(([2], 2 + np.cumsum(counts)))


# The forms of lists: the type of their ends, of the rows that they name or of words with a code, and whether they have
# codes.
LIST_FORMS = (
    (np.int64, np.int32, False),
    (np.int64, np.uint16, False),
    (np.int32, np.uint8, False),
    (np.int32, np.uint16, True),
    (np.int64, np.uint16, True),
    (np.int64, np.uint32, True),
)


class ListsOfRows:
    """Entries of lists that name ``rows`` rows, among them the last one, which ends at the page."""

    def __init__(self, rng, dtype, end, rows, form):
        self.end, kind, self.coded = form
        self.index = rng.integers(rows, size=end).astype(kind)
        self.index[-1] = rows - 1
        bits = 8 * self.index.itemsize // (2 if self.coded else 1)
        self.index[:2] = -(2**30) if kind == np.int32 else 2**bits - 1  # in front of the first list
        code, self._table = rng.integers(256, size=end), rng.standard_normal(256).astype(dtype)
        self._entry = (self.index + (code << bits)).astype(kind) if self.coded else self.index
        self.value = self._table[code] if self.coded else rng.standard_normal(end).astype(dtype)

    def buffers(self, starts):
        """Return what the kernel reads, by name."""
        numbers = {"table": self._table} if self.coded else {"value": self.value}
        return {"starts": starts.astype(self.end), "entry": self._entry, **numbers}

    def given(self, buffers, at):
        """Return the arguments of `row_lists` or `coded_lists`."""
        return buffers.starts, buffers.entry, buffers.table if self.coded else buffers.value, at


def sparse_rows(rng, dtype):
    products_of_rows(rng, dtype, vector.sparse_rows)


def listed_rows(rng, dtype):
    products_of_rows(rng, dtype, vector.listed_rows, range(1, vector.WIDEST_STRIP + 1))


def ordered_rows(rng, dtype):
    products_of_rows(rng, dtype, vector.ordered_rows, range(1, vector.WIDEST_STRIP + 1))


def products_of_rows(rng, dtype, product, widths=vector.STRIPS):
    """Rows of every number of entries, among them none, added and set; their lists stand one behind the other."""
    lanes = vector.VECTOR_BYTES // dtype.itemsize
    run_plain, run_coded = rows_with(product, row_lists), rows_with(product, coded_lists)
    counts, starts = list_lengths()
    for vectors, fresh, side, form in itertools.product(widths, (0, 1), SIDES, LIST_FORMS):
        width = vectors * lanes
        o_row, b_row, rows = width + 3, width + 5, 19
        lists = ListsOfRows(rng, dtype, starts[-1], rows, form)
        b = spaced(rng, rows, width, b_row, dtype)
        of_b = as_rows(b, rows, width, b_row).astype(naive.WIDE)
        pieces = [slice(*ends) for ends in itertools.pairwise(starts)]
        product = np.array([lists.value[piece].astype(naive.WIDE) @ of_b[lists.index[piece]] for piece in pieces])
        before = spaced(rng, len(counts), width, o_row, dtype)
        out = before.copy()
        if fresh:
            as_rows(before, len(counts), width, o_row)[...] = 0
            out = before.copy()
            as_rows(out, len(counts), width, o_row)[...] = np.nan
        at = SKIPPED[side]
        shifted = {k: behind(at, v) for k, v in {"out": out, "b": b}.items()}
        given = Buffers(side, **lists.buffers(behind(at, starts)), **shifted)
        run = run_coded if lists.coded else run_plain
        run(vectors, fresh, len(counts), given.out, o_row, lists.given(given, at), given.b, b_row, at)
        given.check("out")
        assert np.isnan(given.out[:at]).all()
        assert_added(given.out[at:], before, product, o_row)


def adam_rows(rng, dtype):
    """The bits of the formula for the gradients of `ordered_rows`, with and without a penalty and decay."""
    lanes, rule = vector.VECTOR_BYTES // dtype.itemsize, rules.Rule(rules.ADAM, 0.9, 0.99, 1e-3)
    constants = [rule.first, rule.second, 1 - rule.first, 1 - rule.second, rule.eps]
    counts, starts = list_lengths()
    runs = {
        coded: (rows_with(vector.ordered_rows, lists_of), adam_rows_with(lists_of))
        for coded, lists_of in ((False, row_lists), (True, coded_lists))
    }
    cases = itertools.product(range(1, vector.WIDEST_STRIP + 1), (0, 1), SIDES, LIST_FORMS[2:4], (0, 0.25), (0, 1))
    for vectors, fresh, side, form, l2, bad in cases:
        width, numbers = vectors * lanes, rules.Numbers(0.5, 1.5, 1 - l2 / 2, l2)
        row, b_row, rows, shape = width + 3, width + 5, 19, (len(counts), width)
        lists, at = ListsOfRows(rng, dtype, starts[-1], rows, form), SKIPPED[side]
        arrays = {name: spaced(rng, *shape, row, dtype) for name in ("out", "p", "m")}
        arrays |= {"v": np.square(spaced(rng, *shape, row, dtype)), "b": spaced(rng, rows, width, b_row, dtype)}
        arrays["p"][-bad] += np.inf if bad else 0
        given = Buffers(
            side, numbers=np.array([*numbers, *constants], dtype), fault=np.zeros(1, np.int64),
            **lists.buffers(behind(at, starts)), **{name: behind(at, one) for name, one in arrays.items()},
        )  # fmt: skip
        sums, updated = runs[lists.coded]
        named, total = lists.given(given, at), behind(at, arrays["out"])
        sums(vectors, fresh, len(counts), total, row, named, given.b, b_row, at)
        expected = {name: arrays[name].copy() for name in "pmv"}
        p, m, v = (as_rows(one, *shape, row) for one in expected.values())
        gradient, weights = as_rows(total[at:], *shape, row).copy(), np.ones(shape if l2 else 0, dtype)
        with np.errstate(invalid="ignore"):
            rules.apply(p, [m, v], gradient, weights, rule, np.array(numbers))
        state = given.p, given.m, given.v
        updated(
            vectors, fresh, len(counts), given.out, row, named, given.b, b_row, state, given.numbers, given.fault, at
        )
        given.check("p", "m", "v", "fault")
        assert given.fault[0] == bad
        for name, one in expected.items():
            assert_same_bits(getattr(given, name)[at:], one)


def scatter_rows(rng, dtype):
    """Rows of every number of entries, among them none, some of which name the same row, as the last row is named."""
    lanes = vector.VECTOR_BYTES // dtype.itemsize
    counts, starts = list_lengths()
    for vectors, side, form in itertools.product(range(1, vector.WIDEST_STRIP + 1), SIDES, LIST_FORMS):
        width = vectors * lanes
        o_row, b_row, rows = width + 3, width + 5, 19
        lists = ListsOfRows(rng, dtype, starts[-1], rows, form)
        b = spaced(rng, len(counts), width, b_row, dtype)
        product, of_b = np.zeros((rows, width), naive.WIDE), as_rows(b, len(counts), width, b_row)
        for r, (first, stop) in enumerate(itertools.pairwise(starts)):
            for entry in range(first, stop):
                product[lists.index[entry]] += lists.value[entry].astype(naive.WIDE) * of_b[r]
        before = spaced(rng, rows, width, o_row, dtype)
        at, out = SKIPPED[side], before.copy()
        shifted = {k: behind(at, v) for k, v in {"out": out, "b": b}.items()}
        given = Buffers(side, **lists.buffers(behind(at, starts)), **shifted)
        run = run_coded_scatter_rows if lists.coded else run_scatter_rows
        run(vectors, len(counts), given.out, o_row, lists.given(given, at), given.b, b_row, at)
        given.check("out")
        assert np.isnan(given.out[:at]).all()
        assert_added(given.out[at:], before, product, o_row)


def list_nonzero(rng, kind):
    """There is room for all entries and one more; the list goes on behind an entry that is there already."""
    counts = *range(10), 16, 17, 39, 64, 130
    for group, count, density, side in itertools.product((1, vector.GROUP), counts, (0, 0.2, 1), SIDES):
        a = (rng.integers(1, 200, size=(count, group)) * (rng.random((count, group)) < density)).astype(kind)
        if kind != np.uint8 and count > 5:
            a[3], a[4:6] = -0.0, 0
            a[4, 0], a[5, -1] = np.nan, np.finfo(kind).smallest_subnormal
        kept = np.flatnonzero((a != 0).any(axis=1))
        end = 1 + len(kept)
        for a_k, a_g, source in ((group, 1, a), (1, count, a.T)):
            room = 1 + count + 1
            at, index, value = SKIPPED[side], np.full(room, -7, np.int32), np.full((room, group), 77, kind)
            given = Buffers(side, a=behind(at, source), index=index, value=value, starts=np.empty(0, np.int64))
            end_of_list = run_list_nonzero(group > 1, given.starts, given.index, given.value.ravel(), 1, given.a, a_k,
                                           a_g, 100, count, at)  # fmt: skip
            assert end_of_list == end
            given.check("index", "value")
            np.testing.assert_array_equal(given.index[:end], [-7, *(100 + kept)])
            np.testing.assert_array_equal(given.value[:end], np.vstack([np.full((1, group), 77), a[kept]]))


def list_nonzero_rows(rng, kind):
    """The rows are apart, and in no order."""
    for count, density, side in itertools.product((*range(10), 39, 64, 130), (0, 0.2, 1), SIDES):
        height = 3 * vector.GROUP
        a = (rng.integers(1, 200, size=(height, count)) * (rng.random((height, count)) < density)).astype(kind)
        names = rng.permutation(height)[: vector.GROUP].astype(np.int32)
        if kind != np.uint8 and count > 5:
            a[:, 3], a[:, 4:6] = -0.0, 0
            a[names[0], 4], a[names[-1], 5] = np.nan, np.finfo(kind).smallest_subnormal
        kept = np.flatnonzero((a[names] != 0).any(axis=0))
        end, room = 1 + len(kept), 1 + count + 1
        at, index, value = SKIPPED[side], np.full(room, -7, np.int32), np.full((room, vector.GROUP), 77, kind)
        given = Buffers(side, a=behind(at, a), index=index, value=value, names=names, starts=np.empty(0, np.int64))
        found = run_list_nonzero_rows(
            given.starts, given.index, given.value.ravel(), 1, given.a, count, given.names, 100, count, at
        )
        assert found == end
        given.check("index", "value")
        np.testing.assert_array_equal(given.index[:end], [-7, *(100 + kept)])
        np.testing.assert_array_equal(
            given.value[:end], np.vstack([np.full((1, vector.GROUP), 77), a[names][:, kept].T])
        )


def nonzero_bits(rng, dtype):
    for density, side in itertools.product((0, 0.1, 0.5, 1), SIDES):
        x = (rng.standard_normal(64) * (rng.random(64) < density)).astype(dtype)
        x[3], x[7], x[63] = -0.0, np.nan, np.finfo(dtype).smallest_subnormal
        at = SKIPPED[side]
        given = Buffers(side, x=behind(at, x))
        assert int(run_nonzero_bits(given.x, at)) == sum(1 << k for k in np.flatnonzero(x).tolist())
        given.check()
        codes = np.where(np.isnan(x), 255, x != 0).astype(np.uint8)
        given = Buffers(side, x=behind(at, codes))
        assert int(run_nonzero_bits(given.x, at)) == sum(1 << k for k in np.flatnonzero(codes).tolist())


def list_words(rng, kind):
    """Words behind the list may be written, up to 64 in all; without instructions for it, nothing is."""
    for density, side in itertools.product((0, 0.2, 1), SIDES):
        codes = (rng.integers(1, 256, 64) * (rng.random(64) < density)).astype(kind)
        kept, at, first = np.flatnonzero(codes), SKIPPED[side], 191
        given = Buffers(side, codes=behind(at, codes), words=np.full(1 + 64, 7, np.uint16))
        mask = np.uint64(sum(1 << k for k in kept.tolist()))
        if not run_list_words(given.words, 1, given.codes, mask, first, at):
            assert not vector.PACKS_BYTES
            given.check()
            continue
        given.check("words")
        np.testing.assert_array_equal(
            given.words[: 1 + len(kept)], [7, *(first + kept + 256 * codes[kept].astype(int))]
        )


def columns_to_exponentiate(rng, dtype):
    """Yield (z, first, width, side): every remainder of two vectors of columns, on both sides of FEW_ROWS."""
    lanes = vector.VECTOR_BYTES // dtype.itemsize
    few = vector.target.FEW_ROWS  # from there on sums are compensated
    for rows, width, side in itertools.product((1, 2, few, few + 1, 40), range(4 * lanes + 2), SIDES):
        for first in (0, 3):
            z = rng.standard_normal((rows, first + width)).astype(dtype)
            z[0, first : first + 1] = 500  # spiked: all other terms vanish
            z[-1] = z[0]  # of two largest the first is chosen
            yield z, first, width, side


def assert_exponentials(actual, exact):
    info = np.finfo(actual.dtype)
    assert (np.abs(actual - exact) <= 4 * info.eps * exact + info.tiny).all()


def exp_columns(rng, dtype):
    """The statistics are three rows, with space between them."""
    for z, first, width, side in columns_to_exponentiate(rng, dtype):
        apart = width + 2
        out, statistics = np.full_like(z, 7), np.full(2 * apart + width, np.nan, dtype)
        given = Buffers(side, out=out, statistics=statistics, z=z)
        run_exp_columns(given.out, given.z, given.statistics, first, width, apart)
        given.check("out", "statistics")
        assert_same_bits(given.out[:, :first], out[:, :first])
        between = np.ones(statistics.shape, bool)
        as_rows(between, 3, width, apart)[...] = False
        assert_same_bits(given.statistics[between], statistics[between])
        shift, total, best = as_rows(given.statistics, 3, width, apart)
        some = z[:, first:]
        assert_same_bits(shift, some.max(axis=0))
        np.testing.assert_array_equal(best, some.argmax(axis=0))
        exact = np.exp((some - shift).astype(naive.WIDE))
        assert_exponentials(given.out[:, first:], exact)
        if width:
            assert relative_difference(total, exact.sum(axis=0)) <= 8 * np.finfo(dtype).eps


def softmax_columns(rng, dtype):
    for z, first, width, side in columns_to_exponentiate(rng, dtype):
        out = np.full_like(z, 7)
        given = Buffers(side, out=out, z=z)
        run_softmax_columns(given.out, given.z, first, width)
        given.check("out")
        assert_same_bits(given.out[:, :first], out[:, :first])
        if width:
            assert_softmax(given.out[:, first:], z[:, first:], naive.softmax(z[:, first:]))


def exp_and_log(rng, dtype):
    lanes = vector.VECTOR_BYTES // dtype.itemsize
    for count, side in itertools.product(range(8 * lanes + 2), SIDES):
        x = rng.random(count).astype(dtype) + dtype.type(0.5)
        given = Buffers(side, exp=x, log=x, x=x)
        run_exp_and_log(given.exp, given.log, given.x)
        given.check("exp", "log")
        for actual, exact in ((given.exp, np.exp(x.astype(naive.WIDE))), (given.log, np.log(x.astype(naive.WIDE)))):
            if count:
                assert_close(actual, exact, "function", dtype)


@numba.njit
def run_sigmoids(logistic, exp, tanh, slopes, gelu, alone, at):
    count = len(logistic) - at
    vector.exp_elements(vector.address(exp, at), count)
    vector.logistic_elements(vector.address(logistic, at), count)
    vector.tanh_elements(vector.address(tanh, at), count)
    vector.gelu_elements(vector.address(slopes, at), vector.address(gelu, at), count)
    vector.gelu_elements(vector.address(alone, at), vector.address(alone, at), count)


def sigmoids(rng, dtype):
    """Every remainder of vectors; a number has the same bits in a vector and alone, and with slopes or without."""
    lanes = vector.VECTOR_BYTES // dtype.itemsize
    for count, side in itertools.product(range(4 * lanes + 2), SIDES):
        at, x = SKIPPED[side], (3 * rng.standard_normal(count)).astype(dtype)
        rows = {name: behind(at, x) for name in ("logistic", "exp", "tanh", "gelu", "alone")}
        given = Buffers(side, slopes=behind(at, np.full(count, 7, dtype)), **rows)
        run_sigmoids(given.logistic, given.exp, given.tanh, given.slopes, given.gelu, given.alone, at)
        given.check("logistic", "exp", "tanh", "slopes", "gelu", "alone")
        assert_same_bits(given.alone, given.gelu)
        for name in ("logistic", "exp", "tanh", "slopes", "gelu"):
            assert np.isnan(getattr(given, name)[:at]).all()
            for k, value in enumerate(getattr(given, name)[at:]):
                one = {other: x[k : k + 1].copy() for other in ("logistic", "exp", "tanh", "slopes", "gelu", "alone")}
                run_sigmoids(*one.values(), 0)
                assert_same_bits(one[name][0], value)


def sums_over_ranges(packed, parameters, net):
    """Return the gradient and the sums for soft targets, with the leaves added in three ranges, the last one first."""
    m, kernels, x = packed.shape[1], backend.kernels(), packed.operands(parameters.dtype)
    classes = net.sizes[-1]
    y = np.linspace(0, 1, classes * m, dtype=parameters.dtype).reshape(classes, m)
    weight, gradient = np.linspace(0.5, 2, m, dtype=parameters.dtype), np.empty_like(parameters)
    leaves = len(kernels.leaf_starts(x)) - 1
    cuts = sorted({0, leaves // 3, 2 * leaves // 3, leaves})
    sums = kernels.begin(parameters, net, x, y, weight)
    for first, stop in reversed(list(itertools.pairwise(cuts))):
        kernels.accumulate(sums, first, stop)
    return [*kernels.finish(gradient, sums), gradient]


def other_loss(packed, labels, parameters, net):
    """Return what a model of another loss gives: one for each number of samples."""
    loss = nets.LOSSES[1 + len(labels) % (len(nets.LOSSES) - 1)]
    model = fastmlp.MLP(net.sizes, dtype=parameters.dtype.name, activation=net.activations, loss=loss)
    model.parameters = parameters
    y = fastmlp.one_hot(labels, net.sizes[-1]).astype(parameters.dtype)
    results = [*model.loss_and_grad(packed, y)]
    if packed.finite:
        results += model.evaluate(packed, y).values()
        m, kernels, x = len(labels), backend.kernels(), packed.operands(parameters.dtype, minibatches=True)
        order, weight = np.arange(m, dtype=np.int32), np.ones(m, parameters.dtype)
        trainer = kernels.begin_training([parameters], net._replace(loss=loss), x, y, weight)
        numbers = np.array([rules.Numbers(1e-3)])
        results.append(kernels.train(trainer, order, np.array([m]), rules.Rule(rules.SGD), numbers))
        results += kernels.training_vectors(trainer)
    return results


def updates_on_batches(packed, labels, parameters, net):
    """Return the sums of two updates on batches, and the vectors after them."""
    m, kernels, results = len(labels), backend.kernels(), []
    weight, order, ends = (
        np.ones(m, parameters.dtype),
        np.arange(m, dtype=np.int32)[::-1],
        np.unique([m // 2 + 1, m]),
    )
    for rule, drawn in (
        (rules.Rule(rules.ADAM, 0.9, 0.9, squares=1), None),
        (rules.Rule(rules.SGD, 0.9, clip=0.1), None),
        (rules.Rule(rules.SGD), Drawn(order, int(ends[0]))),
    ):
        vectors = [parameters] * (1 + rules.state_vectors(rule))
        if rule.kind == rules.ADAM:
            vectors[2] = np.square(parameters)
        y = fastmlp.one_hot(labels, net.sizes[-1]).astype(parameters.dtype) if rule.clip else labels
        x = packed.operands(parameters.dtype, minibatches=True)
        trainer = kernels.begin_training(vectors, net, x, y, weight, drawn=drawn)
        results.append(kernels.train(trainer, order, ends, rule, np.full((len(ends), 4), 0.5)))
        results += kernels.training_vectors(trainer)
    return results


def let_rows_wait():
    """Let rows of the first layer that a batch does not meet wait for their updates, however few they are."""
    compiled.tuning.WAITING_SHARE = compiled.tuning.BUSY_WAITING_SHARE = np.inf


def every_call(inputs, scale, activation="relu"):
    """Return what the model and the notebook's functions give for (x, y, parameters, sizes)."""
    x, labels, parameters, sizes = inputs
    model = fastmlp.MLP(sizes, dtype=parameters.dtype.name, activation=activation)
    model.parameters = parameters
    packed, net = fastmlp.pack(x, scale=scale), activations.net(tuple(sizes), activation)
    results = [*model.loss_and_grad(packed, labels), *sums_over_ranges(packed, parameters, net)]
    results += other_loss(packed, labels, parameters, net)
    # A pickle holds the entries of the lists, of which they are made again, and tiles of them.
    lists = pickle.loads(pickle.dumps(fastmlp.pack(x, scale=scale, minibatches=True)))
    results += [packed.to_dense(), lists.to_dense(), model.loss_and_grad(lists, labels)[1]]
    if packed.finite:  # or these refuse it
        results += [model.predict_proba(packed), *model.evaluate(packed, labels).values()]
        if np.isfinite(parameters).all():
            results += updates_on_batches(packed, labels, parameters, net)
    if len(sizes) != 3 or activation != "relu":  # no net of the notebook
        return [np.array(one) for one in results]
    (w1, w2), (b1, b2) = model.weights, model.biases
    x = packed if x.dtype == np.uint8 else x
    a1, z1, a2, z2 = forward = fastmlp.Forwardprop(x, w1, w2, b1, b2)
    y = fastmlp.one_hot(labels, sizes[-1]).astype(parameters.dtype)
    gradient = fastmlp.backward_prop(z1, a1, z2, a2, w1, w2, x, y)
    results += fastmlp.backward_prop(z1, a1, z2, a2, w1, w2, packed, y)
    results += [*forward, *gradient, fastmlp.compute_cost(a2, y), fastmlp.compute_cost(np.asfortranarray(a2), y)]
    results += [fastmlp.ReLU(z1), fastmlp.Softmax(z1), *fastmlp.update_params(w1, b1, w2, b2, *gradient)]
    z, weight = np.ascontiguousarray(z2), np.linspace(0.5, 2, len(labels), dtype=z2.dtype)
    dz, loss, hit = np.empty_like(z), np.empty_like(weight), np.empty_like(weight)
    backend.kernels().softmax_cross_entropy_grad(dz, loss, hit, z, y, weight)
    return [np.array(one) for one in (*results, dz, loss, hit)]


_LAUNCH = compiled.launch.Kernel.launch


class GuardedArguments:
    """While it lasts, each array that a kernel is given ends at a protected page, or begins behind one.

    The kernel works on copies there; what it wrote is copied back. So every buffer is guarded, whoever allocates it.
    ``probe(name, guarded)`` is called for each when its kernel is done.
    """

    def __init__(self, side, probe=lambda name, guarded: None):
        self._side, self._probe, self._patches = side, probe, contextlib.ExitStack()

    def _place(self, name, value, placed):
        if isinstance(value, tuple):
            fields = getattr(value, "_fields", range(len(value)))
            parts = [self._place(f"{name}.{field}", one, placed) for field, one in zip(fields, value, strict=True)]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        if not isinstance(value, np.ndarray):
            return value
        guarded = Guarded(value.size, value.dtype, self._side)
        array = guarded.array.reshape(value.shape)
        array[...] = value
        placed.append((name, guarded, value, array))
        return array

    def _launch(self, kernel, workers, *args):
        placed, names = [], inspect.signature(kernel).parameters
        pairs = zip(names, args, strict=True)
        _LAUNCH(kernel, workers, *(self._place(f"{kernel.__name__}.{name}", one, placed) for name, one in pairs))
        for name, guarded, value, array in placed:
            assert guarded.intact(), name
            self._probe(name, guarded)
            if array.tobytes() != value.tobytes():
                value[...] = array

    def __enter__(self):
        def launch(kernel, workers, *args):
            self._launch(kernel, workers, *args)

        self._patches.enter_context(mock.patch.object(compiled.launch.Kernel, "launch", launch))
        return self

    def __exit__(self, *_):
        self._patches.close()


def engine(rng, dtype):
    """Whole passes, whose buffers end at the page: samples, features, units and classes of every remainder."""
    let_rows_wait()
    few, tile_size = compiled.tuning.FEW_SAMPLES, compiled.tuning.SAMPLE_TILE
    cases = [(m, n, 5, 3) for m, n in zip((*range(1, 14), few - 1, few), itertools.cycle(range(1, 14)), strict=False)]
    cases += [(few + 1 + k, 1 + k, 1 + k, 2 + k) for k in range(13)]
    cases += [(tile_size + k, 13 - k, 18 - k, 2 + k) for k in range(-1, 12)]
    cases += [(130, compiled.tuning.FEATURE_BLOCK + 1, 3, 2), (8 * tile_size + 61, 7, 9, 4)]
    # Hidden layers wide enough for lists of what is not zero in them.
    wide = 16 * vector.VECTOR_BYTES // dtype.itemsize
    cases += [(few + 1 + k, 5, wide + k, wide + 13 - k, 2 + k) for k in range(0, 13, 3)]
    cases += [(few + 1, 5, compiled.tuning.FEATURE_BLOCK + 1, wide + 1, 3)]
    # Dense samples, more than are taken as they are.
    cases += [(compiled.tuning.FEW_DENSE_SAMPLES + 1 + k, 40 + k, 7 + k, 2) for k in range(0, 13, 4)]
    # Last lists of a few rows, or units, and panels so narrow that a sum is made in parts: list for list the same bits.
    cases += [(few + 1, 5, wide, wide + 1, 3), (few + 1, 5, wide + 1, wide + 1, 3)]
    cases = [("relu", *case) for case in cases]
    cases += [(name, *case) for name in ("gelu", "logistic") for case in ((few, 5, 7, 3), (few + 5, 6, 9, 4))]
    cases += [(("tanh", "gelu"), m, 5, 7, wide + 1, 3) for m in (few - 1, few + 3, 2 * tile_size + 1)]
    for k, (activation, m, *sizes) in enumerate(cases):  # mostly on one thread: launches would take most of the time
        n, classes = sizes[0], sizes[-1]
        x = rng.integers(1, 256, size=(n, m)) * (rng.random((n, m)) < (0.3, 0.3, 1)[k % 3])
        size = sum(n_out * (n_in + 1) for n_in, n_out in itertools.pairwise(sizes))
        parameters = rng.standard_normal(size).astype(dtype)
        labels = rng.integers(classes, size=m)
        for kind, bad in ((dtype, None), ((np.uint8, None), (dtype, "x"), (dtype, "w"))[k // 3 % 3]):
            inputs = [x.astype(kind), labels, parameters.copy()]
            if bad == "x":
                inputs[0][-1, -1] = np.nan
            if bad == "w":
                inputs[2][n - 1] = np.inf
            with fastmlp.use_threads(1):
                expected = every_call((*inputs, sizes), 1 / 255, activation)
            threads = min(1 + (k % 4 == 0), fastmlp.get_num_threads())
            coded = floats_of_few_values() if k % 2 else contextlib.nullcontext()
            with fastmlp.use_threads(threads), coded, GuardedArguments(SIDES[k % 2]):
                actual = every_call((*inputs, sizes), 1 / 255, activation)
            for one, other in zip(actual, expected, strict=True):
                assert_same_bits(one, other)


def entered(rng, dtype):
    """A trainer goes on with samples that have no codes after some that have, as blocks of a packed file may."""
    kernels, net, m, n = backend.kernels(), nets.Net((40, 9, 3), ("relu",)), 70, 40
    table, labels, weight = np.ones(256, dtype), rng.integers(3, size=m), np.ones(m, dtype)
    few = (rng.integers(0, 4, (n, m)) * (rng.random((n, m)) < 0.4)).astype(dtype)
    many = (rng.standard_normal((n, m)) * (rng.random((n, m)) < 0.4)).astype(dtype)
    size = sum(n_out * (n_in + 1) for n_in, n_out in itertools.pairwise(net.sizes))
    vectors = [rng.standard_normal(size).astype(dtype), *np.zeros((2, size), dtype)]
    order, ends, rule = np.arange(m, dtype=np.int32), np.array([33, m]), rules.Rule(rules.ADAM, 0.9, 0.99)
    numbers = np.array([rules.Numbers(1e-2)] * 2)

    def trained():
        trainer = None
        for x in (few, many, few):
            listed = kernels.operands(kernels.list_samples(x, 0.3), table)
            if trainer is None:
                trainer = kernels.begin_training(vectors, net, listed, labels, weight)
            else:
                kernels.enter_training(trainer, listed, labels, weight)
            kernels.train(trainer, order, ends, rule, numbers)
        return kernels.training_vectors(trainer)

    with fastmlp.use_threads(1):
        expected = trained()
        for side in SIDES:
            with floats_of_few_values(), GuardedArguments(side):
                for one, other in zip(trained(), expected, strict=True):
                    assert_same_bits(one, other)


def floats_of_few_values():
    """Return a context in which even small matrices are looked at for them."""
    return mock.patch.object(compiled.sample_lists, "_LARGE", 0)


def overruns(rng, dtype):
    """An access just beyond any array that any kernel is given, on either side, ends the process: a child for each."""
    let_rows_wait()
    killed, seen = set(), set()

    def probe(name, guarded):
        seen.add(name)
        if guarded.array.size == 0 or (name, side) in killed:
            return
        child = os.fork()
        if child == 0:
            faulthandler.disable()
            address = guarded.array.ctypes.data
            ctypes.memset(address + guarded.array.nbytes if side == "end" else address - 1, 0, 1)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGSEGV, name
        killed.add((name, side))

    wide = 16 * vector.VECTOR_BYTES // dtype.itemsize
    cases = [(dtype, 0.3, 8 * compiled.tuning.SAMPLE_TILE + 61, 7, 9, 4), (np.uint8, 0.3, 250, 5, 4, 3)]
    cases += [(dtype, 0.3, 100, 5, 4, 3), (dtype, 0.3, 130, 5, wide, wide, 3)]
    cases.append((dtype, 0.3, 130, 2 * compiled.tuning.BATCH_FEATURES + 1, 4, 3))  # ranges of features
    cases += [(dtype, 1, m, 40, 8, 2) for m in (300, compiled.tuning.FEW_DENSE_SAMPLES + 1)]
    cases.append((np.uint8, 1, 300, 40, 8, 2))
    cases = [("relu", *case) for case in cases] + [(("gelu", "tanh"), dtype, 0.3, m, 5, 4, 6, 3) for m in (20, 130)]
    for side, (activation, kind, density, m, *sizes) in itertools.product(SIDES, cases):
        x = (rng.integers(1, 256, size=(sizes[0], m)) * (rng.random((sizes[0], m)) < density)).astype(kind)
        size = sum(n_out * (n_in + 1) for n_in, n_out in itertools.pairwise(sizes))
        labels, parameters = rng.integers(sizes[-1], size=m), rng.standard_normal(size).astype(dtype)
        with fastmlp.use_threads(1), GuardedArguments(side, probe):
            every_call((x, labels, parameters, sizes), 1, activation)
            if kind == dtype and sizes[0] == 7:
                with floats_of_few_values():
                    every_call((x, labels, parameters, sizes), 1, activation)
    assert {name.split(".")[0] for name in seen} == set(compiled.launch.KERNELS)
    # Every array of every kernel, but for those that are always empty: one allocation made several buffers of a step
    # once, each guarded by the next alone.
    lists = itertools.product(("forward", "backward"), ("code", "value", "table"))
    empty = {f"_fill.x.{one}.{other}" for one, other in lists}  # entries go to buffers of their own
    # What is stored has no table yet.
    empty |= {"_unpack.source.x.forward.table", "_unpack.source.x.backward.table", "_fill.fill.listed.table"}
    # Entries are where they were; only its dtype counts; listed samples have their codes in words.
    empty |= {"_list_columns.fill.begin", "_list_columns.fill.value", "_fill.fill.listed.code"}
    empty |= {f"_list_columns.fill.alphabet.{name}" for name in ("table", "place")}
    empty |= {f"_outputs.step.{name}" for name in ("z", "a")}
    empty |= {f"_outputs.step.targets.{name}" for name in ("labels", "rows", "weight", "loss.scales")}
    empty |= {f"_accumulate.step.{name}" for name in ("z", "a", "rows")}
    empty |= {f"_accumulate.rooms.back_{name}" for name in ("start", "stop", "index", "value")}
    empty |= {f"_accumulate_given.step.targets.{name}" for name in ("labels", "weight", "loss.scales")}
    expected = {(name, side) for name in seen - empty for side in SIDES}
    assert expected == killed, (expected - killed, killed - expected)
    # The arrays inside of tuples are among them.
    step = "gradients nodes.stack sums rooms.scratch rooms.value x.dense x.forward.index step.weights step.targets.rows"
    assert empty | {f"_accumulate.{name}" for name in step.split()} | {"run_phases.rooms.copies"} <= seen


@numba.njit
def write_own_buffer(count):
    own = np.empty(10, np.float64)
    for k in range(count):
        own[k] = 1
    return own[0]


def own_buffer_and_a_vector_more(rng, dtype):
    write_own_buffer(19)


def one_entry_too_many(rng, dtype):
    """Do what `tile` checks, wrongly: the sums read one entry, and so one row of b, too far."""
    tile(rng, dtype, overrun=1)


def one_vector_before(rng, dtype):
    """Write a vector in front of an array that ends at the page: no page is touched, but the canary is."""
    lanes = vector.VECTOR_BYTES // dtype.itemsize
    given = Buffers("end", out=rng.standard_normal(lanes).astype(dtype))
    out = np.lib.stride_tricks.as_strided(given.out[:1], (lanes,), (-dtype.itemsize,))
    out[1] = 1
    given.check("out")


def check(name, dtype):
    faulthandler.enable()
    globals()[name](np.random.default_rng(20260101), np.dtype(dtype))
