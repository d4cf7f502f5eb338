"""What each process of a measurement of `benchmarks.scale` does: ``mpiexec -n 2 python -m benchmarks.scale_ranks JOB``.

The first process prints the result, as JSON.
"""

import hashlib
import json
import os
import sys
import time

import numpy as np

import fastmlp
from benchmarks import problems
from fastmlp import distributed, optimizers
from fastmlp.distributed import ranks
from fastmlp.distributed.messages import Messages

SIZES = (784, 128, 10)
FIGURES = ("seconds", "waiting", "exchanges", "messages", "bytes")


class Counted:
    """A communicator that counts what this process receives from others: exchanges, messages and bytes."""

    def __init__(self, comm):
        self._comm, self._rank = comm, comm.Get_rank()
        self.counts = np.zeros(3, np.int64)

    def __getattr__(self, name):
        return getattr(self._comm, name)

    def _count(self, sizes):
        others = np.delete(sizes, self._rank)
        self.counts += 1, np.count_nonzero(others), others.sum()

    def Iallgather(self, mine, every):
        self._count([mine.nbytes] * self._comm.Get_size())
        return self._comm.Iallgather(mine, every)

    def Iallgatherv(self, sent, received):
        self._count(received[1][0] * received[0].itemsize)
        return self._comm.Iallgatherv(sent, received)

    def Ialltoallv(self, sent, received):
        self._count(received[1][0] * received[0].itemsize)
        return self._comm.Ialltoallv(sent, received)


def _timed(name):
    def method(self, *words):
        outermost, begun = not self.within, time.perf_counter()
        self.within = True
        try:
            return getattr(Messages, name)(self, *words)
        finally:
            if outermost:
                self.within = False
                self.waited += time.perf_counter() - begun

    return method


class Watched(Messages):
    """Messages, with the time spent in them, and counts."""

    latest = None
    meet, gathered, joined, exchanged = map(_timed, ("meet", "gathered", "joined", "exchanged"))

    def __init__(self, comm):
        super().__init__(comm)
        self.within, self.waited = False, 0.0
        self._comm = Counted(self._comm)
        Watched.latest = self

    @classmethod
    def figures(cls):
        """Return the seconds in messages so far, and the counts."""
        return (0.0, 0, 0, 0) if cls.latest is None else (cls.latest.waited, *cls.latest._comm.counts.tolist())


def trained(x, labels, steps, comm):
    """Train on the full batch; return the parameters, and the `FIGURES` of each step, as rows."""
    ends = []
    Watched.latest = None
    model = fastmlp.MLP(SIZES, seed=0)
    model.fit(x, labels, epochs=steps + 2, alpha=0.1, progress=False, comm=comm,
              callback=lambda *_: ends.append((time.perf_counter(), *Watched.figures())))  # fmt: skip
    return model.parameters, np.diff(ends, axis=0)[1:]


def in_turn(comm, function):
    """Call the function on the first process while the others sleep."""
    result = function() if comm.rank == 0 else None
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(0.01)
    return result


def transport(comm, count):
    """Return the seconds of an exchange of a few bytes, and of one of 1 MiB with each process."""
    messages, (per, size) = Messages(comm), (1 << 20, comm.size)
    sent, received = np.zeros(per * size, np.uint8), np.empty(per * size, np.uint8)

    def least(function):
        taken = []
        for _ in range(21):
            messages.meet()
            begun = time.perf_counter()
            for _ in range(count):
                function()
            taken.append((time.perf_counter() - begun) / count)
        return min(taken)  # other load on the machine only adds

    few = least(messages.meet)
    many = least(lambda: messages.exchanged(received, [per] * size, sent, [per] * size))
    messages.end()
    return {"few": few, "many": many}


def alone(comm, m, steps, rounds):
    """Return the seconds of a step on m samples and on a quarter of them, one process alone."""
    codes, labels, _ = problems.image_codes(m)
    few = m // 4
    packs = [(fastmlp.pack(codes[:, :count], scale=1 / 255), labels[:count]) for count in (m, few)]
    taken = [[trained(*one, steps, None)[1][:, 0] for one in packs] for _ in range(rounds)]
    return np.median(np.array(taken), axis=(0, 2)).tolist()


def together(comm, m, steps, rounds):
    """Return the figures of steps of one process and of all, measured in turns; all must make the same model."""
    codes, labels, _ = problems.image_codes(m)
    share = distributed.share(m, SIZES[0], comm)
    part = fastmlp.pack(codes[:, share], scale=1 / 255) if share.start < share.stop else None
    whole = fastmlp.pack(codes, scale=1 / 255) if comm.rank == 0 else None
    ones, all_of_them = [], []
    for _ in range(rounds):
        one = in_turn(comm, lambda: trained(whole, labels, steps, None))
        parameters, rows = trained(part, labels[share], steps, comm)
        all_of_them.append(comm.gather(rows.tolist()))
        if comm.rank == 0:
            if parameters.tobytes() != one[0].tobytes():
                raise AssertionError("the processes make another model than one process: not timed")
            ones.append(one[1][:, 0].tolist())
    return {"alone": ones, "together": all_of_them}


SPLITS = {
    "even": lambda m, size: np.linspace(0, m, size + 1).astype(int),
    "unequal": lambda m, size: np.append(0, (m * np.cumsum(2.0 ** -np.arange(size)) / 2).astype(int)),
    "with an empty rank": lambda m, size: np.append(0, np.linspace(0, m, size).astype(int)),
}


def bits(comm, m, steps):
    """Return a digest of training on the full batch and on minibatches, for each split of the samples."""
    codes, labels, _ = problems.image_codes(m)
    found = {}
    for name, split in SPLITS.items():
        cuts = split(m, comm.size)
        cuts[-1] = m
        mine = slice(*cuts[comm.rank : comm.rank + 2].tolist())
        digest = hashlib.sha256()
        for options in ({}, {"optimizer": optimizers.Adam(), "batch_size": 128}):
            model = fastmlp.MLP(SIZES, seed=0)
            x = fastmlp.pack(codes[:, mine], scale=1 / 255) if mine.start < mine.stop else None
            history = model.fit(x, labels[mine], epochs=steps, progress=False, comm=comm, **options)
            digest.update(model.parameters.tobytes() + repr((history.loss, history.scores)).encode())
        found[name] = comm.gather(digest.hexdigest())
    return found


JOBS = {one.__name__: one for one in (transport, alone, together, bits)}


def main():
    job, words = sys.argv[1], json.loads(sys.argv[2])
    fastmlp.set_backend("numba")
    ranks.Messages = Watched
    from mpi4py import MPI  # asv imports all modules of this folder, also where mpi4py is missing

    result = JOBS[job](MPI.COMM_WORLD, **words)
    if MPI.COMM_WORLD.rank == 0:
        os.write(1, json.dumps(result).encode())


if __name__ == "__main__":
    main()
