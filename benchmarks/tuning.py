"""``python -m benchmarks.tuning NAME``: measure the candidates for a tuning constant, and print rows of TUNING.md.

Constants are compiled into kernels. Each candidate therefore has a process of its own, in which the module of the
constant is executed with the other value, and a compile cache of its own, because the cache does not see the change.
The processes are asked in turn, round after round; ratios are taken within a round, and medians over the rounds.
Workloads on one thread are measured in CPU time, which leaves out other work on the machine. ``--list`` lists the
constants.
"""

import argparse
import ast
import contextlib
import hashlib
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.machinery import PathFinder, SourceFileLoader
from typing import Any, NamedTuple

import numpy as np

import fastmlp
from benchmarks.timing import repeats_for, settle, warm_up
from benchmarks.tuning_rows import ROWS, WORKLOADS

# A candidate's process.


class _Loader(SourceFileLoader):
    """Executes a module with one more statement, behind the one that sets the constant."""

    change: tuple[str, Any]

    def get_code(self, fullname):
        name, value = self.change
        tree = ast.parse(self.get_data(self.path))
        places = [k for k, statement in enumerate(tree.body) if name in _assigned(statement)]
        if not places:
            raise AttributeError(f"{fullname} does not set {name}")
        tree.body[places[-1] + 1 : places[-1] + 1] = ast.parse(f"{name} = {value!r}").body
        return compile(tree, self.path, "exec")


def _assigned(statement):
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


class _Finder(NamedTuple):
    """Finds the module of a constant, to be executed with another value."""

    module: str
    change: tuple[str, Any]

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.module:
            return None
        spec = PathFinder.find_spec(fullname, path)
        spec.loader = _Loader(fullname, spec.origin)
        spec.loader.change = self.change
        return spec


def change(name, value):
    """Let this process import the module of a constant with another value; all that follows from it changes too."""
    module = ROWS[name].module
    if module in sys.modules:
        raise RuntimeError(f"{module} has been imported: {name} could not be changed everywhere")
    sys.meta_path.insert(0, _Finder(module, (name, value)))


def serve(name, value):
    """Print a digest for each workload, then the seconds per call for each number of a workload that is read."""
    change(name, value)
    fastmlp.set_backend("numba")
    runs = [WORKLOADS[key][1]() for key in ROWS[name].workloads.split()]
    print(*(_digest(run()) for run in runs), flush=True)
    if getattr(sys.modules[ROWS[name].module], name) != value:
        raise RuntimeError(f"{name} has not been changed")
    repeats = [repeats_for(run, at_least=0.1) for run in runs]
    for line in sys.stdin:
        k = int(line)
        settle()
        warm_up(runs[k])
        print(
            _seconds(runs[k], repeats[k], time.perf_counter if ROWS[name].parallel else time.process_time), flush=True
        )


def _seconds(run, repeats, clock):
    start = clock()
    for _ in range(repeats):
        run()
    return (clock() - start) / repeats


def _digest(result):
    if result is None:
        return "-"
    if isinstance(result, (tuple, list)):
        return hashlib.sha256("".join(map(_digest, result)).encode()).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest()


class _Child:
    """The process of a candidate."""

    def __init__(self, name, value, cache):
        code = f"from benchmarks import tuning; tuning.serve({name!r}, {value!r})"
        environment = os.environ | {"NUMBA_CACHE_DIR": cache}
        if not ROWS[name].parallel:
            environment["FASTMLP_NUM_THREADS"] = "1"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)
        self.digests = self._answer().split()

    def seconds(self, k):
        print(k, file=self._process.stdin, flush=True)
        return float(self._answer())

    def close(self):
        self._process.stdin.close()
        self._process.wait()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of a candidate ended with status {self._process.wait()}")
        return line


# The table.


def measure(name, rounds):
    """Return the current value, and for each workload the seconds in each round, and a digest, of each candidate."""
    row = ROWS[name]
    current = getattr(importlib.import_module(row.module), name)
    candidates = sorted({*row.candidates, current})
    times = [{value: [] for value in candidates} for _ in row.workloads.split()]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        children = {}
        for value in candidates:
            child = _Child(name, value, os.path.join(folder, "host" if row.host else f"{len(children)}"))
            children[value] = stack.enter_context(contextlib.closing(child))
        for number in range(rounds):
            for k, taken in enumerate(times):
                for value in candidates[:: (-1) ** number]:
                    taken[value].append(children[value].seconds(k))
        digests = [{value: child.digests[k] for value, child in children.items()} for k in range(len(times))]
    return current, list(zip(times, digests, strict=True))


def lines(name, rounds, machine):
    """Yield a row of TUNING.md for each workload of a constant."""
    current, results = measure(name, rounds)
    for key, (times, digests) in zip(ROWS[name].workloads.split(), results, strict=True):
        medians, ratios = ([f(times[value]) for value in times] for f in (statistics.median, _ratio(times[current])))
        unit, scale = next((pair for pair in (("s", 1), ("ms", 1e3)) if min(medians) * pair[1] >= 1), ("µs", 1e6))
        same = len(set(digests.values())) == 1
        cells = [
            name,
            WORKLOADS[key][0],
            ", ".join(f"**{value}**" if value == current else f"{value}" for value in times),
            f"{', '.join(_number(median * scale) for median in medians)} {unit}",
            ", ".join(f"{ratio:.2f}" for ratio in ratios),
            "-" if "-" in digests.values() else "same" if same else "differ",
            machine,
            f"`python -m benchmarks.tuning {name} --rounds {rounds}`",
        ]
        yield f"| {' | '.join(cells)} |"


def _ratio(current):
    return lambda taken: statistics.median(a / b for a, b in zip(taken, current, strict=True))


def _number(x):
    return f"{x:.0f}" if x >= 100 else f"{x:.3g}"


def _machine():
    from benchmarks.peers import machine

    facts = machine()
    return f"{facts['CPU']}, {facts['cores']} cores, {facts['date']}"


def main(words=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__.split("\n", 1)[0])
    parser.add_argument("name", nargs="*", metavar="NAME", help="a constant; see --list")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="rounds of timing (default 7)")
    parser.add_argument("--list", action="store_true", help="list the constants with candidates and workloads")
    options = parser.parse_args(words)
    if options.list:
        for name, row in ROWS.items():
            workloads = "; ".join(WORKLOADS[key][0] for key in row.workloads.split())
            print(f"{name:22}{', '.join(map(str, row.candidates)):42}{workloads}")
        return 0
    unknown = [name for name in options.name if name not in ROWS]
    if unknown or not options.name:
        parser.error(f"NAME: got {' '.join(unknown) or 'nothing'}, expected constants of {', '.join(ROWS)}")
    if options.rounds < 1:
        parser.error(f"--rounds: got {options.rounds}, expected 1 or more")
    machine = _machine()
    for name in options.name:
        for line in lines(name, options.rounds, machine):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
