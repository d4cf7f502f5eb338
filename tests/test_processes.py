"""Threads, forks, spawned processes, signals and exceptions, on each threading layer that Numba finds."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.numba

LAYERS = ["omp", "workqueue", "tbb"]
ENVIRONMENT = {"NUMBA_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@functools.cache
def problem_of(layer):
    """Return the reason why Numba cannot load a threading layer, or an empty string."""
    code = "from numba.np.ufunc.parallel import _launch_threads; _launch_threads()"
    environment = {**os.environ, **ENVIRONMENT, "NUMBA_THREADING_LAYER": layer}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return "" if result.returncode == 0 else f"no layer {layer}: {result.stderr.strip().splitlines()[-1]}"


@pytest.fixture(params=LAYERS)
def on_layer(request, run_python):
    """Return a function that runs code between two parallel training runs, which must give the same bits."""
    if problem_of(request.param):
        pytest.skip(problem_of(request.param))

    def run(code, before="", **env):
        whole = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
{before}
import fastmlp, numba
from wide import X, Y, model, train
alone = train()
assert numba.threading_layer() == {request.param!r}
{code}
assert train() == alone
"""
        env = {**ENVIRONMENT, "NUMBA_THREADING_LAYER": request.param, **env}
        return run_python(whole, env=env, timeout=120).stdout

    return run


def test_two_python_threads_at_once(on_layer):
    """Workqueue aborts if two threads enter it: the second must run the serial kernels, with the same bits."""
    on_layer("""
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    assert set(pool.map(train, range(12))) == {alone}
""")


FORK = """
def child(work):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() == alone else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, status
    return alone
def with_threads():
    with fastmlp.use_threads(2):
        return train()
"""


@fork
def test_a_child_forked_after_a_parallel_kernel(on_layer):
    """The omp layer would end such a child at its next launch."""
    on_layer(f"{FORK}\nfor work in (train, with_threads, lambda: child(train)):\n    child(work)")


@fork
def test_a_child_forked_after_a_parallel_kernel_of_the_user(on_layer):
    """It does not matter which library launched its threads first."""
    code = f"{FORK}\nchild(train)"
    on_layer(
        code,
        before=f"""
import numba
@numba.njit(parallel=True)
def user():
    total = 0.0
    for i in numba.prange(1000):
        total += i
    return total
import fastmlp
with fastmlp.use_threads(1):
    from wide import train
    alone = train()
user()
{code}
""",
    )


@fork
def test_a_child_forked_while_another_thread_trains(on_layer):
    """The child does not inherit locks that the other thread holds."""
    on_layer(f"""{FORK}
import threading
ending = threading.Event()
thread = threading.Thread(target=train, kwargs=dict(epochs=10**9, callback=lambda *_: ending.is_set()))
thread.start()
try:
    for _ in range(4):
        child(with_threads)
finally:
    ending.set()
    thread.join()
""")


@fork
@pytest.mark.parametrize("cold", [True, False])
def test_a_child_forked_while_another_thread_compiles_or_loads_kernels(run_python, cold_package, cold):
    """The fork waits for the compiler; otherwise the child would wait for the compiler's lock for ever."""
    code = """
import faulthandler, os, threading, time
import numpy as np, fastmlp
x = np.ones((6, 2000))
def work():
    return fastmlp.ReLU(x).sum() == 12000 and fastmlp.one_hot(np.arange(12) % 10).sum() == 12
def child():
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(100)  # says where it hangs
        os._exit(0 if work() else 1)
    for _ in range(1200):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(pid, 9)
    return "hangs"
def load():
    fastmlp.pack(x), fastmlp.Forwardprop(x, np.ones((3, 6)), np.ones((2, 3)), np.ones((3, 1)), np.ones((2, 1)))
thread = threading.Thread(target=load)
thread.start()
statuses = []
while thread.is_alive() or not statuses:
    time.sleep(0.02)
    statuses.append(child())
thread.join()
assert set(statuses) == {0}, statuses
"""
    run_python(code, env={"PYTHONPATH": str(cold_package.parent)} if cold else None, timeout=400)


@fork
def test_a_child_forked_while_numba_imports_a_module(run_python):
    """Numba asks NumPy for a module when it sees the first array; the child would wait for that import for ever."""
    run_python("""
import os, sys, threading, time
import numpy as np, fastmlp
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy.ma":
            importing.set()
            time.sleep(1)
importing = threading.Event()
sys.meta_path.insert(0, Slow())
x = np.ones((6, 2000))
thread = threading.Thread(target=fastmlp.ReLU, args=(x,))
thread.start()
while thread.is_alive() and not importing.is_set():
    time.sleep(0.001)
pid = os.fork()
if pid == 0:
    os._exit(0 if fastmlp.ReLU(x).sum() == 12000 else 1)
thread.join()
for _ in range(600):
    ended, status = os.waitpid(pid, os.WNOHANG)
    if ended:
        break
    time.sleep(0.1)
else:
    os.kill(pid, 9)
assert ended and status == 0, (ended, status)
""")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_of_multiprocessing(on_layer, method):
    on_layer(f"""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
if {method!r} in multiprocessing.get_all_start_methods():
    with ProcessPoolExecutor(2, multiprocessing.get_context({method!r})) as pool:
        assert set(pool.map(train, range(2))) == {{alone}}
""")


@pytest.mark.parametrize("prefer", ["threads", "processes"])
def test_joblib(on_layer, prefer):
    pytest.importorskip("joblib")
    on_layer(f"""
import joblib
assert set(joblib.Parallel(2, prefer={prefer!r})(joblib.delayed(train)(i) for i in range(3))) == {{alone}}
""")


def test_trainings_nested_in_callbacks_schedules_and_threads(on_layer):
    on_layer("""
from concurrent.futures import ThreadPoolExecutor
inner = []
def innermost(epoch, history):
    inner.append(train())
def nested(epoch, history):
    inner.append(train(callback=innermost if epoch == 1 else None))
def schedule(epoch):
    inner.append(train())
    return 0.1
def in_threads(epoch, history):
    inner.extend(pool.map(train, range(2)))
with ThreadPoolExecutor(2) as pool, fastmlp.use_threads(2):
    for options in (dict(callback=nested), dict(alpha=schedule), dict(callback=in_threads)):
        assert train(**options) == alone
assert set(inner) == {alone} and len(inner) == 20
""")


@posix
def test_ctrl_c_in_the_middle_of_a_parallel_training(on_layer):
    """Training stops between two epochs of an undisturbed run; other calls raise Python's KeyboardInterrupt."""
    printed = on_layer("""
import random, signal, threading
rng, net = random.Random(0), model()
undisturbed = [net.parameters.tobytes()]
net.fit(X, Y, epochs=40, callback=lambda *_: undisturbed.append(net.parameters.tobytes()))
def struck(call, *arguments, **options):
    timer = threading.Timer(rng.uniform(0.005, 0.08), os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        while True:
            result = call(*arguments, **options)
            if options:
                return result
    except KeyboardInterrupt:
        return None
P, stops = fastmlp.pack(X), set()
for _ in range(8):
    net = model()
    history = struck(net.fit, P, Y, epochs=10**9)
    if history is None:  # the signal came before the training began
        continue
    assert history.stopped == "interrupt"
    stops.add(len(history))
    if len(history) <= 40:
        assert net.parameters.tobytes() == undisturbed[len(history)]
    assert struck(net.loss_and_grad, X, Y) is None
    assert struck(fastmlp.Softmax, X) is None
assert len(stops) > 1, stops
print("struck")
""")
    assert printed == "struck\n"


def test_thread_counts_are_restored_after_an_exception(on_layer):
    on_layer("""
from fastmlp.threads import blas
def counts():
    return numba.get_num_threads(), {library["num_threads"] for library in blas().info()}
def refuse(epoch, history):
    raise KeyError("the caller's")
def attempt(error, **options):
    net = model()
    try:
        net.fit(X, Y, **options)
    except error:
        assert counts() == before, counts()
    else:
        raise AssertionError(error)
before = counts()
for n in (1, 2):
    with fastmlp.use_threads(n):
        attempt(FloatingPointError, alpha=lambda epoch: 0.1 if epoch < 3 else 1e308)
        attempt(KeyError, callback=refuse)
        attempt(ValueError, alpha=lambda epoch: -1)
""")
