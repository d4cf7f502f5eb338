"""``python -m benchmarks.tuning NAME``: measure the candidates for a tuning constant, and print rows of TUNING.md.

Constants are compiled into kernels. Each candidate therefore has a process of its own, in which the module of the
constant is executed with the other value, and a compile cache of its own, because the cache does not see the change;
the present value has the usual one.
The processes are asked in turn, round after round; ratios are taken within a round, and medians over the rounds.
Workloads on one thread are measured in CPU time, which leaves out other work on the machine. ``--list`` lists the
constants. ``--all`` measures all of them, as many as fit into ``--minutes``, and tells what another value would gain on
this machine; ``--to FILE`` writes the table.
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
from pathlib import Path
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
    repeats = {}
    for line in sys.stdin:
        k = int(line)
        if k not in repeats:  # not before: others may still be compiling
            repeats[k] = repeats_for(runs[k], at_least=0.1)
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
    """The process of a candidate, which compiles as soon as it is made; without a ``cache``, in the usual one."""

    def __init__(self, name, value, cache=None):
        code = f"from benchmarks import tuning; tuning.serve({name!r}, {value!r})"
        environment = os.environ | ({} if cache is None else {"NUMBA_CACHE_DIR": cache})
        if not ROWS[name].parallel:
            environment["FASTMLP_NUM_THREADS"] = "1"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)

    def digests(self):
        """Return the digest of each workload, once all have run; to be asked for once, and first."""
        return self._answer().split()

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
        for k, value in enumerate(candidates):
            child = _Child(name, value, None if row.host or value == current else os.path.join(folder, f"{k}"))
            children[value] = stack.enter_context(contextlib.closing(child))
        found = {value: child.digests() for value, child in children.items()}
        for number in range(rounds):
            for k, taken in enumerate(times):
                for value in candidates[:: (-1) ** number]:
                    taken[value].append(children[value].seconds(k))
        digests = [{value: found[value][k] for value in candidates} for k in range(len(times))]
    return current, list(zip(times, digests, strict=True))


def lines(name, rounds, machine):
    """Yield a row of TUNING.md for each workload of a constant."""
    yield from _lines(name, rounds, machine, *measure(name, rounds))


def _lines(name, rounds, machine, current, results):
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


def gains(name, current, results):
    """Yield in words which other values were faster in each round, and by more than two rounds of one value differ."""
    for key, (times, _) in zip(ROWS[name].workloads.split(), results, strict=True):
        ratios = {value: [a / b for a, b in zip(times[value], times[current], strict=True)] for value in times}
        noise = max(statistics.pstdev(some) for some in ratios.values())
        for value, some in ratios.items():
            if max(some) < 1 - noise:
                yield f"{name} = {value}, not {current}: {statistics.median(some):.2f} of the time, {WORKLOADS[key][0]}"


HEADER = "constant", "workload", "candidates", "medians", "ratios", "bits", "machine, date", "command"


def measure_all(rounds, minutes, machine, to):
    """Measure all constants, those of the processor first, until the time is over; print rows and what would gain."""
    begun, found, left, written = time.monotonic(), [], [], [f"| {' | '.join(HEADER)} |", "|" + " --- |" * len(HEADER)]
    for name in sorted(ROWS, key=lambda name: not ROWS[name].module.endswith("target")):
        if time.monotonic() - begun >= 60 * minutes:
            left.append(f"{name} (no time)")
            continue
        try:
            current, results = measure(name, rounds)
        except RuntimeError as error:
            left.append(f"{name} ({error})")
            continue
        found += gains(name, current, results)
        for line in _lines(name, rounds, machine, current, results):
            print(line, flush=True)
            written.append(line)
        if to is not None:
            Path(to).write_text("\n".join(written) + "\n")
    took = (time.monotonic() - begun) / 60
    print(f"\nmeasured {len(ROWS) - len(left)} of {len(ROWS)} constants in {took:.1f} minutes")
    if left:
        print(f"not measured: {', '.join(left)}")
    print("\n".join(found) or "no other value was faster in each round")


def _machine():
    from benchmarks.peers import machine

    facts = machine()
    return f"{facts['CPU']}, {facts['cores']} cores, {facts['date']}"


def main(words=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__.split("\n", 1)[0])
    parser.add_argument("name", nargs="*", metavar="NAME", help="a constant; see --list")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of timing (default 7, 3 with --all)")
    parser.add_argument("--all", action="store_true", help="measure all constants, and say what would gain")
    parser.add_argument("--minutes", type=float, default=9, metavar="M", help="begin no constant later (default 9)")
    parser.add_argument("--to", metavar="FILE", help="also write the table of --all there")
    parser.add_argument("--list", action="store_true", help="list the constants with candidates and workloads")
    options = parser.parse_args(words)
    if options.list:
        for name, row in ROWS.items():
            workloads = "; ".join(WORKLOADS[key][0] for key in row.workloads.split())
            print(f"{name:22}{', '.join(map(str, row.candidates)):42}{workloads}")
        return 0
    unknown = [name for name in options.name if name not in ROWS]
    if unknown or bool(options.name) == options.all:
        got = " ".join(unknown or options.name) or "nothing"
        parser.error(f"NAME: got {got}, expected constants of {', '.join(ROWS)}, or --all alone")
    rounds = options.rounds if options.rounds is not None else 3 if options.all else 7
    if rounds < 1:
        parser.error(f"--rounds: got {rounds}, expected 1 or more")
    if options.to is not None and not options.all:
        parser.error("--to: got a file without --all, expected both; redirect the rows of a few constants")
    machine = _machine()
    if options.all:
        measure_all(rounds, options.minutes, machine, options.to)
    for name in options.name:
        for line in lines(name, rounds, machine):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
