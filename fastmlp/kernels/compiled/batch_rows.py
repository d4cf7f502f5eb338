"""Updates of the rows of the first layer that a batch meets; the others wait for theirs.

A row belongs to a feature. Where no sample of a batch has the feature, the gradient of the row is zero, and its update
only depends on the row and on the update's numbers. It can be made later, together with those behind it, while the row
is in registers: the same operations in the same order, and therefore the same bits. So an update takes the time that
its rows take, however many features there are.

A run knows its batches. Once a row has its gradient, it gets all updates up to the next batch that meets it, or to the
end of the run; before the first update, those rows that are met get the updates of earlier runs that they wait for.
"""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.batch import minibatch, of_layer
from fastmlp.kernels.compiled.batch_lists import scatter_listed
from fastmlp.kernels.compiled.memory import fill_zeros
from fastmlp.kernels.compiled.optimizer_updates import update_packed
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.sample_lists import BITS, entry_index
from fastmlp.kernels.rules import ADAM


@body
def count_entries(work):
    """Set where the meetings of each block of features begin: there are no more than the samples have entries."""
    x, met, last = work.x, work.met, work.run.ends[work.run.updates - 1]
    at = work.run.updates * x.parts
    for s in range(last):
        lists = work.run.order[s] * x.parts
        for p in range(x.parts):
            met.start[at + p] += x.start[lists + p + 1] - x.start[lists + p]
    entry = np.int64(0)
    for p in range(x.parts):
        count = met.start[at + p]
        met.start[at + p] = entry
        entry += count


@body
def _mark(x, order, count, block, marks):
    """Set the bits of the features of a block that samples order[0:] have."""
    shift = block % x.paged * x.part
    for s in range(count):
        lists = order[s] * x.parts + block
        for entry in range(x.start[lists], x.start[lists + 1]):
            k = entry_index(x, entry) - shift
            marks[k // BITS] |= np.uint64(1) << np.uint64(k % BITS)


@body
def _list_marked(met, entry, features, update, room):
    """Append the marked features of a block to the meetings of an update, and unmark them; return the end.

    ``features`` is the first one and how many; ``room.following`` has the next update that meets each.
    """
    first, count = features
    for word in range(-(-count // BITS)):
        bits = room.marks[word]
        room.marks[word] = np.uint64(0)
        while bits != 0:
            k = word * BITS + vector.trailing_zeros(bits)
            met.feature[entry] = first + k
            met.until[entry] = room.following[k]
            room.following[k] = update
            entry += 1
            bits &= bits - np.uint64(1)
    return entry


@body
def _update_row(work, feature, first, stop, gradient):
    """Make updates of a row, as the run's numbers count them; return whether none of its numbers passes the limit."""
    layer = work.model.layers[0]
    work.met.current[feature] = stop
    span = layer.at + feature * layer.columns, layer.columns, np.int64(first), np.int64(stop)
    return update_packed(work, span, gradient, np.int64(1))


@body
def _catch_up(work, feature, stop):
    """Make the updates below ``stop`` that a row waits for."""
    first = np.int64(work.met.current[feature])
    while first < stop and work.run.share[first] == 0:  # updates make the first one in any case
        first += 1
    if first < stop and not _update_row(work, feature, first, stop, work.memory.zeros):
        work.run.faults[0] = 1


@body
def _prefetch_row(work, feature):
    """Ask for a row and the state of its optimizer, which the core does not expect: it is somewhere in the memory."""
    layer, run = work.model.layers[0], work.run
    at = layer.at + feature * layer.columns
    for c in range(0, layer.columns, vector.line_of(work.parameters)):
        vector.prefetch(work.parameters, at + c)
        if run.kind == ADAM or run.momentum > 0:
            vector.prefetch(work.model.m, at + c)
        if run.kind == ADAM:
            vector.prefetch(work.model.v, at + c)


@body
def pass_meetings(work, block, room):
    """List the features of a block that each batch of the run meets, and bring their rows to the first of these."""
    x, run, met = work.x, work.run, work.met
    first = block * x.part
    count = min(x.part, x.features - first)
    for k in range(count):
        room.following[k] = run.updates
    entry = met.start[run.updates * x.parts + block]
    for turn in range(run.updates):
        update = run.updates - 1 - turn
        if run.share[run.past + update] > 0:
            batch = minibatch(run, update)
            _mark(x, vector.address(run.order, batch.begin), batch.count, block, room.marks)
            entry = _list_marked(met, entry, (first, count), update, room)
        met.start[update * x.parts + block] = entry
    if met.idle == 0:
        for k in range(count):
            ahead = k + tuning.ROWS_AHEAD
            if ahead < count and room.following[ahead] < run.updates:
                _prefetch_row(work, first + ahead)
            if room.following[k] < run.updates:
                _catch_up(work, first + k, run.past + room.following[k])


@body
def pass_met(work, batch, block, room):
    """Update the rows of a block that a batch meets, and make the updates behind this one that have no gradient."""
    x, run, met, layer = work.x, work.run, work.met, work.model.layers[0]
    begin, stop = met.start[(batch.update + 1) * x.parts + block], met.start[batch.update * x.parts + block]
    gradient, first, number = vector.matrix(room.gradient, 0, layer.columns), block * x.part, run.past + batch.update
    for one in range(begin, stop):
        fill_zeros(gradient.start, (met.feature[one] - first) * layer.columns, layer.columns)
    order, deltas = vector.address(run.order, batch.begin), of_layer(work, work.memory.deltas, layer, np.int64(0))
    scatter_listed(x, order, batch.count, block, room, gradient, deltas, layer.columns)
    for one in range(begin, stop):
        if one + tuning.ROWS_AHEAD < stop:
            _prefetch_row(work, np.int64(met.feature[one + tuning.ROWS_AHEAD]))
        until = number + 1
        if met.idle == 0:
            until = run.past + met.until[one]
        row = vector.block(gradient, met.feature[one] - first, 0)
        if not _update_row(work, np.int64(met.feature[one]), number, until, row.start):
            run.faults[batch.update] = 1


@body
def pass_rest(work, block):
    """Make all updates that rows of a block still wait for."""
    x, run = work.x, work.run
    first, last = block * x.part, run.past + run.updates
    for feature in range(first, min(first + x.part, x.features)):
        _catch_up(work, feature, last)
