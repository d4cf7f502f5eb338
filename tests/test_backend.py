"""Backends, threads and configuration."""

import os
import platform
import sys
from contextvars import copy_context
from pathlib import Path

import pytest
from conftest import BLOCK_NUMBA
from test_packing import FORMS

import fastmlp
from fastmlp import backend as backend_module
from fastmlp import threads

x86_64 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="compiles for another x86-64 processor"
)

SMALL_NET = """
import numpy as np, fastmlp
rng = np.random.default_rng(0)
X, Y = rng.standard_normal((6, 50)), rng.integers(3, size=50)
model = fastmlp.MLP((6, 5, 3))
history = model.fit(X, Y, epochs=5, alpha=0.1)
"""

EVERY_PUBLIC_CALL = """
import numpy as np, fastmlp
from fastmlp import *
rng = np.random.default_rng(0)
for dtype in ("float32", "float64"):
    for m in (3, 60_000):
        X, Y = rng.standard_normal((6, m)).astype(dtype), rng.integers(3, size=m)
        for layout in (np.asarray, np.asfortranarray, lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape)):
            x, y = layout(X), layout(one_hot(Y, 3).astype(dtype))
            model = fastmlp.MLP((6, 20, 5, 3), dtype=dtype)
            W1, b1, W2, b2 = (layout(rng.standard_normal(s).astype(dtype)) for s in [(5, 6), (5, 1), (3, 5), (3, 1)])
            A1, Z1, A2, Z2 = map(layout, Forwardprop(x, W1, W2, b1, b2))
            compute_cost(A2, y), ReLU(Z1), Softmax(Z2)
            update_params(W1, b1, W2, b2, *backward_prop(Z1, A1, Z2, A2, W1, W2, x, y))
            model.fit(x, Y, epochs=2, validation=(x, y), sample_weight=np.ones(m))
            for optimizer in (None, fastmlp.optimizers.SGD(0.1, 0.9), fastmlp.optimizers.Adam()):
                for targets in (Y, y):
                    model.fit(x, targets, epochs=1, optimizer=optimizer, batch_size=-(-m // 2), clip_norm=1, l2=1e-3)
            model.predict(x), model.predict_proba(x), model.evaluate(x, y)
"""


def test_set_use_and_get_backend(monkeypatch):
    assert fastmlp.get_backend() in ("numba", "numpy")
    with fastmlp.use_backend("numpy"):
        assert fastmlp.get_backend() == "numpy"
        with fastmlp.use_backend("auto"):
            pass
        assert fastmlp.get_backend() == "numpy"
        assert copy_context().run(fastmlp.get_backend) == "numpy"
    fastmlp.set_backend("numpy")
    try:
        assert fastmlp.get_backend() == "numpy"
    finally:
        fastmlp.set_backend("auto")


def test_use_backend_is_left_after_an_exception():
    before = fastmlp.get_backend()
    with pytest.raises(KeyError), fastmlp.use_backend("numpy"):
        raise KeyError
    assert fastmlp.get_backend() == before


@pytest.mark.parametrize("function", [fastmlp.set_backend, lambda name: fastmlp.use_backend(name).__enter__()])
@pytest.mark.parametrize("name", ["Numba", "", "jax", None, 1])
def test_an_unknown_backend_is_refused_with_the_legal_names(function, name):
    with pytest.raises(ValueError, match=r"^name: got .*'auto', 'numba', 'numpy'"):
        function(name)


def test_threads_are_restored(backend):
    before = fastmlp.get_num_threads()
    with fastmlp.use_threads(1):
        assert fastmlp.get_num_threads() == 1
    with pytest.raises(KeyError), fastmlp.use_threads(1):
        raise KeyError
    assert fastmlp.get_num_threads() == before


def counts():
    """Return the thread counts of the BLAS libraries, and of Numba if it is loaded."""
    numba = sys.modules.get("numba")
    return {library["num_threads"] for library in threads.blas().info()}, numba and numba.get_num_threads()


def test_threads_are_set_for_a_call_and_restored_also_after_an_exception(backend):
    """The limit is on Numba's threads if Numba computes, and on BLAS threads if NumPy computes."""
    before = counts()
    with fastmlp.use_threads(1):
        assert fastmlp.get_num_threads() == 1
        blas, _ = backend_module.call(counts)
        assert backend == "numba" or blas <= {1}
        with pytest.raises(KeyError):
            backend_module.call({}.__getitem__, 0)
    assert counts() == before


@pytest.mark.numba
def test_fewer_threads_than_numba_has_are_woken(run_python):
    code = """
import fastmlp, numba
from fastmlp import backend
fastmlp.set_backend("numba")
with fastmlp.use_threads(2):
    assert backend.call(numba.get_num_threads) == 2 == backend.call(backend._kernels("numba").launch.usable_threads)
with fastmlp.use_threads(1):
    assert backend.call(backend._kernels("numba").launch.usable_threads) == 1
assert numba.get_num_threads() == 3 == backend.call(backend._kernels("numba").launch.usable_threads)
"""
    run_python(code, env={"NUMBA_NUM_THREADS": "3"})


def test_use_threads_goes_before_set_num_threads(backend):
    before = fastmlp.get_num_threads()
    fastmlp.set_num_threads(1)
    try:
        with fastmlp.use_threads(2):
            assert fastmlp.get_num_threads() == 2
        assert fastmlp.get_num_threads() == 1
    finally:
        fastmlp.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity mask")
def test_usable_cores_are_those_of_the_affinity_mask(run_python):
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from fastmlp import threads
assert threads.usable_cores() == 1
"""
    run_python(code)


def test_overlapping_calls_restore_the_threads_of_blas(run_python):
    """Limits of fastmlp and of the user combine in any order; when two overlap, the last to end restores the counts."""
    if {library["internal_api"] for library in threads.blas().info()} != {"openblas"}:
        pytest.skip("needs OpenBLAS")
    code = """
import numpy  # loads the BLAS library
from concurrent.futures import ThreadPoolExecutor
from fastmlp.threads import blas, limited_blas
def counts(step=None, *arguments):
    if step is not None:
        step(*arguments)
    return {library["num_threads"] for library in blas().info()}
no_error = (None, None, None)
before, first, second, third = counts(), limited_blas(1), limited_blas(1), limited_blas(1)
assert before == {2}, before
with ThreadPoolExecutor(1) as pool:
    assert counts(first.__enter__) == {1}
    assert pool.submit(counts, second.__enter__).result() == {1}
    assert counts(first.__exit__, *no_error) == {1}
    assert pool.submit(counts, second.__exit__, *no_error).result() == {2}
    assert counts(third.__enter__) == {1}
    assert counts(third.__exit__, *no_error) == {2}
    assert pool.submit(blas().limit, limits=1).result() and counts() == {1}  # the user's limit, in another thread
"""
    run_python(code, env={"OPENBLAS_NUM_THREADS": "2"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_no_lock_of_blas_that_another_thread_held(run_python):
    code = """
import os, sys
import fastmlp
from fastmlp import threads
fastmlp.set_backend("numpy")
with threads._limits()._lock:
    pid = os.fork()
    if pid == 0:
        with fastmlp.use_threads(1):
            fastmlp.ReLU([1.0])
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert status == 0
"""
    run_python(code, timeout=60)


@pytest.mark.parametrize(
    ("n", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)]
)
def test_a_bad_thread_count_is_refused(n, error):
    with pytest.raises(error, match=r"^n: got .*expected .*;"):
        fastmlp.set_num_threads(n)


@pytest.mark.numba
def test_more_threads_than_numba_can_launch_names_the_variable():
    with (
        fastmlp.use_backend("numba"),
        pytest.raises(ValueError, match="NUMBA_NUM_THREADS=1000"),
        fastmlp.use_threads(1000),
    ):
        pass


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FASTMLP_BACKEND", "NumPy"),
        ("FASTMLP_BACKEND", ""),
        ("FASTMLP_NUM_THREADS", "two"),
        ("FASTMLP_NUM_THREADS", "0"),
    ],
)
def test_environment_variables_are_read_strictly(run_python, variable, value):
    result = run_python("import fastmlp; fastmlp.ReLU([1.0])", env={variable: value}, check=False)
    assert f"ValueError: {variable}: got" in result.stderr


def test_environment_variables_set_the_default(run_python):
    code = "import fastmlp; print(fastmlp.get_backend(), fastmlp.get_num_threads())"
    assert run_python(code, env={"FASTMLP_BACKEND": "numpy", "FASTMLP_NUM_THREADS": "1"}).stdout == "numpy 1\n"


def test_importing_binds_names_and_does_nothing_else(run_python):
    code = """
import os, sys, threading
before = dict(os.environ)
import fastmlp
heavy = {"numba", "llvmlite", "safetensors", "threadpoolctl", "sklearn", "fastmlp.datasets", "fastmlp.kernels"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert dict(os.environ) == before and threading.active_count() == 1
"""
    run_python(code)


def test_show_config(backend, capsys):
    assert fastmlp.show_config() is None
    printed = capsys.readouterr().out
    config = fastmlp.show_config(mode="dicts")
    assert config["backend"] == backend
    assert config["why"] == f"use_backend asks for {backend!r}"
    for key in ("threads", "BLAS", "CPU", "numpy", "python", "threading layer"):
        assert config[key]
        assert f"{key}:" in printed
    with pytest.raises(ValueError, match="^mode: got 'json'"):
        fastmlp.show_config(mode="json")


def test_without_numba_everything_works_after_one_warning(run_python):
    code = f"""
{BLOCK_NUMBA}
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
{"".join("    " + line + chr(10) for line in SMALL_NET.splitlines())}
    A1, Z1, A2, Z2 = fastmlp.Forwardprop(X, *model.weights, *model.biases)
    y = fastmlp.one_hot(Y, 3)
    grads = fastmlp.backward_prop(Z1, A1, Z2, A2, *model.weights, X, y)
    fastmlp.update_params(model.weights[0], model.biases[0], model.weights[1], model.biases[1], *grads)
    fastmlp.compute_cost(fastmlp.Softmax(Z2), y), fastmlp.ReLU(Z1)
assert [w.category for w in caught] == [RuntimeWarning], caught
assert "numba cannot be imported (blocked by the test)" in str(caught[0].message)
assert fastmlp.get_backend() == "numpy"
print(fastmlp.show_config(mode="dicts")["why"])
try:
    fastmlp.set_backend("numba")
except ImportError as error:
    assert "pip install" in str(error)
else:
    raise AssertionError
"""
    assert "numba cannot be imported (blocked by the test)" in run_python(code).stdout


@pytest.mark.numba
def test_disabled_jit_counts_as_absent(run_python):
    code = "import fastmlp; print(fastmlp.show_config(mode='dicts')['why'])"
    result = run_python(code, env={"NUMBA_DISABLE_JIT": "1"})
    assert "NUMBA_DISABLE_JIT" in result.stdout


@pytest.mark.numba
def test_after_warmup_no_public_call_compiles(run_python):
    code = f"""
import fastmlp
fastmlp.warmup("float32"), fastmlp.warmup("float64")
from fastmlp.kernels import compiled
def count():
    counts = {{name: len(kernel.body.signatures) for name, kernel in compiled.launch.KERNELS.items()}}
    shells = compiled.launch.SHELL, compiled.launch.PARALLEL_SHELL
    return counts, *(len(shell.signatures) for shell in shells)
before = count()
{EVERY_PUBLIC_CALL}
assert count() == before, (before, count())
# One canonical type for each argument: one signature per dtype, and one more if a kernel reads the array to pack, or
# what is packed, which may be uint8. The serial shell has one for each of these, the parallel shell one for all.
PACKING = "_survey", "_fill", "_unpack", "_list_rows"
bodies, serial, parallel = before
expected = {{name: 3 if name in PACKING else 2 for name in compiled.launch.KERNELS}}
expected["_list_columns"] = 1  # it reads indices alone
assert bodies == expected, bodies
assert serial == sum(bodies.values()) and parallel == 1, before
"""
    run_python(code)


@x86_64
@pytest.mark.numba
def test_the_fused_step_compiled_for_a_plain_sse2_machine(run_python):
    """Without FMA and with 128-bit vectors, tiles and instructions differ, but the gradient agrees."""
    code = """
import numpy as np, fastmlp
from fastmlp.kernels import vector
assert not vector.HAS_FMA and vector.VECTOR_BYTES == 16
rng = np.random.default_rng(0)
X, Y = rng.standard_normal((30, 150)) * (rng.random((30, 150)) < 0.4), rng.integers(4, size=150)
grads = []
for backend in ("numba", "numpy"):
    with fastmlp.use_backend(backend), fastmlp.use_threads(1):
        grads.append(fastmlp.MLP((30, 17, 4)).loss_and_grad(X, Y)[1])
assert np.abs(grads[0] - grads[1]).max() <= 1e-12 * np.abs(grads[1]).max()
"""
    run_python(code, env={"NUMBA_CPU_NAME": "generic", "NUMBA_NUM_THREADS": "1"})


HASWELL = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2,+lzcnt,+movbe,+f16c",
}


@x86_64
@pytest.mark.numba
def test_a_pickle_is_of_any_vector_width(run_python, tmp_path):
    """Kernels with another vector width would read outside the packed data."""
    code = f"""
import os, pickle
import numpy as np, fastmlp
from fastmlp.kernels import vector
print(vector.VECTOR_BYTES)
for n, m, density in {FORMS}:
    rng = np.random.default_rng(m)
    codes = rng.integers(1, 256, size=(n, m)).astype(np.uint8)
    codes *= rng.random((n, m)) < density
    made = [fastmlp.pack(codes, scale=1 / 255), fastmlp.pack(codes / 255.0)]
    name = f"{{n}} {{m}}"
    if not os.path.exists(name):
        with open(name, "wb") as file:
            pickle.dump(made, file)
        continue
    with open(name, "rb") as file:
        found = pickle.load(file)
    model = fastmlp.MLP((n, 4, 3))
    for one, other in zip(found, made):
        assert (one.to_dense() == codes / 255.0).all()
        assert (model.predict_proba(one) == model.predict_proba(other)).all()
"""
    here = int(run_python(code, cwd=tmp_path).stdout)
    elsewhere = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": None} if here <= 32 else HASWELL
    there = int(run_python(code, cwd=tmp_path, env=elsewhere, timeout=400).stdout)
    if here == there:
        pytest.skip(f"both processors have vectors of {here} bytes")


def test_annotations_are_there_for_type_checkers():
    assert (Path(fastmlp.__file__).parent / "py.typed").exists()
