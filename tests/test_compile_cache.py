"""The compile cache: what hits, what misses, and what stands in its way."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import copy_package

pytestmark = pytest.mark.numba

CACHE_REPORT = """
import fastmlp
from fastmlp import companion
companion._companion.wanted = False  # it would add files for a while after the process
fastmlp.warmup("float32")
from fastmlp.kernels import compiled
totals = compiled.cache_statistics().values()
print(sum(hits for hits, _ in totals), sum(misses for _, misses in totals))
"""


def clear_cache(folder):
    for path in cache_files(folder):
        Path(path).unlink()


def cache_files(folder):
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*.nb?")}


def test_the_compile_cache(run_python, tmp_path):
    """A second process hits for every signature and adds no file; a changed byte misses; damage is a miss."""
    package = copy_package(tmp_path)  # with what is compiled already: the stamp knows no path and no time
    env = {"PYTHONPATH": str(package.parent)}

    def hits_and_misses(code=CACHE_REPORT):
        return tuple(map(int, run_python(code, env=env, cwd=package.parent).stdout.split()))

    signatures = sum(hits_and_misses())
    assert signatures >= 30
    files = cache_files(package)
    assert hits_and_misses() == (signatures, 0)
    assert cache_files(package) == files

    # Damage index and data files each way: cut short, emptied, garbage.
    for damage in (lambda data: data[:100], lambda data: b"", lambda data: b"\x80garbage" * 20):
        # All of a kernel, because the copy may hold files of older sources too.
        for path in (
            p
            for p in map(Path, files)
            if "._relu_elements-" in p.name or ("._update-" in p.name and p.suffix == ".nbc")
        ):
            path.write_bytes(damage(path.read_bytes()))
        _, misses = hits_and_misses()
        assert 0 < misses < signatures / 2
        assert hits_and_misses() == (signatures, 0)

    # Each kernel source counts, not only the one that holds the kernel. Two hits: the kernel, and the shell for it.
    small = CACHE_REPORT.replace('warmup("float32")', "ReLU([1.0])")
    hits_and_misses(small)  # compiles it, unless the copy came with it
    folder = package / "kernels"
    for name in ("reference", "tree", "compiled/__init__", "compiled/step", "vector/tile", "internals/convention"):
        assert hits_and_misses(small) == (2, 0)
        source = folder / f"{name}.py"
        text = source.read_bytes()
        source.write_bytes(text.replace(b"the ", b"The ", 1))
        assert source.read_bytes() != text
        assert hits_and_misses(small) == (0, 2), name
    (folder / "compiled" / "new").mkdir()
    (folder / "compiled" / "new" / "x.py").write_text("1")  # a file and a folder that were not there
    assert hits_and_misses(small) == (0, 2)


def test_a_hit_loads_no_compiler_and_leaves_one_that_works(run_python, tmp_path):
    package = copy_package(tmp_path)
    env = {"PYTHONPATH": str(package.parent)}
    run_python(CACHE_REPORT, env=env, cwd=package.parent)
    code = f"""
import sys
{CACHE_REPORT}
assert totals and all(misses == 0 for _, misses in totals)
assert "numba.np.arraymath" not in sys.modules  # which imports scipy.linalg
import numba, numpy as np
assert numba.njit(lambda x: np.sum(x) + np.sin(x[0]))(np.array([0.0, 2.0])) == 2
fastmlp.warmup("float64")
"""
    run_python(code, env=env, cwd=package.parent)


def test_a_flipped_bit_anywhere_is_a_miss(run_python, cold_package):
    """Numba itself executes machine code as it finds it."""
    env = {"PYTHONPATH": str(cold_package.parent)}
    code = "import fastmlp; print(fastmlp.ReLU([-1.0, 2.0])); from fastmlp.kernels import compiled as c;"
    code += "print(c.cache_statistics()['_relu_elements'])"
    assert run_python(code, env=env).stdout == "[0. 2.]\n(0, 1)\n"
    (path,) = (p for p in map(Path, cache_files(cold_package)) if "._relu_elements-" in p.name and p.suffix == ".nbc")
    whole = path.read_bytes()
    for share in (0.01, 0.35, 0.5, 0.8, 0.99):
        damaged = bytearray(whole)
        damaged[int(share * len(whole))] ^= 4
        path.write_bytes(damaged)
        assert run_python(code, env=env).stdout == "[0. 2.]\n(0, 1)\n", share
    assert run_python(code, env=env).stdout == "[0. 2.]\n(1, 0)\n"


@pytest.mark.parametrize("flag", ["NUMBA_BOUNDSCHECK", "NUMBA_OPT"])
def test_code_of_other_compiler_flags_is_not_served(run_python, cold_package, flag):
    """Checking bounds would prove nothing on code that was compiled without."""
    code = "import fastmlp; fastmlp.ReLU([1.0]); from fastmlp.kernels import compiled as c;"
    code += "print(c.cache_statistics()['_relu_elements'])"
    env = {"PYTHONPATH": str(cold_package.parent)}
    assert run_python(code, env=env).stdout == "(0, 1)\n"
    for expected in ("(0, 1)\n", "(1, 0)\n"):
        assert run_python(code, env={**env, flag: "1"}).stdout == expected
    assert run_python(code, env=env).stdout == "(1, 0)\n"


def test_an_entry_that_names_another_types_file_is_a_miss(run_python, cold_package):
    """Two processes that fill a cache at once can leave one: float64 must not run what was compiled for float32."""
    env = {"PYTHONPATH": str(cold_package.parent)}
    code = """
import numpy as np, fastmlp
for dtype in {}:
    x = np.array([-1.0, 2.0], dtype)
    assert fastmlp.ReLU(x).tobytes() == np.maximum(0, x).tobytes()
from fastmlp.kernels import compiled
print(*compiled.cache_statistics()["_relu_elements"])
"""
    run_python(code.format(["float32"]), env=env)
    (single,) = (p for p in map(Path, cache_files(cold_package)) if "._relu_elements-" in p.name and p.suffix == ".nbc")
    run_python(code.format(["float64"]), env=env)
    both = {p for p in map(Path, cache_files(cold_package)) if "._relu_elements-" in p.name and p.suffix == ".nbc"}
    (double,) = both - {single}
    double.write_bytes(single.read_bytes())
    assert run_python(code.format(["float64", "float32"]), env=env).stdout == "1 1\n"
    assert run_python(code.format(["float64", "float32"]), env=env).stdout == "2 0\n"


def test_a_changed_kernel_is_never_served_from_the_cache(run_python, cold_package):
    """Not even a change of a few bytes that leaves size and time of the file, which is all that Numba looks at."""
    source = cold_package / "kernels" / "compiled" / "activations.py"
    text, times = source.read_bytes(), source.stat()
    env = {"PYTHONPATH": str(cold_package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    calls = "import fastmlp; print(fastmlp.ReLU([-1.0, 2.0])); from fastmlp.kernels import compiled as c;"
    for constant, shown, misses in ((b"0", "[0. 2.]", [1]), (b"7", "[7. 2.]", [1, 0])):
        assert text.count(b"select(x < 0, type(x)(0)") == 1
        source.write_bytes(text.replace(b"select(x < 0, type(x)(0)", b"select(x < 0, type(x)(%s)" % constant))
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
        for missed in misses:
            result = run_python(f"{calls} print(c.cache_statistics()['_relu_elements'])", env=env)
            assert result.stdout == f"{shown}\n({1 - missed}, {missed})\n"


# Each process compiles the kernels for its own dtype, so that the two write different code to the same names.
FILL = """
import os, sys, time
import numpy as np, fastmlp
from fastmlp.kernels import compiled
folder, dtypes = {folder!r}, {dtypes!r}
open(os.path.join(folder, "-".join(dtypes)), "w").close()
while len(os.listdir(folder)) < {count}:
    time.sleep(0.0005)
for dtype in dtypes:
    x = np.linspace(-2, 2, 12).astype(dtype).reshape(3, 4)
    results = [fastmlp.ReLU(x), fastmlp.Softmax(x), *fastmlp.update_params(*[x] * 8)]
    expected = [np.maximum(0, x), np.exp(x) / np.exp(x).sum(axis=0), *[x - x.dtype.type(0.1) * x] * 4]
    assert all(r.dtype == x.dtype and np.abs(r - e).max() < 1e-6 for r, e in zip(results, expected))
print(sum(misses for _, misses in compiled.cache_statistics().values()))
"""


def filling(package, folder, *processes):
    """Start processes that fill the cache of a package at the same moment, each with kernels of some dtypes."""
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1"}
    codes = [FILL.format(folder=str(folder), dtypes=dtypes, count=len(processes)) for dtypes in processes]
    return [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) for code in codes
    ]


def misses_of(processes):
    printed = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [int(line) for line in printed]


def test_two_processes_fill_the_cache_at_once(cold_package, tmp_path):
    """What one writes over, the next process compiles again; after it nothing misses, and nothing is ever wrong."""
    assert misses_of(filling(cold_package, tmp_path / "at once", ["float32"], ["float64"])) == [6, 6]
    (lost,) = misses_of(filling(cold_package, tmp_path / "next", ["float32", "float64"]))
    assert lost <= 6
    assert misses_of(filling(cold_package, tmp_path / "last", ["float32", "float64"])) == [0]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_process_killed_while_it_fills_the_cache_leaves_one_that_serves(cold_package, tmp_path, request):
    rng, kills, trials = np.random.default_rng(0), 0, 100 if request.config.getoption("--full") else 3
    for trial in range(trials):
        (process,) = filling(cold_package, tmp_path / f"{trial}", ["float32"])
        while not any((tmp_path / f"{trial}").iterdir()):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.8))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        if trial % 10 == 9:
            clear_cache(cold_package)
    assert kills > trials / 2
    assert misses_of(filling(cold_package, tmp_path / "after", ["float32"]))[0] <= 6
    assert misses_of(filling(cold_package, tmp_path / "last", ["float32"])) == [0]
    print(f"{kills} kills survived")  # noqa: T201


TRAIN = """
import numpy as np, fastmlp
rng = np.random.default_rng(0)
history = fastmlp.MLP((6, 5, 3)).fit(rng.standard_normal((6, 50)), rng.integers(3, size=50), epochs=5)
assert np.isfinite(history.loss).all()
from fastmlp.kernels import compiled
assert fastmlp.__file__.startswith({site!r})
assert compiled.describe()["compile cache"].startswith("none"), compiled.describe()
"""

# Root may write anywhere until it gives up that right, which lasts from the next program that it starts.
POWERLESS = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) != 0:
    print("root keeps its rights")
    sys.exit()
os.execv(sys.executable, [sys.executable, "-c", {code!r}])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="permissions and capabilities of Linux")
def test_import_and_training_in_a_read_only_install_without_home(run_python, cold_package, tmp_path):
    """The cache has nowhere to go: everything runs uncached."""
    everything = [*cold_package.rglob("*"), cold_package]
    for path in everything:
        path.chmod(stat.S_IREAD | (stat.S_IEXEC if path.is_dir() else 0))
    home = tmp_path / "a file, not a folder"
    home.touch()
    site = str(cold_package.parent)
    code = f"""
try:
    open({site!r} + "/fastmlp/new", "w")
except PermissionError:
    pass
else:
    raise AssertionError("this process may write there")
{TRAIN.format(site=site)}
"""
    env = {"PYTHONPATH": site, "HOME": None, "XDG_CACHE_HOME": str(home / "cache"), "NUMBA_CACHE_DIR": None}
    try:
        if run_python(POWERLESS.format(code=code), env=env).stdout:
            pytest.skip("root cannot give up its rights here")
        assert not cache_files(cold_package)
    finally:
        for path in reversed(everything):
            path.chmod(stat.S_IRWXU)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(run_python, cold_package):
    """A full disk: the limit on file sizes makes every write fail."""
    pytest.importorskip("resource")
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import numba, fastmlp
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
fastmlp.Softmax(fastmlp.ReLU([1.0]))
from fastmlp.kernels import compiled
assert compiled.cache_statistics()["_relu_elements"] == (0, 1)
"""
    run_python(code, env={"PYTHONPATH": str(cold_package.parent), "PYTHONDONTWRITEBYTECODE": "1"})
    assert not [p for p in cache_files(cold_package) if p.endswith(".nbc")]
