"""Teams: threads that share the pieces of one phase after another without returning to Python.

The first thread to arrive leads: it opens each phase and closes it when all pieces are done. The others help for as
long as they are there, and no phase waits for a thread that has not taken a piece. So a team needs no number of
threads: where the threading layer runs its tasks one after the other, the first does all the work and the rest find it
done; where another process takes the core of a helper, the leader continues alone.

Pieces are numbered, and each thread has a share of them, taken first: its data is still in this core's cache from the
phase before. Which thread does a piece shows in no bit.
"""

from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels import vector
from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.runtime import body

_LINE = tuning.LINE_NUMBERS
_ARRIVED, _PHASE, _DONE = 0, _LINE, 2 * _LINE
_SHARES = 3 * _LINE
_BITS = 26  # for the number of a piece, below that of the phase

CLOSED = 1 << 36  # a phase behind all others


class Team(NamedTuple):
    """What the threads of a team share.

    Attributes
    ----------
    board : int64
        Numbers that threads read and write, each in a cache line of its own: how many have arrived, the open phase, the
        pieces done, and for each thread the open phase and the next piece of its share.
    threads : int
    """

    board: Any
    threads: int


def assemble(threads: int) -> Team:
    """Return a team for up to so many threads."""
    return Team(np.zeros(_SHARES + threads * _LINE, np.int64), threads)


@body
def arrive(team):
    """Return whether the calling thread leads the team."""
    return vector.add_and_publish(team.board, _ARRIVED) == 0


@body
def open_phase(team, phase, pieces):
    """Open a phase, numbered from 1 on, of so many pieces."""
    vector.publish(team.board, _DONE, 0)
    for thread in range(team.threads):
        first = pieces * thread // team.threads
        vector.publish(team.board, _SHARES + thread * _LINE, (phase << _BITS) + first)
    vector.publish(team.board, _PHASE, phase)


@body
def next_piece(team, phase, pieces, thread):
    """Return a piece of the phase for a thread, or -1 if all are taken or the phase is no longer open."""
    for turn in range(team.threads):
        owner = (thread + turn) % team.threads
        at, end = _SHARES + owner * _LINE, (phase << _BITS) + pieces * (owner + 1) // team.threads
        following = vector.observe(team.board, at)
        # A share of another phase is left alone: its pieces would be lost.
        while (phase << _BITS) <= following < end:
            if vector.exchange(team.board, at, following, following + 1):
                return following - (phase << _BITS)
            following = vector.observe(team.board, at)
    return np.int64(-1)


@body
def finish_piece(team):
    """Say that a piece is done."""
    vector.add_and_publish(team.board, _DONE)


@body
def close_phase(team, pieces):
    """Wait until all pieces of the open phase are done."""
    turns = 0
    while vector.observe(team.board, _DONE) < pieces:
        turns = _wait(turns)


@body
def await_phase(team, last):
    """Return the open phase, once it is another one than the ``last``; see CLOSED."""
    turns = 0
    phase = vector.observe(team.board, _PHASE)
    while phase == last:
        turns = _wait(turns)
        phase = vector.observe(team.board, _PHASE)
    return phase


@body
def dismiss(team):
    """Let all helpers leave."""
    vector.publish(team.board, _PHASE, CLOSED)


@body
def _wait(turns):
    """Wait a little; the core goes to another thread after so many turns in a row. Return the number of turns."""
    if turns < tuning.SPINS:
        vector.pause()
    else:
        vector.give_way()
    return turns + 1
