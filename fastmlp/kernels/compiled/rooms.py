"""Memory of each worker: scratch, and lists that are made on the way."""

from typing import Any

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.memory import aligned, round_up
from fastmlp.kernels.compiled.operands import Lists, Room, Rooms
from fastmlp.kernels.compiled.plan import LISTS, part_size
from fastmlp.kernels.compiled.runtime import body


@body
def open_room(x, rooms, worker):
    """Return a worker's rooms, for a packed X that gives the codes of lists which have none."""
    listed = vector.Entries(_row(rooms.start, worker), _row(rooms.index, worker), _row(rooms.value, worker))
    back = Lists(
        vector.address(rooms.back_start, 0), _row(rooms.back_stop, worker), _row(rooms.back_index, worker),
        x.backward.code, _row(rooms.back_value, worker), np.int64(0), x.backward.table,
    )  # fmt: skip
    return Room(_row(rooms.scratch, worker), listed, back, rooms.lists, rooms.entries)


@body
def _row(plane, worker):
    return vector.address(plane.start, worker * plane.columns)


def hidden_groups(layers: Any, itemsize: int) -> list[tuple[int, int]]:
    """Return (groups of rows listed at a time, their width) for each list that a pass over these layers makes."""
    widths = [int(one["n_in"]) for one in layers if one["forward"] == LISTS]
    widths += [int(one["n_out"]) for one in layers if one["below"] == LISTS]
    return [(max(1, tuning.LISTED_BYTES // (n * (4 + vector.GROUP * itemsize))), n) for n in widths]


def make_rooms(
    workers: int,
    dtype: Any,
    scratch: int,
    groups: list[tuple[int, int]],
    back: tuple[int, int] = (0, 0),
    skipping: tuple[int, int] = (1, 1),
) -> Rooms:
    """Return rooms of each worker.

    Parameters
    ----------
    scratch : int
        Elements.
    groups : list of (int, int)
        Groups of rows that are listed at a time, and their width.
    back : (int, int)
        Features and samples of the lists of groups of features.
    skipping : (int, int)
        Lists and entries for which there is room in any case, as of `products.add_by_output`.
    """
    group, line = vector.GROUP, vector.LINE_BYTES // np.dtype(dtype).itemsize
    entries = max((k * n for k, n in groups), default=1)
    lists = max((k * -(-n // part_size(n)) for k, n in groups), default=1)
    # Each list has room for one entry more: it is written before it is known whether it is kept.
    features, length = -(-back[0] // group), back[1] + 1

    def room(count: int, kind: Any) -> Any:
        return aligned(workers * count, kind).reshape(workers, count)

    return Rooms(
        room(round_up(max(scratch, 1), line), dtype),
        room(max(lists + 1, skipping[0]), np.int64),
        room(max(entries + 1, skipping[1]), np.int32),
        room(max((entries + 1) * group, skipping[1]), dtype),
        lists,
        entries,
        np.arange(features) * length,
        room(features, np.int64),
        room(features * length, np.int32),
        room(features * length * group, dtype),
    )
