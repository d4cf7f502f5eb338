"""The micro-kernels on buffers between canaries that end, or begin, exactly at a protected page.

What a kernel's docstring names it reads and writes, and nothing else; `list_nonzero` alone writes one entry more.
"""

import os
import signal
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.numba,
    pytest.mark.skipif(os.name != "posix", reason="pages are protected by mprotect"),
]


@pytest.fixture
def check(run_python):
    def run(*names, dtype, check=True, **env):
        lines = [f"guarded.check({name!r}, {dtype!r})" for name in names]
        start = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import guarded"
        return run_python("\n".join([start, *lines]), check=check, env={"PYTHONMALLOC": "debug", **env})

    return run


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_micro_kernels_touch_what_they_name_and_nothing_else(check, dtype):
    check("tile", "coded_tile", "sparse_rows", "listed_rows", "ordered_rows", "adam_rows", "scatter_rows", "dot_tile",
          "transpose", "copy_elements",
          "list_nonzero", "list_nonzero_rows", "nonzero_bits", "exp_columns", "softmax_columns", "exp_and_log",
          "sigmoids", dtype=dtype)  # fmt: skip


def test_bytes(check):
    check("list_nonzero", "list_nonzero_rows", "list_words", "transpose", dtype="uint8")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_engine_stays_within_its_buffers(check, dtype):
    """Register tiles take whole groups of rows where the last has fewer: the engine's buffers have room for them."""
    check("entered", "engine", dtype=dtype)


def test_an_overrun_of_any_buffer_meets_the_protected_page(check):
    """Beyond each array that each kernel is given, in every kind of pass."""
    check("overruns", dtype="float32")


def test_an_overrun_of_a_buffer_that_a_kernel_made_ends_the_process(check):
    result = check("own_buffer_and_a_vector_more", dtype="float64", check=False, NUMBA_BOUNDSCHECK=None)
    assert result.returncode == -signal.SIGABRT, result.stderr


def test_an_entry_too_many_meets_the_protected_page(check):
    result = check("one_entry_too_many", dtype="float64", check=False)
    assert result.returncode == -signal.SIGSEGV, result.stderr
    assert "in tile" in result.stderr


def test_an_element_in_front_meets_the_canary(check):
    result = check("one_vector_before", dtype="float32", check=False)
    assert result.returncode == 1
    assert "AssertionError: out" in result.stderr
