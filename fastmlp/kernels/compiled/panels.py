"""Panels of columns, and the register tiles of products."""

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.runtime import body

_NARROW_GROUPS = vector.NARROW_GROUPS  # a constant to Numba, which an attribute of a module is not


@body
def panel_count(columns, lanes):
    """Return how many panels hold so many columns."""
    return -(-columns // (vector.PANEL * lanes))


@body
def panel_start(columns, number, lanes):
    """Return the first column of a panel; the last two have about the same width, if the last would be narrower."""
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
def dense_group(vectors):
    """Return how many rows the tile of a dense product has."""
    return _NARROW_GROUPS[vectors] if vectors < len(_NARROW_GROUPS) else vector.DENSE_GROUP


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


@body
def tile_height(rows):
    """Return how many of the remaining rows the next tile has: an even number of rows all go into large tiles."""
    if rows < vector.GROUP:
        return min(rows, 2)
    return vector.GROUP if rows % vector.DENSE_GROUP >= 2 else vector.DENSE_GROUP
