import contextlib
import importlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

BLOCK_NUMBA = """
import sys
class _NoNumba:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("numba", "llvmlite"):
            raise ImportError("blocked by the test")
sys.meta_path.insert(0, _NoNumba())
"""
if os.environ.get("FASTMLP_TEST_BLOCK_NUMBA"):
    exec(BLOCK_NUMBA)


def has_numba():
    try:
        importlib.import_module("numba")
    except ImportError:
        return False
    return True


HAS_NUMBA = has_numba()
BACKENDS = ["numba", "numpy"] if HAS_NUMBA else ["numpy"]
# Needs Numba and a process of its own.
collect_ignore = ["guarded.py"]


def pytest_addoption(parser):
    parser.addoption(
        "--full",
        action="store_true",
        help="1000 kills instead of 50, 2000 examples instead of 60, an hour of training runs",
    )


def pytest_configure(config):
    """Let hypothesis draw the same few examples every time, or many new examples with --full."""
    # A background job starts with SIGINT ignored, and its children inherit this: tests of Ctrl-C would hang.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    full = config.getoption("--full")
    # All examples of a test use the same backend fixture, and examples have no deadline: the first may compile.
    always = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
    settings.register_profile("fastmlp", max_examples=2000 if full else 60, derandomize=not full, **always)
    settings.load_profile("fastmlp")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("numba") and not HAS_NUMBA:
            item.add_marker(pytest.mark.skip(reason="numba cannot be imported"))


@pytest.fixture(autouse=True)
def _restored_defaults():
    """Reset the backend and the threads of the process, which every run of the command line sets."""
    yield
    settings = sys.modules.get("fastmlp.settings")
    if settings is not None:
        settings.process.backend = settings.process.threads = None


@pytest.fixture
def run(capsys):
    """Return a function that runs a command line and returns status, standard output and standard error."""
    from fastmlp import cli

    def call(words, *paths):
        capsys.readouterr()
        status = cli.main([*words.split(), *map(str, paths)])
        return (status, *capsys.readouterr())

    return call


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in BACKENDS])
def backend(request):
    """Run the test on each available backend, marked with its name."""
    import fastmlp

    with fastmlp.use_backend(request.param):
        yield request.param


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)


@pytest.fixture
def compiled():
    return pytest.importorskip("fastmlp.kernels.compiled", exc_type=ImportError)


@pytest.fixture
def reference():
    return importlib.import_module("fastmlp.kernels.reference")


@pytest.fixture(scope="session")
def mnist_data():
    if not os.environ.get("FASTMLP_DATA"):
        pytest.skip("FASTMLP_DATA is not set: no MNIST")
    from fastmlp.datasets import mnist

    return mnist.load_data()


@pytest.fixture
def run_python():
    """Return a function that runs Python code in a fresh process with the tested fastmlp."""

    def run(code, *, env=None, check=True, timeout=240, cwd=None):
        import fastmlp

        environment = {k: v for k, v in os.environ.items() if not k.startswith("FASTMLP_") or k == "FASTMLP_DATA"}
        environment["PYTHONPATH"] = str(Path(fastmlp.__file__).parents[1])
        environment["PYTHONSAFEPATH"] = "1"  # keeps a checkout in the current folder off the path
        environment.update(env or {})
        environment = {key: value for key, value in environment.items() if value is not None}
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
            cwd=cwd,
            check=False,
        )
        if check:
            assert result.returncode == 0, result.stderr
        return result

    return run


def copy_package(to, *ignored):
    """Copy the package, without files that match ``ignored``, to a new folder, and return the folder."""
    import fastmlp

    folder = to / "site" / "fastmlp"
    shutil.copytree(Path(fastmlp.__file__).parent, folder, ignore=shutil.ignore_patterns(*ignored))
    return folder


@pytest.fixture
def cold_package(tmp_path):
    """Return a copy of the package with an empty compile cache."""
    return copy_package(tmp_path, "__pycache__")


@pytest.fixture(scope="session")
def mnist_training(tmp_path_factory, mnist_data):
    """Train MNIST with default options, save and draw, as in the help; return the folder and the printed object."""
    pytest.importorskip("matplotlib")
    from fastmlp import cli
    from fastmlp.datasets import mnist

    folder = tmp_path_factory.mktemp("mnist")
    words = "train mnist --save digits.safetensors --json --plot pictures"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        patch.setattr(mnist, "load_data", lambda: mnist_data)
        assert cli.main(words.split()) == 0
    return folder, json.loads(out.getvalue())
