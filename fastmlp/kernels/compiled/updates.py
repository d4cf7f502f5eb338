"""Updates on batches: whole runs of them inside of one kernel, in phases that a team shares.

An update has three phases. In the first, threads share the features and the samples of the batch, for the products of
the first layer; in the second the samples: forward, loss and back, which leaves the outputs and the deltas of all
layers. In the third they share the parameters: each piece, some rows of a layer, gets its gradient over all samples and
is updated at once, so that no gradient is stored. Every sum is made by one thread, so bits do not depend on how many
there are. Clipping needs the norm of the gradient first: then the third phase stores it, and a fourth one updates.
Where rows of the first layer wait (see `batch_rows`), a phase before all updates lists those that each batch meets.
"""

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled.batch import FeatureLists, ThreadRoom, Work, minibatch
from fastmlp.kernels.compiled.batch_parameters import (
    pass_clipped,
    pass_parameters,
    piece_of,
    piece_total,
    set_clipping,
    turn_total,
)
from fastmlp.kernels.compiled.batch_rows import count_entries, pass_meetings, pass_rest
from fastmlp.kernels.compiled.batch_samples import chunks_of, pass_first, pass_samples
from fastmlp.kernels.compiled.launch import kernel
from fastmlp.kernels.compiled.runtime import body
from fastmlp.kernels.compiled.sample_lists import types_of
from fastmlp.kernels.compiled.team import (
    CLOSED,
    arrive,
    await_phase,
    close_phase,
    dismiss,
    finish_piece,
    next_piece,
    open_phase,
)

# Those of an update; one of the run before the first update, and one behind the last.
_FIRST, _SAMPLES, _PARAMETERS, _CLIPPED, _MEETINGS, _REST = 1, 2, 3, 4, 0, 0
_PHASES = 5


@body
def piece_count(work, update, kind):
    """Return how many pieces a phase of an update has, or turns: see `turn_total`."""
    if kind == _MEETINGS:
        return work.x.parts
    if kind <= _SAMPLES:
        chunks = chunks_of(work, minibatch(work.run, update))
        return chunks * work.model.ranges if kind == _FIRST else chunks
    return turn_total(work)


@body
def _do_piece(work, update, kind, piece, room):
    if kind == _MEETINGS:
        if update < work.run.updates:
            pass_meetings(work, piece, room)
        else:
            pass_rest(work, piece)
    elif kind == _FIRST:
        pass_first(work, minibatch(work.run, update), piece, room)
    elif kind == _SAMPLES:
        pass_samples(work, minibatch(work.run, update), piece, room)
    else:
        batch, own = minibatch(work.run, update), piece_of(work, piece)
        if own >= 0 and kind == _PARAMETERS:
            pass_parameters(work, batch, own, room)
        elif own >= 0:
            pass_clipped(work, batch, own)


@body
def _do_pieces(work, phase, room, thread):
    """Do pieces of a phase until all are taken."""
    update, kind = (phase - 1) // _PHASES, (phase - 1) % _PHASES
    pieces = piece_count(work, update, kind)
    piece = next_piece(work.run.team, phase, pieces, thread)
    while piece >= 0:
        _do_piece(work, update, kind, piece, room)
        finish_piece(work.run.team)
        piece = next_piece(work.run.team, phase, pieces, thread)


@body
def _do_phase(work, update, kind, room, thread):
    """Open a phase, work on it, and close it."""
    phase, pieces = update * _PHASES + kind + 1, piece_count(work, update, kind)
    open_phase(work.run.team, phase, pieces)
    _do_pieces(work, phase, room, thread)
    close_phase(work.run.team, pieces)


@body
def _add_losses(work, update):
    """Set the sums of loss and hits of an update; return whether they are finite."""
    losses, count = work.memory.losses, minibatch(work.run, update).count
    cost = right = 0.0
    for s in range(count):
        cost += losses.start[s]
        right += losses.start[losses.columns + s]
    at = update * work.run.sums.columns
    work.run.sums.start[at], work.run.sums.start[at + 1] = cost, right
    return cost - cost == 0


@body
def _add_squares(work, update):
    """Set the sum of the squares of all weights before an update."""
    total = 0.0
    for piece in range(piece_total(work)):
        total += work.memory.weights[piece]
    work.run.sums.start[update * work.run.sums.columns + 2] = total


@body
def _update(work, update, room, thread):
    """Make an update; return whether the loss and all parameters are finite and within the limit."""
    _do_phase(work, update, _FIRST, room, thread)
    _do_phase(work, update, _SAMPLES, room, thread)
    finite = _add_losses(work, update)
    _do_phase(work, update, _PARAMETERS, room, thread)
    if work.run.drawn.size > 0 and work.met.waits == 0:
        work.run.drawn.made[work.run.numbered[update]] = 1
    if work.run.squares > 0:
        _add_squares(work, update)
    if work.run.clip > 0:
        set_clipping(work)
        _do_phase(work, update, _CLIPPED, room, thread)
    return finite and work.run.faults[update] == 0


@body
def _lead(work, room, thread):
    """Make one update after another, until one fails."""
    run = work.run
    if work.met.waits > 0 and run.updates > 0:
        count_entries(work)
        _do_phase(work, np.int64(0), _MEETINGS, room, thread)
    for update in range(run.updates):
        if run.share[run.past + update] > 0 and not _update(work, update, room, thread):
            break
        run.done[0] = update + 1
    if work.met.waits > 0 and run.updates == 0:
        _do_phase(work, np.int64(0), _REST, room, thread)
    dismiss(run.team)


@body
def _help(work, room, thread):
    """Work on one phase after another, until the leader dismisses the team."""
    phase = await_phase(work.run.team, np.int64(0))
    while phase != CLOSED:
        _do_pieces(work, phase, room, thread)
        phase = await_phase(work.run.team, phase)


@kernel(lambda args: (args[0].dtype, types_of(args[3])))
def run_updates(parameters, model, memory, x, run, rooms, worker, workers):
    """Make the updates of a run, as a team."""
    work = Work(parameters, model, memory, x, run, run.met)
    room = ThreadRoom(
        vector.address(rooms.gradient.start, worker * rooms.gradient.columns),
        vector.address(rooms.loss.start, worker * rooms.loss.columns),
        vector.address(rooms.start.start, worker * rooms.start.columns),
        vector.address(rooms.stop.start, worker * rooms.stop.columns),
        FeatureLists(
            vector.address(rooms.turned.start.start, worker * rooms.turned.start.columns),
            vector.address(rooms.turned.stop.start, worker * rooms.turned.stop.columns),
            vector.address(rooms.turned.index.start, worker * rooms.turned.index.columns),
            vector.address(rooms.turned.value.start, worker * rooms.turned.value.columns),
        ),
        vector.address(rooms.following.start, worker * rooms.following.columns),
        vector.address(rooms.marks.start, worker * rooms.marks.columns),
    )
    before = vector.flush_subnormals()
    if arrive(run.team):
        _lead(work, room, worker)
    else:
        _help(work, room, worker)
    vector.restore_subnormals(before)
