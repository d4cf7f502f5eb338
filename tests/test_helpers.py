"""The threads that help with a launch keep off the core of the thread that launches."""

import os

import pytest

pytestmark = [
    pytest.mark.numba,
    pytest.mark.kernels,
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads are not bound to cores here"),
]

# In a process of its own: its threads have no other past.
PROCESS = """
import os, threading
import fastmlp
import numpy as np
from fastmlp.kernels import compiled
from fastmlp.kernels.compiled import helpers, internals

own = os.sched_getaffinity(0)
one, other = sorted(own)[:2]
helpers._core = lambda: one

def launch():
    compiled.survey(np.ones(1 << 18))

def helper():
    return helpers._helpers.noted[2]

def cores(thread):
    return os.sched_getaffinity(thread)

with fastmlp.use_threads(2):
    launch()
    if internals.threading_layer() != "omp":
        raise SystemExit("skip")
    launch()  # which notes its threads
    launch()
"""


@pytest.fixture
def on_two_cores(compiled, run_python):
    """Return a function that runs code after some launches in a process that may use two cores."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core")

    def run(code):
        lines = "".join(f"    {line}\n" for line in code.strip().splitlines())
        environment = {"NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": "omp", "FASTMLP_NUM_THREADS": "2"}
        result = run_python(PROCESS + lines, env=environment, check=False)
        if result.stderr.strip() == "skip" or "No threading layer" in result.stderr:
            pytest.skip("no threading layer omp")
        assert result.returncode == 0, result.stderr

    return run


def test_helpers_keep_off_the_core_of_the_thread_that_launches(on_two_cores):
    on_two_cores("""
assert helper() not in (0, threading.get_native_id())
assert cores(helper()) == own - {one}
assert cores(0) == own
helpers._core = lambda: other
launch()
assert cores(helper()) == own - {other}
""")


def test_each_thread_that_launches_has_helpers_of_its_own(on_two_cores):
    on_two_cores("""
first = helper()
def elsewhere():
    with fastmlp.use_threads(2):
        launch()
        helpers._core = lambda: other
        launch()
    assert helper() != first
    found.append(cores(helper()))
found = []
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
assert found == [own - {other}]
assert cores(first) == own - {one}
launch()
assert cores(first) == own - {other}
""")


def test_helpers_that_someone_else_has_bound_are_left_alone(on_two_cores):
    on_two_cores("""
os.sched_setaffinity(helper(), {one})
helpers._helpers.keep_off(one, 2)
assert cores(helper()) == {one}
""")


def test_only_threads_of_this_process_are_told(on_two_cores):
    on_two_cores("""
parent = cores(os.getppid())
for number in (os.getppid(), 2**30):
    helpers._helpers.noted[2] = number
    helpers._helpers.keep_off(other, 2)
    assert cores(os.getppid()) == parent
launch()
launch()
assert cores(helper()) == own - {one}
""")


def test_more_workers_than_threads_are_not_noted(on_two_cores):
    on_two_cores("""
known = list(helpers._helpers.noted)
assert helpers.prepared_helpers(3) == 0
assert helpers.prepared_helpers(2) == helpers._helpers.address
compiled.launch.KERNELS["_survey"].launch(100, np.ones(1000), 1000, 1, np.empty((100, 8), np.int64))
assert list(helpers._helpers.noted) == known
""")


def test_where_there_is_no_core_for_each_thread_the_system_decides(on_two_cores):
    on_two_cores("""
before = cores(helper())
helpers._helpers.keep_off(other, len(own) + 1)
assert cores(helper()) == before
os.sched_setaffinity(0, {one})
helpers._helpers.keep_off(one, 1)
assert cores(helper()) == before
""")
