"""Many training runs in one process: memory, open files and threads do not grow.

3000 runs; with ``--full``, one hour, or as many as FASTMLP_SOAK says: a number of runs, or seconds ("600 s").
"""

import ast
import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

# Bytes that a training run may add. Few runs cannot distinguish a small leak from a growing allocator, but show a
# leak of a parameter vector (19 KB); many runs show a leak of a history.
MOST, MOST_OF_MANY, MANY = 5000, 50, 10_000

SOAK = """
import array, os, sys, tempfile, time
sys.path.insert(0, {tests!r})
import numpy as np, fastmlp
from small import X, Y, held_out

def refuse(epoch, history):
    raise KeyError("the caller's")

def plain(m):
    fit(X[:, :m], Y[:m], validation=held_out, patience=2)

def packed(m):
    fit(fastmlp.pack((X[:, :m] * 255).astype(np.uint8), scale=1 / 255), Y[:m], dtype="float32")

def with_threads(m):
    with fastmlp.use_threads(1 + m % 2):
        fit(np.asfortranarray(X[:, :m]), fastmlp.one_hot(Y[:m], 4), class_weight={{1: 2.5}})

def on_numpy(m):
    with fastmlp.use_backend("numpy"):
        fit(X[:, :m], Y[:m])

def saved(m):
    fit(X[:, :m], Y[:m], checkpoint=path)
    model = fit(X[:, :m], Y[:m], epochs=5, checkpoint=path, resume=True)
    model.save(path)
    fastmlp.MLP.load(path).predict(X)
    os.unlink(path)

def failing(m):
    for error, options in ((KeyError, dict(callback=refuse)), (FloatingPointError, dict(alpha=1e308))):
        try:
            fit(X[:, :m], Y[:m], **options)
        except error:
            continue
        raise AssertionError(error)

def wide(m):
    fit(np.ones((12, 22_000 + m)), np.arange(22_000 + m) % 4)

def fit(x, y, dtype="float64", **options):
    model = fastmlp.MLP((12, 140, 4), dtype=dtype)
    model.fit(x, y, **{{"epochs": 3, **options}})
    return model

def state():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGESIZE"), len(os.listdir("/proc/self/fd")), threads()

def threads(least=[10**9]):
    "Return how many there are once those of the last training are gone: they end on their own."
    for wait in range(100):
        now = len(os.listdir("/proc/self/task"))
        least[0] = min(least[0], now)
        if now == least[0]:
            break
        time.sleep(0.005)
    return now

kinds, fits = [plain, packed, with_threads, on_numpy, failing] * 6 + [saved], 0
states = array.array("q")  # a list of tuples would itself grow with every run
path = os.path.join(tempfile.mkdtemp(), "file")
wide(0)  # launches the threads
end = time.monotonic() + {seconds}
while fits < {fits} and time.monotonic() < end:
    kinds[fits % len(kinds)](20 + 7 * (fits % 31))
    if fits % 100 == 99:
        wide(fits % 7)
    fits += 1
    if fits % 5 == 0:
        states.extend((fits, *state()))
print(states.tolist())
"""


@pytest.fixture
def extent(request):
    """Return the number of training runs, and the largest number of seconds."""
    if not request.config.getoption("--full"):
        return 3000, 600
    wanted = os.environ.get("FASTMLP_SOAK", "3600 s")
    return (10**9, float(wanted.removesuffix("s"))) if wanted.endswith("s") else (int(wanted), 10**6)


def test_memory_files_and_threads_stay_flat(run_python, extent):
    fits, seconds = extent
    code = SOAK.format(tests=str(Path(__file__).parent), fits=fits, seconds=seconds)
    # One arena: each of glibc's sixteen would grow separately until threads have used it often enough.
    env = {"NUMBA_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "MALLOC_ARENA_MAX": "1"}
    states = np.array(ast.literal_eval(run_python(code, env=env, timeout=seconds + 600).stdout)).reshape(-1, 4)
    done, memory, files, threads = states[len(states) // 2 :].T  # the first half is the warm-up
    slope = np.polyfit(done, memory, 1)[0]
    flat = f"files {set(files.tolist())}, threads {set(threads.tolist())}"
    print(f"{done[-1]} training runs: {slope:+.1f} bytes each, {flat}")  # noqa: T201
    assert slope < (MOST_OF_MANY if done[-1] >= MANY else MOST)
    assert len(set(files)) == 1
    assert len(set(threads)) == 1
