"""``python -m benchmarks.peers``: a table of the same training in fastmlp and in every installed framework.

784-128-10 on MNIST (on similar images if FASTMLP_DATA is not set), all samples in one step: cost, gradients, update.
Every net starts from the notebook's weights and must reproduce the notebook's costs before it is timed. The nets run in
processes of their own, in turn, with the same number of threads; ``taskset`` chooses the cores for all of them.
Ten-epoch times include fastmlp's packing, but not the other frameworks' data conversion.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import problems
from benchmarks.nets import BASELINE, BUILDERS, LIMIT, SIZES
from benchmarks.suite import CORES, DTYPES
from benchmarks.workers import Worker, WorkerError

EPOCHS = 10
SAMPLES = (60_000, 10_000, 1000)
# Memory of a process: its framework, and X twice while it is converted from NumPy.
PROCESS_BYTES, BYTES_PER_SAMPLE = 4e8, 2 * 8 * SIZES[0]
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(CORES)),
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # with more, PyTorch would start compiler processes
}
SHORT = "<!-- python -m benchmarks.peers, in short: begin -->", "<!-- python -m benchmarks.peers, in short: end -->"
IN_SHORT = {
    BASELINE: "NumPy",
    "fastmlp, numba, packed": "fastmlp",
    "scikit-learn, MLPClassifier": "scikit-learn",
    "PyTorch, compiled": "PyTorch",
    "TensorFlow, tf.function": "TensorFlow",
    "JAX, jit": "JAX",
}
BEGIN, END = "<!-- python -m benchmarks.peers: begin -->", "<!-- python -m benchmarks.peers: end -->"


def affordable(samples, processes):
    """Return the first sample count that fits into memory; print a line if it is not the first in the list."""
    free = problems.available_bytes()
    fitting = [m for m in samples if free is None or processes * (PROCESS_BYTES + m * BYTES_PER_SAMPLE) <= free]
    if not fitting:
        raise SystemExit(f"not enough memory: {free / 1e9:.1f} GB for {processes} processes; choose fewer with --only")
    if fitting[0] != samples[0]:
        print(f"{free / 1e9:.1f} GB are not enough for {samples[0]} samples: measuring {fitting[0]}", file=sys.stderr)
    return fitting[0]


def begin(names, folder, dtype, stack):
    """Start the workers; return those that can be measured, and the reasons why the others cannot."""
    workers, reasons = {}, {}
    for name in names:
        print(f"{dtype}: starting {name}", file=sys.stderr)
        try:
            worker = Worker(name, folder, dtype)
            stack.callback(worker.stop)
            if name == BASELINE:
                expected = worker.ask("costs", 3)
            elif name != LIMIT:
                problems.check([worker.ask("costs", 3)], [expected], dtype, "its cost")
            workers[name] = worker
        except WorkerError as error:
            reasons[name] = str(error)
            if name == BASELINE:
                raise SystemExit(f"{name}: {error}") from None
        except AssertionError as error:
            reasons[name] = f"not timed: {str(error).removesuffix(': not timed')}"
    return workers, reasons


def in_turns(workers, rounds, *question):
    """Ask every worker once per round; return the quartiles of its seconds, or the reason why it failed."""
    taken = {name: [] for name in workers}
    failed = {}
    for _ in range(rounds):
        for name in [name for name in workers if name not in failed]:
            try:
                taken[name].append(workers[name].ask(*question))
            except WorkerError as error:
                failed[name] = str(error)
    return {name: failed.get(name) or quartiles(times) for name, times in taken.items()}


def quartiles(times):
    """Return {"q1", "median", "q3"} of a list of seconds."""
    q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"q1": q1, "median": median, "q3": q3}


def measure(names, folder, dtype, rounds, at_least):
    """Return the figures of one dtype: for each name its step, ten epochs and version, or why there are none."""
    with contextlib.ExitStack() as stack:
        workers, figures = begin(names, folder, dtype, stack)
        print(f"{dtype}: measuring", file=sys.stderr)
        steps = in_turns(workers, rounds, "step", at_least)
        limit = workers.pop(LIMIT, None)
        trainings = in_turns(workers, -(-rounds // 3), "training", EPOCHS)
        for name, worker in workers.items():
            figures[name] = {"version": worker.version, "step": steps[name], "training": trainings[name]}
        if limit:
            figures[LIMIT] = limit.operations / steps[LIMIT]["median"]
    return figures


def machine():
    """Return the facts of this machine that matter for the figures."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    from fastmlp import show_config

    config = show_config(mode="dicts")
    return {
        "CPU": f"{processor} ({config['CPU']}, {config.get('vector width', 'width unknown')})",
        "cores": CORES,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numba": config.get("numba", "absent"),
        "date": datetime.date.today().isoformat(),
    }


def limits(figures, nonzero, m):
    """Return for each dtype the peak in operations per second, and the seconds for non-zero and for all products."""
    from benchmarks.limits import necessary_operations

    counts = [necessary_operations(count, m, SIZES) for count in (nonzero, SIZES[0] * m)]
    return {
        dtype: {"peak": peak, "necessary": counts[0] / peak, "dense": counts[1] / peak}
        for dtype in figures
        if isinstance(peak := figures[dtype].get(LIMIT), float)
    }


def cell(figure, scale):
    """Return 'median (q1-q3)' of one measurement."""
    if not isinstance(figure, dict):
        return "failed"
    digits = 1 if figure["median"] * scale < 20 else 0
    median, q1, q3 = (f"{figure[name] * scale:.{digits}f}" for name in ("median", "q1", "q3"))
    return f"{median} ({q1}-{q3})"


def rows(result):
    """Return the lines of the table: each net, or why it was not measured, and the limit."""
    lines = ["| ms, median (quartiles) | " + " | ".join(f"step, {d} | {EPOCHS} epochs, {d}" for d in result["figures"])]
    lines = [lines[0] + " |", "| --- " * (1 + 2 * len(result["figures"])) + "|"]
    for name in result["names"]:
        found = [figures[name] for figures in result["figures"].values()]
        cells = [
            cell(figure[quantity], 1e3) if isinstance(figure, dict) else figure.partition(":")[0]
            for figure in found
            for quantity in ("step", "training")
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if result["limits"]:
        times = [limit["necessary"] * 1e3 for limit in result["limits"].values()]
        lines.append(
            "| limit: all non-zero products at peak speed | "
            + " | ".join(f"{t:.1f} | {t * EPOCHS:.0f}" for t in times)
            + " |"
        )
    return lines


def in_short(result):
    """Yield the lines of a table with a column for each framework: the median of the epochs in the first dtype."""
    dtype, figures = next(iter(result["figures"].items()))
    measured = {name: figures[net] for net, name in IN_SHORT.items() if isinstance(figures.get(net), dict)}
    found = {name: cell(figure["training"], 1e3).partition(" ")[0] for name, figure in measured.items()}
    yield f"| {EPOCHS} epochs, {dtype}, ms | " + " | ".join(found) + " |"
    yield "| --- " * (1 + len(found)) + "|"
    problem = result["problem"]
    yield f"| {problem['data']}, {'-'.join(map(str, problem['net']))} | " + " | ".join(found.values()) + " |"


def notes(result):
    """Yield the lines under the table: data, machine, versions and limits, then the reasons for missing figures."""
    problem = result["problem"]
    versions = {
        figure["version"]
        for figures in result["figures"].values()
        for figure in figures.values()
        if isinstance(figure, dict) and "version" in figure
    }
    reasons = {
        f"{name}: {reason}"
        for figures in result["figures"].values()
        for name, reason in figures.items()
        if isinstance(reason, str)
    }
    m = result["machine"]
    peaks = "".join(
        f" Peak in {dtype}, measured between the nets: {limit['peak'] / 1e9:.0f} GFLOP/s; "
        f"all products of a step at peak: {limit['dense'] * 1e3:.0f} ms."
        for dtype, limit in result["limits"].items()
    )
    yield (
        "The output of `python -m benchmarks.peers --readme README.md` (extra `peers`); ten-epoch times include "
        "fastmlp's packing, but not the other frameworks' data conversion. "
        f"{problem['data']}, {problem['samples']} samples, {problem['density']:.1%} of the pixels non-zero; "
        f"{m['CPU']}, threads: {m['cores']}; {m['system']}; Python {m['python']}, numba {m['numba']}, "
        + ", ".join(sorted(versions))
        + f"; {m['date']}.{peaks}"
    )
    yield from sorted(reasons)


def run(only, small):
    """Run all measurements and return them as plain data."""
    os.environ.update(ENVIRONMENT)
    names = [name for name in BUILDERS if name in (BASELINE, LIMIT) or only in name]
    m = 1000 if small else affordable(SAMPLES, len(names))
    codes, labels, data = problems.image_codes(m)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/codes.npy", codes)
        np.save(f"{folder}/labels.npy", labels)
        figures = {dtype: measure(names, folder, dtype, *((1, 0.02) if small else (9, 0.5))) for dtype in DTYPES}
    nonzero = int(np.count_nonzero(codes))
    return {
        "machine": machine(),
        "problem": {"data": data, "samples": m, "density": nonzero / codes.size, "net": SIZES, "epochs": EPOCHS},
        "names": [name for name in names if name != LIMIT],
        "figures": figures,
        "limits": limits(figures, nonzero, m) if any(LIMIT in found for found in figures.values()) else {},
    }


def rewrite(path, text, begin=BEGIN, end=END):
    """Put the text between the two markers of a file."""
    whole = Path(path).read_text(encoding="utf-8")
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise SystemExit(f"{path}: expected the lines {begin!r} and {end!r} once each; add them where the table goes")
    before, after = whole.partition(begin)[0], whole.partition(end)[2]
    Path(path).write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main(words=None):
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="measure NumPy and the nets whose name contains TEXT"
    )
    parser.add_argument("--small", action="store_true", help="1000 samples, one round: a test run, not a measurement")
    parser.add_argument("--json", metavar="FILE", help="also write all figures to FILE")
    parser.add_argument("--readme", metavar="FILE", help="also put the tables between the markers in FILE")
    options = parser.parse_args(words)
    result = run(options.only, options.small)
    text = "\n".join([*rows(result), "", *notes(result)])
    print(text)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1), encoding="utf-8")
    if options.readme:
        rewrite(options.readme, text)
        rewrite(options.readme, "\n".join(in_short(result)), *SHORT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
