"""A model of how training on the full batch scales over the ranks of MPI, and the measurements behind it.

``python -m benchmarks.scale`` starts processes with mpiexec, and prints the transport's latency and bandwidth, the
exchanges of a step, the targets of issue 21, and the predicted efficiency of 1 to 1000 ranks of 2 to 64 cores with its
formula. ``--bits`` adds the digests of models over ranks, threads and splits, and ``--peers`` the same job in PyTorch's
torch.distributed. Needs the extra ``mpi``, an mpiexec, and the Numba backend.

Exit status: 0 if all targets are reached, 1 if one is missed. Bits that differ are an error; and so are counts of
messages or bytes that differ from the formula.
"""

import argparse
import importlib.util
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastmlp.distributed import plans

SIZES, ITEM, NUMBERS_OF_A_LEAF = (784, 128, 10), 8, 3
RANKS, CORES = (1, 2, 4, 10, 32, 100, 320, 1000), (2, 4, 8, 16, 32, 64)
# Exchanges of a status, before each of the two exchanges of gradients and after the epoch, and the bytes of a status.
STATUSES, STATUS_BYTES, LARGE = 3, 16, 2

FORMULA = """\
T(P, c) = S + t leaf ceil(ceil(L / P) / c) + 5 o + a (3 ceil(log2 P) + 2 (P - 1)) + B(P) / b
    P ranks of c cores; L leaves of `leaf` samples, which are never divided; t seconds per sample on one core, and S per
    step besides; o and a: seconds of an exchange within a process, and for each message that follows another one;
    b: bytes per second that a rank receives; B(P): bytes that a rank receives in a step, below.
efficiency = T(1, 1) / (P c T(P, c)). Cores that share memory bandwidth, and ranks that others wait for, are left out.
B(P) = 48 (P - 1) + sum over the other ranks of (g / P) (nodes of the rank + 1) 8 + 24 (leaves of the rank)
    g numbers of a packed gradient; nodes: the largest subtrees of the summation tree that a rank's leaves make up."""


class Traffic(NamedTuple):
    """What a rank receives in a step."""

    exchanges: int
    messages: int
    received: int


class Problem(NamedTuple):
    """Samples, the samples of a leaf, and the numbers of a packed gradient."""

    m: int
    leaf: int
    numbers: int

    @property
    def leaves(self):
        return -(-self.m // self.leaf)


def problem(m):
    from fastmlp.kernels import compiled
    from fastmlp.kernels.compiled.plan import layer_plan
    from fastmlp.kernels.nets import relu_net

    plan = layer_plan(relu_net(SIZES), ITEM, 1, dense=False, plain=False)
    return Problem(m, compiled.leaf_size(m, SIZES[0]), plan.parameters)


def traffic(of, size):
    """Return by the formula what each of ``size`` ranks receives in a step on the full batch."""
    bounds = [-(-cut // of.leaf) for cut in plans.sample_cuts(of.m, of.leaf, size)]
    nodes = np.array([len(plans.nodes_of(*pair, of.leaves)) for pair in itertools.pairwise(bounds)])
    widths, leaves = np.diff(plans.cuts(of.numbers, size)), np.diff(bounds)
    found = []
    for rank, width in enumerate(widths.tolist()):
        slices, whole = width * nodes * ITEM + leaves * (NUMBERS_OF_A_LEAF * ITEM), widths * ITEM
        others = [np.delete(one, rank) for one in (slices, whole)]
        messages = STATUSES * (size - 1) + sum(int(np.count_nonzero(one)) for one in others)
        received = STATUSES * STATUS_BYTES * (size - 1) + sum(int(one.sum()) for one in others)
        found.append(Traffic(STATUSES + LARGE, messages, received))
    return found


class Machine(NamedTuple):
    """Seconds of a step besides its samples, of a sample, of an exchange, of a message; bytes per second."""

    step: float
    sample: float
    exchange: float
    message: float
    bandwidth: float


def seconds(machine, of, size, cores):
    """Return the predicted seconds of a step: `FORMULA`."""
    leaves = math.ceil(math.ceil(of.leaves / size) / cores)
    computed = machine.step + machine.sample * min(of.m, of.leaf * leaves)
    if size == 1:
        return computed
    follow = STATUSES * math.ceil(math.log2(size)) + LARGE * (size - 1)
    received = max(one.received for one in traffic(of, size))
    exchanged = (STATUSES + LARGE) * machine.exchange + follow * machine.message + received / machine.bandwidth
    return computed + exchanged


def efficiency(machine, of, size, cores):
    return seconds(machine, of, 1, 1) / (size * cores * seconds(machine, of, size, cores))


def find_mpiexec():
    """Return the path of mpiexec: that beside Python first, which is that of a wheel."""
    path = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if path is None:
        raise SystemExit("benchmarks.scale: no mpiexec: install an MPI, such as the package mpich")
    return path


def launched(job, ranks, threads=1, **words):
    """Run a job of `benchmarks.scale_ranks` and return what its first process prints."""
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": paths, "FASTMLP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": "2"}
    command = [find_mpiexec(), "-n", str(ranks), sys.executable, "-m", "benchmarks.scale_ranks", job]
    done = subprocess.run([*command, json.dumps(words)], env=env, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def table(titles, rows):
    print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def of_transport(count):
    """Measure, print and return the seconds of an exchange in a process, of a message, and the bytes per second."""
    found = {ranks: launched("transport", ranks, count=count) for ranks in (1, 2, 4)}
    cores, rows = len(os.sched_getaffinity(0)), []
    for ranks, one in found.items():
        rate = (ranks - 1) * 2**20 / (one["many"] - one["few"]) / 1e9 if ranks > 1 else math.nan
        note = f"more ranks than the {cores} cores" if ranks > cores else ""
        rows.append([ranks, f"{one['few'] * 1e6:.1f}", f"{rate:.2f}" if ranks > 1 else "", note])
    table(["ranks", "exchange of a status, µs", "received by a rank, GB/s", ""], rows)
    few, many = found[2]["few"], found[2]["many"]
    return found[1]["few"], max(few - found[1]["few"], 1e-7), 2**20 / (many - few)


def of_steps(scale):
    """Measure one rank alone, and two together; print the traffic; return the seconds and the shares of waiting."""
    of, rounds = problem(scale.m), scale.rounds
    whole, quarter = launched("alone", 1, m=scale.m, steps=scale.steps, rounds=rounds)
    threaded = launched("alone", 1, 2, m=scale.m, steps=scale.steps, rounds=rounds)[0]
    pairs, rows = {}, []
    for ranks in (2, 3):
        found = launched("together", ranks, m=scale.m, steps=scale.steps, rounds=rounds)
        steps = np.array(found["together"]).transpose(1, 0, 2, 3).reshape(ranks, -1, 5)
        pairs[ranks] = np.array(found["alone"]), steps
        for rank, (counted, formula) in enumerate(zip(steps[:, :, 2:], traffic(of, ranks), strict=True)):
            if (counted != formula).any():
                raise AssertionError(f"rank {rank} of {ranks} received {counted[0]}, by the formula {formula}")
            rows.append([f"{rank} of {ranks}", *formula])
    print(f"\nReceived in a step on {of.m} samples, {of.leaves} leaves: counted, and the same by the formula")
    table(["rank", "exchanges", "messages", "bytes"], rows)
    return (whole, quarter, threaded), pairs[2]


class Target(NamedTuple):
    """A figure: required and aimed at, and measured; at most, if ``at_most``."""

    name: str
    required: float
    aim: float
    measured: float
    at_most: bool

    @property
    def missed(self):
        return self.measured > self.required if self.at_most else self.measured < self.required


def of_pair(alone, steps):
    """Return the targets of two ranks: medians over steps, and the ratio's over rounds."""
    shares = 100 * steps[:, :, 1] / steps[:, :, 0]
    share, least = np.median(shares, axis=1).max(), np.percentile(shares, 10, axis=1).max()
    print(f"\nCommunication and waiting: {least:.1f} % in the tenth of the steps that other load disturbed least\n")
    rounds = np.median(alone, axis=1), np.median(steps[0, :, 0].reshape(len(alone), -1), axis=1)
    ratio = statistics.median(np.divide(*rounds))
    return [
        Target("communication and waiting, share of a step, %", 8, 3, share, True),
        Target("2 ranks of 1 thread over 1 rank of 1 thread, x", 1.8, 1.95, ratio, False),
    ]


def predict(machine, m):
    """Print the predicted efficiency of ranks and cores."""
    of = problem(m)
    print(f"\nPredicted efficiency, %, for {m} samples in {of.leaves} leaves; 784-128-10, float64, full batch")
    cells = ([f"{100 * efficiency(machine, of, size, cores):.0f}" for cores in CORES] for size in RANKS)
    table(
        ["ranks", *(f"{cores} cores" for cores in CORES)],
        ([size, *row] for size, row in zip(RANKS, cells, strict=True)),
    )


def of_bits(scale):
    """Print digests over ranks, threads and splits; raise AssertionError if any differs."""
    print("\nDigests of the models and records, full batch and minibatches of 128")
    every, rows = set(), []
    for ranks, threads in itertools.product((1, 2, 3, 4, 7), (1, 2)):
        found = launched("bits", ranks, threads, m=scale.bits, steps=3)
        every |= {one for of_ranks in found.values() for one in of_ranks}
        rows.append([ranks, threads, *(", ".join(sorted({one[:12] for one in some})) for some in found.values())])
    table(["ranks", "threads", *found], rows)
    print("equal" if len(every) == 1 else "DIFFERENT")
    if len(every) > 1:
        raise AssertionError(f"{len(every)} different models")


class Scale(NamedTuple):
    """Samples of a step, steps of a round, rounds, exchanges of a timing, samples of the digests."""

    m: int
    steps: int
    rounds: int
    exchanges: int
    bits: int


FULL, QUICK = Scale(60_000, 8, 5, 30, 12_000), Scale(6000, 3, 2, 3, 3000)


def main(words=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--latency", type=float, metavar="US", help="of a message of the network; else as measured here"
    )
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="of each rank; else as measured here")
    parser.add_argument("--samples", type=int, default=5_000_000, help="of the prediction")
    parser.add_argument("--bits", action="store_true", help="also compare models over ranks, threads and splits")
    parser.add_argument("--peers", action="store_true", help="also measure torch.distributed with gloo")
    parser.add_argument("--quick", action="store_true", help="little data: a test run, not a measurement")
    options = parser.parse_args(words)
    if importlib.util.find_spec("mpi4py") is None:
        raise SystemExit("benchmarks.scale: mpi4py is not installed: python -m pip install mpi4py mpich")
    scale = QUICK if options.quick else FULL
    print(f"{os.cpu_count()} cores; load average {os.getloadavg()[0]:.1f} before the first measurement")
    exchange, message, bandwidth = of_transport(scale.exchanges)
    (whole, quarter, threaded), (alone, steps) = of_steps(scale)
    sample = max((whole - quarter) / (scale.m - scale.m // 4), 1e-12)
    here = Machine(max(whole - sample * scale.m, 0.0), sample, exchange, message, bandwidth)
    of, together = problem(scale.m), statistics.median(steps[0, :, 0])
    print("\nA step, ms: predicted and measured")
    rows = [(1, 1, statistics.median(alone.reshape(-1))), (1, 2, threaded), (2, 1, together)]
    table(["ranks", "threads", "predicted", "measured"],
          ([p, c, f"{seconds(here, of, p, c) * 1e3:.2f}", f"{t * 1e3:.2f}"] for p, c, t in rows))  # fmt: skip
    targets = of_pair(alone, steps)
    table(["figure", "required", "aim", "measured"],
          ([*one[:3], f"{one.measured:.2f}{'  missed' if one.missed else ''}"] for one in targets))  # fmt: skip
    there = here._replace(
        message=here.message if options.latency is None else options.latency * 1e-6,
        bandwidth=here.bandwidth if options.bandwidth is None else options.bandwidth * 1e9,
    )
    print(f"\n{FORMULA}\nS = {there.step * 1e3:.2f} ms, t = {there.sample * 1e6:.3f} µs", end=", ")
    print(f"o = {there.exchange * 1e6:.1f} µs, a = {there.message * 1e6:.1f} µs, b = {there.bandwidth / 1e9:.2f} GB/s")
    predict(there, options.samples)
    if options.bits:
        of_bits(scale)
    if options.peers:
        from benchmarks import scale_peers

        scale_peers.report(scale.m, scale.steps, scale.rounds)
    return int(any(one.missed for one in targets) and not options.quick)


if __name__ == "__main__":
    sys.exit(main())
