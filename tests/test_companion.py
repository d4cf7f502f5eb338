"""The second process that compiles kernels ahead."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from fastmlp import companion

pytestmark = pytest.mark.numba

TRAINING = """
import numpy as np, fastmlp
model, x = fastmlp.MLP((5, 4, 3), dtype={dtype!r}), np.arange(5 * 3000, dtype=np.uint8).reshape(5, 3000)
{train}
model.evaluate(P, np.arange(3000) % 3)
from fastmlp.kernels import compiled
print(*sorted(name.replace(" ", "_") for name, (_, misses) in compiled.cache_statistics().items() if misses))
"""
FULL_BATCH = "P = fastmlp.pack(x, scale=1 / 255); model.fit(P, np.arange(3000) % 3, epochs=2, progress=False)"
NOTEBOOK = """
from fastmlp import *
import numpy as np
X, Y = np.random.default_rng(0).random((5, 3000)), one_hot(np.arange(3000) % 3)
W1, b1, W2, b2 = np.ones((4, 5)), np.ones((4, 1)), np.ones((10, 4)), np.ones((10, 1))
Z1, A1, Z2, A2 = Forwardprop(X, W1, W2, b1, b2)
compute_cost(A2, Y), ReLU(X)
gradients = backward_prop(Z1, A1, Z2, A2, W1, W2, X, Y)
update_params(W1, b1, W2, b2, *gradients)
from fastmlp.kernels import compiled
print(*sorted(name.replace(" ", "_") for name, (_, misses) in compiled.cache_statistics().items() if misses))
"""


@pytest.mark.parametrize(
    ("first", "dtype", "code", "left"),
    [
        ("_fill", "float32", TRAINING.format(dtype="float32", train=FULL_BATCH), {"_fill", "_survey"}),
        ("_one_hot", "float64", NOTEBOOK, {"_one_hot"}),
    ],
)
def test_what_a_companion_has_compiled_is_all_that_a_training_needs(run_python, tmp_path, first, dtype, code, left):
    env = {"NUMBA_CACHE_DIR": str(tmp_path)}
    work = "from fastmlp import companion; from fastmlp.kernels.compiled import ahead; companion.work"
    said = run_python(f"{work}({first!r}, {dtype!r}, ahead.settings())", env=env).stdout
    assert said.count("begun") == said.count("saved") >= 8
    missed = set(run_python(code, env=env).stdout.split())
    assert missed - {"shell", "parallel_shell"} <= left


@pytest.mark.parametrize(
    "change",
    [
        "tuning.SAMPLE_TILE = 480",
        "target.GROUP = 5",
        "internals.missing.append('x')",
        "internals.CODE_FLAGS = ()",
    ],
)
def test_a_companion_with_other_settings_compiles_nothing(run_python, change):
    """Its code would be run by a process that lays out memory in another way."""
    code = f"""
from fastmlp import companion
from fastmlp.kernels import internals
from fastmlp.kernels.compiled import ahead, tuning
from fastmlp.kernels.vector import target
settings = ahead.settings()
{change}
ahead.work_ahead = print
companion.work("_fill", "float64", settings)
"""
    assert not run_python(code).stdout


def test_the_first_kernels_are_those_that_have_plans():
    from fastmlp.kernels.compiled.ahead import PLANS

    assert set(PLANS) == set(companion.FIRST)


@pytest.mark.parametrize(
    "code",
    [
        "import os, signal; print('begun all', flush=True); os.kill(os.getpid(), signal.SIGTERM)",
        "raise SystemExit(3)",
        "print('nonsense ' * 1000, flush=True)",
        "print('begun everything', flush=True); print('saved everything', flush=True)",
    ],
)
def test_a_companion_that_fails_or_lies_changes_no_result(run_python, tmp_path, code):
    run_python(
        f"""
import numpy as np, fastmlp
from fastmlp import companion
companion._CODE = {code!r}
fastmlp.one_hot(np.array([1, 0]))
assert not companion._companion.wanted
assert fastmlp.Softmax(np.zeros((2, 1))).tolist() == [[0.5], [0.5]]
""",
        env={"NUMBA_CACHE_DIR": str(tmp_path)},
    )


def test_a_cold_cache_starts_a_companion_that_works(run_python, tmp_path):
    code = """
import numpy as np, fastmlp
import time
from fastmlp import companion
fastmlp.one_hot(np.array([1, 0]))
started, end = companion._companion, time.monotonic() + 300
while not started._begun and not started._ended and time.monotonic() < end:
    started._read()
    time.sleep(0.01)
assert any(key.startswith("pack_parameters-") for key in started._begun), (started._begun, started._ended)
"""
    run_python(code, env={"NUMBA_CACHE_DIR": str(tmp_path)})


def test_a_warm_cache_starts_no_companion(run_python):
    code = "import numpy as np, fastmlp; fastmlp.one_hot(np.array([1, 0]))\n"
    run_python(code)
    run_python(code + "from fastmlp import companion; assert companion._companion.wanted")


def test_a_kernel_is_awaited_only_while_the_companion_is_at_it():
    one = companion._Companion()
    one.wanted = False
    assert not one.missed("_outputs", "_outputs-1", "float32")
    one._lines.put("begun _outputs-1\n")
    threading.Timer(0.3, one._lines.put, ("saved _outputs-1\n",)).start()
    assert one.missed("_outputs", "_outputs-1", "float32")
    assert not one.missed("_outputs", "_outputs-2", "float64")
    one._lines.put("begun _outputs-2\n")
    threading.Timer(0.3, one._lines.put, ("",)).start()  # it has ended
    assert not one.missed("_outputs", "_outputs-2", "float64")


def test_what_is_compiled_while_a_kernel_is_awaited_is_what_a_step_needs(run_python, tmp_path):
    code = """
import numpy as np, fastmlp
from fastmlp import companion
from fastmlp.kernels import compiled
companion._companion.wanted = False
packed = fastmlp.pack(np.eye(5, 3000, dtype=np.uint8))  # attaches the backend
one = companion._Companion()
one.wanted = False
one._lines.put("begun _accumulate-1\\n")
one._lines.put("saved _accumulate-1\\n")
one._read = lambda: one._take(one._lines.get())
assert one.missed("_accumulate", "_accumulate-1", "float32")
before = compiled.cache_statistics()["unpack_gradient"]
fastmlp.MLP((5, 4, 3), dtype="float32").loss_and_grad(packed, np.arange(3000) % 3)
assert before == compiled.cache_statistics()["unpack_gradient"] == (0, 1), before
"""
    run_python(code, env={"NUMBA_CACHE_DIR": str(tmp_path)})


@pytest.mark.parametrize("helped", [False, True])
def test_a_kernel_begins_with_what_no_companion_compiles(compiled, monkeypatch, helped):
    """Its body is first, so that a companion is started, or awaited last."""
    launch, order = compiled.launch, []
    monkeypatch.setattr(launch, "_shell_of", lambda types: order.append("shell") or len)
    monkeypatch.setattr(launch, "address_of", lambda body, types: order.append("body") or 1)
    monkeypatch.setattr(launch.HOST, "helped", lambda: helped)
    launch.KERNELS["_one_hot"]._compile((np.zeros((1, 1)), np.zeros(1, int)))
    assert order == (["shell", "body"] if helped else ["body", "shell"])


def test_a_companion_helps_from_its_start_to_its_end(monkeypatch):
    one = companion._Companion()
    assert not one.is_at_work
    monkeypatch.setattr(companion, "_CODE", "import time; time.sleep(0.1)")
    one._start("_fill", "float64")
    assert one.is_at_work
    one._take(one._lines.get(timeout=60))
    assert not one.is_at_work


def test_a_companion_ends_soon_after_the_process_that_started_it(tmp_path):
    code = """
import os, numpy as np, fastmlp
from fastmlp import companion
started = companion.subprocess.Popen
def popen(*args, **kwargs):
    process = started(*args, **kwargs)
    print(process.pid, flush=True)
    os._exit(0)
companion.subprocess.Popen = popen
fastmlp.one_hot(np.array([1, 0]))
"""
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=300
    )
    pid = int(done.stdout)
    ended = threading.Event()
    for _ in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        ended.wait(0.1)
    pytest.fail("it still runs")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_does_not_wait_for_the_companion_of_its_parent(run_python):
    """Nobody hears in the child what the companion tells."""
    run_python(
        """
import math, os
from fastmlp import companion
companion._PATIENCE = math.inf
companion._companion.wanted = False
companion._companion._begun.add("key")
pid = os.fork()
if pid == 0:
    os._exit(int(companion.missed("_one_hot", "key", "float64")))
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
""",
        timeout=60,
    )
