"""Packed files: memory while training on one, its time over a matrix in memory, and writing one over a plain copy.

``python -m benchmarks.packs`` writes images of MNIST, repeated up to ``--samples``, to a temporary folder, and prints a
table of the targets. Times are medians of pairs that are measured in turns, on at most 500 000 samples, whose files are
in the page cache. The folder, ``--folder``, needs 4 kB a sample. Needs the Numba backend, and for the memory Linux.

Exit status: 0 if all targets are reached, 1 if one is missed.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time

import numpy as np

import fastmlp
from benchmarks import problems
from benchmarks.scale import Target, table
from benchmarks.targets import child
from benchmarks.timing import ratio, seconds, settle

TIMED = 500_000
CHUNK = 1 << 24

_TRAINING = """
import sys
import numpy as np
import fastmlp
fastmlp.set_backend("numba")
P = fastmlp.open_pack(sys.argv[1])
def kilobytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))
few = fastmlp.pack(np.ones((P.shape[0], 5000), np.uint8), scale=1/255)
fastmlp.MLP((784, 128, 10)).fit(few, np.zeros(5000, np.uint8), epochs=1)  # compiles
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")  # resets the high-water mark to the current size
before = kilobytes("VmHWM")
labels = np.arange(P.shape[1]) % 10
history = fastmlp.MLP((784, 128, 10)).fit(P, labels, epochs=2)
print((kilobytes("VmHWM") - before) * 1024 / 1e6, min(history.seconds) / P.shape[1])
"""


def write_source(path, m):
    """Write m images as a .npy file of columns, and return the labels."""
    codes, labels, name = problems.image_codes(min(m, 60_000))
    out = np.lib.format.open_memmap(path, "w+", np.uint8, (len(codes), m), fortran_order=True)
    for first in range(0, m, codes.shape[1]):
        out[:, first : first + codes.shape[1]] = codes[:, : m - first]
    out.flush()
    print(f"{m} samples of {len(codes)} bytes, {name}: {m * len(codes) / 1e9:.2f} GB")
    return np.resize(labels, m)


def copy(source, target):
    """Copy a file, to the disk, as `fastmlp.pack` writes there."""
    with open(source, "rb") as given, open(target, "wb") as taken:
        shutil.copyfileobj(given, taken, CHUNK)
        taken.flush()
        os.fsync(taken.fileno())
    os.unlink(target)


def writing(folder, rounds):
    """Return the time of writing a pack over that of a plain copy of the source."""
    source, target = f"{folder}/source.npy", f"{folder}/other"

    def pack():
        fastmlp.pack(source, scale=1 / 255, path=target)
        os.unlink(target)

    ratios = []
    for _ in range(rounds):
        copied = seconds(lambda: copy(source, target))
        settle()
        before = time.process_time()
        packed = seconds(pack)
        work = time.process_time() - before
        ratios.append(packed / copied)
        print(f"    writing: {copied:.2f} s to copy, {packed:.2f} s to pack, {work:.2f} s of CPU time", flush=True)
    return statistics.median(ratios)


def mapped(folder, labels, rounds):
    """Return the time of a step from a pack, a few blocks of which are mapped, over that of a step in memory."""
    path = f"{folder}/train.pack"
    whole = fastmlp.pack(f"{folder}/source.npy", scale=1 / 255, path=path)
    few = fastmlp.open_pack(path, 2 * whole._file.longest)
    held = fastmlp.pack(np.load(f"{folder}/source.npy"), scale=1 / 255)
    model = fastmlp.MLP((784, 128, 10), seed=0)
    steps = [problems.packed_step(model, x, labels) for x in (few, held)]
    loss = [model.loss_and_grad(x, labels)[1].tobytes() for x in (few, held)]
    if loss[0] != loss[1]:
        raise AssertionError("the pack gives another gradient: not timed")
    return ratio(*steps, rounds=rounds)


def memory(folder):
    """Return the megabytes beyond the program, and the seconds of a sample."""
    return map(float, child(_TRAINING, f"{folder}/train.pack").split())


def main(words=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packs", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--samples", type=int, default=5_000_000, help="while memory is measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="20 000 samples, one round: a test run, not a measurement")
    parser.add_argument("--folder", metavar="DIR", help="where to write; else the folder for temporary files")
    options = parser.parse_args(words)
    if options.quick:
        options.samples, options.rounds = 20_000, 1
    fastmlp.set_backend("numba")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        timed = min(options.samples, TIMED)
        free = shutil.disk_usage(folder).free
        if free < 4000 * options.samples:
            raise SystemExit(f"benchmarks.packs: {free / 1e9:.0f} GB are free: choose fewer --samples, or a --folder")
        labels = write_source(f"{folder}/source.npy", timed)
        measured = [writing(folder, options.rounds), mapped(folder, labels, options.rounds)]
        if options.samples > timed:
            write_source(f"{folder}/source.npy", options.samples)
            begun = time.perf_counter()
            fastmlp.pack(f"{folder}/source.npy", scale=1 / 255, path=f"{folder}/train.pack")
            print(f"    packed in {time.perf_counter() - begun:.1f} s", flush=True)
        size = os.path.getsize(f"{folder}/train.pack")
        megabytes, sample = memory(folder)
        print(f"    pack of {size / 1e9:.2f} GB; a step takes {sample * 1e6:.2f} µs a sample")
    targets = [
        Target("memory beyond the program, training from a pack, MB", 500, 200, megabytes, True),
        Target("time of a sample from a mapped pack over in memory, x", 1.1, 1.03, measured[1], True),
        Target("writing a pack over a plain copy of the source, x", 3, 1.5, measured[0], True),
    ]
    table(["figure", "required", "aim", "measured"],
          ([*one[:3], f"{one.measured:.2f}{'  missed' if one.missed else ''}"] for one in targets))  # fmt: skip
    return int(any(one.missed for one in targets) and not options.quick)


if __name__ == "__main__":
    sys.exit(main())
