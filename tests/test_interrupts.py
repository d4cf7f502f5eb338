"""Exceptions from signal handlers at any moment: the state of process and model stays consistent."""

import os
import re
import sys
from pathlib import Path

import pytest
from conftest import BACKENDS

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

STORM = f"""
import os, random, signal, sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np, fastmlp
from threadpoolctl import ThreadpoolController
from small import X, Y, held_out, model, schedule
class Struck(Exception):
    pass
def strike(number, frame):
    raise Struck
signal.signal(signal.SIGALRM, strike)
rng, libraries = random.Random(0), ThreadpoolController()
def state():
    blas = [one.num_threads for one in libraries.lib_controllers if one.user_api == "blas"]
    numba = sys.modules.get("numba")
    threads = numba.get_num_threads() if numba else None
    return blas, threads, np.geterr(), signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)
def struck(call, longest):
    "Call with one signal on its way, and return whether it struck."
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, longest))
        call()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Struck:
        return True
    return False
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exception_at_any_moment_leaves_the_process_as_it_was(run_python, backend, threads):
    """Checks thread counts of BLAS and Numba, NumPy's error state and signal handlers after hundreds of signals."""
    code = f"""{STORM}
fastmlp.set_backend({backend!r})
fastmlp.set_num_threads({threads})
net, P = model(), fastmlp.pack(X)
y = fastmlp.one_hot(Y, 4)
W, b = net.weights, net.biases
A1, Z1, A2, Z2 = fastmlp.Forwardprop(X, *W, *b)
calls = [
    lambda: net.predict(X), lambda: net.predict_proba(P), lambda: net.evaluate(X, Y), lambda: net.loss_and_grad(P, Y),
    lambda: fastmlp.pack(X, dtype="float32"), lambda: P.to_dense(), lambda: fastmlp.one_hot(Y, 4),
    lambda: fastmlp.ReLU(X), lambda: fastmlp.Softmax(X), lambda: fastmlp.Forwardprop(X, *W, *b),
    lambda: fastmlp.compute_cost(A2, y), lambda: fastmlp.backward_prop(Z1, A1, Z2, A2, *W, X, y),
    lambda: fastmlp.update_params(W[0], b[0], W[1], b[1], W[0], b[0], W[1], b[1], 1e300),
    lambda: model().fit(X, Y, epochs=3, alpha=schedule, validation=held_out, callback=lambda *_: None),
]
for call in calls:
    call()
before, strikes = state(), 0
for turn in range(40):
    for number, call in enumerate(calls):
        strikes += struck(call, 4e-4 if number < len(calls) - 1 else 4e-3)
        assert state() == before, (turn, number, state(), before)
assert strikes > 100, strikes
from fastmlp import interrupts
assert not interrupts._running
"""
    run_python(code, env={"OPENBLAS_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "3"})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_storm_of_signals_leaves_the_process_as_it_was(run_python, backend):
    """More signals arrive while the first is handled; once all threads have ended, no change is left."""
    code = f"""{STORM}
fastmlp.set_backend({backend!r})
fastmlp.set_num_threads(1)
net = model()
import time
from fastmlp import interrupts
def settle():
    while interrupts._running:
        time.sleep(0.001)
calls = [lambda: net.predict(X), lambda: net.evaluate(X, Y), lambda: model().fit(X, Y, epochs=20, validation=held_out)]
for call in calls:
    call()
before, strikes = state(), 0
for turn in range(150):
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1e-3), rng.uniform(2e-4, 2e-3))
        calls[turn % 3]()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Struck:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Struck:
            signal.setitimer(signal.ITIMER_REAL, 0)
        strikes += 1
    settle()
    assert state() == before, (turn, state(), before)
assert strikes > 50, strikes
"""
    run_python(code, env={"OPENBLAS_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "3"})


@pytest.mark.parametrize("backend", BACKENDS)
def test_sigterm_at_any_moment_leaves_a_checkpoint_that_resumes_to_the_same_bits(run_python, backend, tmp_path):
    """A handler that calls sys.exit, as in servers, and a caller that catches the exit."""
    code = f"""{STORM}
from fastmlp import storage
fastmlp.set_backend({backend!r})
path = {str(tmp_path / "run.ckpt")!r}
signal.signal(signal.SIGALRM, lambda *_: sys.exit(7))
undisturbed, keep = [model().parameters.copy()], model()
keep.fit(X, Y, epochs=400, alpha=schedule, callback=lambda *_: undisturbed.append(keep.parameters.copy()))
model().fit(X, Y, epochs=1, checkpoint=path)
exits, epochs = 0, set()
for trial in range(60):
    net = model()
    os.unlink(path)
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-3, 0.1))
        net.fit(X, Y, epochs=10**9, alpha=schedule, checkpoint=path, checkpoint_every=trial % 2 * 0.003)
    except SystemExit as error:
        assert error.code == 7
        exits += 1
    if not os.path.exists(path):  # the signal came before the training began
        net.fit(X, Y, epochs=1, alpha=schedule, checkpoint=path)
    record = storage.load(path)
    done = int(record.facts["epoch"])
    if done <= 400:
        assert record.parameters.tobytes() == net.parameters.tobytes() == undisturbed[done].tobytes(), done
        epochs.add(done)
assert exits == 60
assert len(epochs) > 3, epochs
"""
    run_python(code)


@pytest.mark.numba
def test_ctrl_c_while_kernels_compile_is_answered_at_once_and_leaves_a_compiler_that_works(run_python, cold_package):
    """The interrupt comes while the kernel is being compiled; a second call gives the right result."""
    code = """
import os, signal, threading, time
import numpy as np, fastmlp
from fastmlp import backend, interrupts
fastmlp.get_backend()
x = np.random.default_rng(0).random((6, 2000))
y = np.arange(2000) % 3
net = fastmlp.MLP((6, 5, 3))
def strike():
    while not backend.preparation()[1] > 0.2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
for call in (lambda: fastmlp.pack(x), lambda: net.loss_and_grad(x, y)):
    thread = threading.Thread(target=strike)
    thread.start()
    try:
        call()
        raise AssertionError("not interrupted")
    except KeyboardInterrupt:
        assert backend.preparation()[1] > 0, "only after the compiler was done"
    thread.join()
    while interrupts._running:
        time.sleep(0.01)
loss, grad = net.loss_and_grad(x, y)
with fastmlp.use_backend("numpy"):
    expected_loss, expected = net.loss_and_grad(x, y)
assert abs(loss - expected_loss) < 1e-12 and np.abs(grad - expected).max() < 1e-12
"""
    run_python(code, env={"PYTHONPATH": str(cold_package.parent)})


@pytest.mark.numba
def test_ctrl_c_while_fit_compiles_is_acknowledged(run_python, cold_package):
    """It stops once the kernels are compiled, with a history and no traceback; standard error announces the wait."""
    code = """
import os, signal, threading, time
import numpy as np, fastmlp
from fastmlp import backend
x = np.random.default_rng(0).random((6, 2000))
y = np.arange(2000) % 3
net, packed = fastmlp.MLP((6, 5, 3)), fastmlp.pack(x)
def strike():
    while not backend.preparation()[1] > 0.2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=strike).start()
history = net.fit(packed, y, epochs=10**6)
assert history.stopped == "interrupt" and len(history) <= 1
assert net.fit(packed, y, epochs=2).epoch == [1, 2]
assert sum(history.seconds) < backend.preparation()[0] / 10, "an epoch counts the compiler's time"
"""
    result = run_python(code, env={"PYTHONPATH": str(cold_package.parent)})
    assert "fastmlp: stopping after this epoch" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.numba
def test_the_compiler_is_announced_where_somebody_waits(cold_package):
    """It is announced on a terminal before it begins, once per process, and not if everything is compiled."""
    import pty
    import subprocess

    code = "import fastmlp; fastmlp.ReLU([1.0]); fastmlp.Softmax([1.0])"
    environment = {**os.environ, "PYTHONPATH": str(cold_package.parent), "PYTHONSAFEPATH": "1"}
    shown = []
    for _ in range(2):
        controller, terminal = pty.openpty()
        subprocess.run([sys.executable, "-c", code], stderr=terminal, env=environment, check=True, timeout=240)
        os.write(terminal, b"end")
        os.close(terminal)
        text = ""
        while not text.endswith("end"):  # one read may not return all that was written
            text += os.read(controller, 10_000).decode()
        shown.append(text)
        os.close(controller)
    first, *more = re.split(r"[\r\n]+", shown[0])
    assert first == "fastmlp: compiling kernels, once on this machine, about 15 s"
    assert more[-1] == "end"
    assert all(re.fullmatch(re.escape(first) + r": \d+ s", one) for one in more[:-1])
    assert shown[1] == "end"
    quiet = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True, timeout=240)
    assert quiet.stderr == b""


def test_first_calls_from_many_threads_at_once(run_python):
    """In a thread pool at the start of a program, the first thread imports and compiles, and the others wait."""
    code = """
import threading
import numpy as np, fastmlp
barrier, results = threading.Barrier(16), []
def first(number):
    x = np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3)
    barrier.wait()
    calls = (fastmlp.ReLU, fastmlp.Softmax, fastmlp.pack, lambda x: fastmlp.MLP((4, 2)).predict(x))
    results.append(calls[number % 4](x) is not None)
threads = [threading.Thread(target=first, args=(number,)) for number in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert results == [True] * 16, results
"""
    for _ in range(2):
        assert run_python(code).stderr == ""
