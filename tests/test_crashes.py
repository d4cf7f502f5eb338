"""Guards against crashes and wrong results of Numba kernels; for threads see test_processes.py."""

import pytest

import fastmlp

pytestmark = pytest.mark.numba


def test_bad_labels_and_shapes_reach_no_kernel(run_python):
    """A kernel would write out of bounds if it got them."""
    code = """
import re
import numpy as np, fastmlp
model = fastmlp.MLP((4, 3, 2))
X = np.ones((4, 5))
model.loss_and_grad(X, [0] * 5)  # everything is compiled now, and would accept any input
def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (ValueError, TypeError) as error:
        if re.search("^[a-zA-Z_]+: got .*expected .*;", str(error)):  # raised by a check, not by Numba
            return
        raise
    raise AssertionError(args)
for label in (-1, 2, 10**6, 2**62):
    refused(model.loss_and_grad, X, [0, 1, 0, 1, label])
    refused(fastmlp.one_hot, [0, label], C=2)
refused(model.loss_and_grad, X[:3], [0] * 5)
refused(model.loss_and_grad, X, [0] * 4)
refused(model.loss_and_grad, X, [0] * 5, sample_weight=[1.0] * 4)
refused(model.loss_and_grad, X, [0] * 5, out=np.empty(3))
refused(model.loss_and_grad, X, [0] * 5, sample_weight=[1.0, np.inf, 1.0, 1.0, 1.0])
refused(model.loss_and_grad, X, [0] * 5, sample_weight=[1.0, np.nan, 1.0, 1.0, 1.0])
refused(model.loss_and_grad, X, [0] * 5, out=np.empty(23, np.float32))
refused(model.loss_and_grad, X, [0] * 5, out=np.empty(23, ">f8"))
refused(model.loss_and_grad, X, [0] * 5, out=np.empty(46)[::2])
refused(model.loss_and_grad, X, [0] * 5, out=np.frombuffer(bytes(23 * 8)))
refused(model.loss_and_grad, X, [0] * 5, out=model.parameters)
refused(model.predict, np.ones((5, 4)))
"""
    run_python(code)


def test_an_exception_inside_prange_would_be_swallowed_so_kernels_raise_none(run_python):
    """Compiled arithmetic could only raise for a division by zero; the kernels divide like NumPy."""
    code = """
import numpy as np, fastmlp
with np.errstate(all="raise"):
    out = fastmlp.Softmax(np.full((3, 100_000), -np.inf))
assert np.isnan(out).all()
from fastmlp.kernels import compiled
compiled_for_it = [one for k in compiled.launch.KERNELS.values() for one in k.dispatchers()]
assert all(one.targetoptions["error_model"] == "numpy" for one in compiled_for_it)
"""
    run_python(code)


def test_kernels_checked_for_bounds_are_not_those_without_in_the_cache(run_python, tmp_path):
    """Every option that changes the code has its own cache files, which are found again."""
    code = """
import numpy as np, fastmlp
from fastmlp.kernels import compiled
fastmlp.ReLU(np.ones(3))
print(*compiled.cache_statistics()["_relu_elements"])
"""
    options = ({}, {"NUMBA_BOUNDSCHECK": "1"}, {"NUMBA_OPT": "1"}, {"NUMBA_LOOP_VECTORIZE": "0"})
    for statistics in ("0 1", "1 0"):
        for option in options:
            env = {"NUMBA_BOUNDSCHECK": None, "NUMBA_CACHE_DIR": str(tmp_path), **option}
            assert run_python(code, env=env).stdout.strip() == statistics, option


def test_the_guards_are_what_keeps_the_process_alive():
    """This version of Numba has the internal state that the guards read."""
    import numba

    from fastmlp.kernels import internals

    numba.get_num_threads()  # starts the threads, and with them comes the last of these names
    assert internals._parallel._is_initialized is True
    assert internals._parallel._get_num_threads
    assert internals.threading_layer() in (None, "omp", "tbb", "workqueue")
    assert internals.compiler_locks()
    assert fastmlp.get_backend() == "numba"
