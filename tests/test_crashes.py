"""The four ways in which Numba kernels can end a process or lie, each guarded, each tried in its own process."""

import os

import pytest

import fastmlp

pytestmark = pytest.mark.numba

BIG_NET = """
import numpy as np, fastmlp
rng = np.random.default_rng(0)
X, Y = rng.standard_normal((16, 40_000)), rng.integers(3, size=40_000)
def train():
    model = fastmlp.MLP((16, 32, 3))
    model.fit(X, Y, epochs=4, alpha=0.1)
    return model.parameters.tobytes()
"""


@pytest.mark.parametrize("layer", ["workqueue", "omp"])
def test_two_python_threads_at_once(run_python, layer):
    """Workqueue aborts the process when two threads enter it: the second runs the serial shells, with the same bits."""
    code = f"""
{BIG_NET}
from concurrent.futures import ThreadPoolExecutor
alone = train()
with ThreadPoolExecutor(4) as pool:
    assert set(pool.map(lambda _: train(), range(12))) == {{alone}}
"""
    env = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}
    run_python(code, env=env)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("layer", ["workqueue", "omp"])
@pytest.mark.parametrize("first", ["train()", "user()"])
def test_a_child_forked_after_a_parallel_kernel(run_python, layer, first):
    """The omp layer ends such a child at its next launch, whoever launched first."""
    code = f"""
{BIG_NET}
import os, numba
@numba.njit(parallel=True)
def user():
    total = 0.0
    for i in numba.prange(1000):
        total += i
    return total
expected = None
fastmlp.warmup()
{first}
child = os.fork()
if child == 0:
    train()
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
train()
"""
    env = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore"}
    run_python(code, env=env, timeout=120)


def test_bad_labels_and_shapes_reach_no_kernel(run_python):
    """A kernel that met them would write out of bounds."""
    code = """
import numpy as np, fastmlp
model = fastmlp.MLP((4, 3, 2))
X = np.ones((4, 5))
def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (ValueError, TypeError):
        return
    raise AssertionError(args)
for label in (-1, 2, 10**6, 2**62):
    refused(model.loss_and_grad, X, [0, 1, 0, 1, label])
    refused(fastmlp.one_hot, [0, label], C=2)
refused(model.loss_and_grad, X[:3], [0] * 5)
refused(model.loss_and_grad, X, [0] * 4)
refused(model.loss_and_grad, X, [0] * 5, sample_weight=[1.0] * 4)
refused(model.loss_and_grad, X, [0] * 5, out=np.empty(3))
refused(model.loss_and_grad, X, [0] * 5, out=np.empty(23, np.float32))
refused(model.loss_and_grad, X, [0] * 5, out=model.parameters)
refused(model.predict, np.ones((5, 4)))
"""
    run_python(code)


def test_an_exception_inside_prange_would_be_swallowed_so_kernels_raise_none(run_python):
    """Division by zero is the one exception that compiled arithmetic could raise; the kernels divide as NumPy does."""
    code = """
import numpy as np, fastmlp
with np.errstate(all="raise"):
    out = fastmlp.Softmax(np.full((3, 100_000), -np.inf))
assert np.isnan(out).all()
from fastmlp.kernels import compiled
assert all(k.parallel.targetoptions["error_model"] == "numpy" for k in compiled._KERNELS.values())
"""
    run_python(code)


def test_the_guards_are_what_keeps_the_process_alive():
    """The state that the guards read exists in this version of Numba."""
    from fastmlp.kernels import compiled

    assert isinstance(compiled.numba_parallel._is_initialized, bool)
    assert compiled.numba_parallel._threading_layer in (None, "omp", "tbb", "workqueue")
    assert fastmlp.get_backend() == "numba"
