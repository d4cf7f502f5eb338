"""``python -m benchmarks.estimator``: the estimators against scikit-learn's, equality first and then speed.

Two tables. The first has the largest relative differences of coefficients and loss curves after 20 epochs in float64;
the second the time of scikit-learn's class over that of ours, medians of fits in turn in one process, with the same
data and arguments, and the ratio of the memory that a fit takes beyond X. ``--quick`` uses small data: a test run, not
a measurement. Exit status: 0 if all differences are at most 1e-9 and all required ratios are reached, else 1.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn import datasets, neural_network

from benchmarks import problems
from benchmarks.timing import settle
from fastmlp import estimator

DIFFERENCE = 1e-9
MODULES = {"scikit-learn": neural_network, "fastmlp": estimator}


class Row(NamedTuple):
    """A fit that is timed: the required ratio and the aim; ``data`` returns X and y for a share of the samples."""

    name: str
    required: float
    aim: float
    kind: str
    data: Any
    options: dict[str, Any]
    call: str = "fit"


def mnist(dtype):
    def data(share):
        images, labels, _ = problems.image_codes(int(60_000 * share))
        return np.ascontiguousarray(images.T / 255, dtype), labels

    return data


def digits(share):
    x, y = datasets.load_digits(return_X_y=True)
    return x[: int(1797 * share)] / 16, y[: int(1797 * share)]


def table(n, m, kind):
    def data(share):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((int(m * share), n))
        score = np.tanh(x @ rng.standard_normal((n, 3)))
        return x, score.argmax(axis=1) if kind == "classes" else score.sum(axis=1)

    return data


def words(share):
    rng, m = np.random.default_rng(0), int(20_000 * share)
    x = sparse.random(m, 50_000, density=0.002, format="csr", random_state=0)
    return x, (np.asarray(x[:, :100].sum(axis=1)).ravel() > rng.random(m) / 10).astype(int)


EPOCHS = {"max_iter": 5}
CLASSIFIER, REGRESSOR = "MLPClassifier", "MLPRegressor"
ROWS = [
    Row("MNIST, float32, 5 epochs", 5, 8, CLASSIFIER, mnist(np.float32), EPOCHS),
    Row("MNIST, float64, 5 epochs", 3, 6, CLASSIFIER, mnist(np.float64), EPOCHS),
    Row("digits, defaults", 3, 8, CLASSIFIER, digits, {}),
    Row("table 50000 x 50, (100,), relu", 3, 6, CLASSIFIER, table(50, 50_000, "classes"), EPOCHS),
    Row("table 50000 x 50, (64, 64), tanh", 3, 6, CLASSIFIER, table(50, 50_000, "classes"),
        {**EPOCHS, "hidden_layer_sizes": (64, 64), "activation": "tanh"}),
    Row("regression 50000 x 50, (100,), relu", 3, 6, REGRESSOR, table(50, 50_000, "numbers"), EPOCHS),
    Row("regression 50000 x 50, (64, 64), tanh", 3, 6, REGRESSOR, table(50, 50_000, "numbers"),
        {**EPOCHS, "hidden_layer_sizes": (64, 64), "activation": "tanh"}),
    Row("sparse 20000 x 50000, 5 epochs", 8, 20, CLASSIFIER, words, EPOCHS),
    Row("lbfgs, digits", 2, 4, CLASSIFIER, digits, {"solver": "lbfgs", "max_iter": 50}),
    Row("lbfgs, 5000 x 100", 2, 4, CLASSIFIER, table(100, 5000, "classes"), {"solver": "lbfgs", "max_iter": 50}),
    Row("predict, one row", 1, 3, CLASSIFIER, digits, {"max_iter": 2}, "one"),
    Row("predict, 100000 rows", 3, 5, CLASSIFIER, table(50, 100_000, "classes"), {"max_iter": 1}, "predict"),
]  # fmt: skip


def fitted(module, row, x, y):
    return getattr(MODULES[module], row.kind)(random_state=0, **row.options).fit(x, y)


def prepared(module, row, x, y):
    """Return a function to time."""
    if row.call == "fit":
        return lambda: fitted(module, row, x, y)
    model, rows = fitted(module, row, x[:2000], y[:2000]), x[:1] if row.call == "one" else x
    repeats = 200 if row.call == "one" else 1
    return lambda: [model.predict(rows) for _ in range(repeats)]


def speed(row, share, rounds):
    """Return the median ratio of the times of both, in turn."""
    x, y = row.data(share)
    functions = [prepared(name, row, x, y) for name in MODULES]
    ratios = []
    for turn in range(rounds + 1):
        taken = []
        for function in functions:
            settle()
            begun = time.perf_counter()
            function()
            taken.append(time.perf_counter() - begun)
        if turn > 0:  # the first one warms up
            ratios.append(taken[0] / taken[1])
    return statistics.median(ratios)


def memory_of_fit(module, share):
    """Return the bytes by which a fit of MNIST raises the peak of this process."""
    row = ROWS[0]
    fitted(module, row, *row.data(0.01))  # compiled
    x, y = row.data(share)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = _status("VmRSS")
    fitted(module, row, x, y)
    return _status("VmHWM") - before


def _status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))


def memory(share):
    """Return the memory of our fit over that of scikit-learn's, each in a process of its own."""
    found = []
    for module in MODULES:
        words = [sys.executable, "-W", "ignore", "-m", "benchmarks.estimator", "--memory-of", module, str(share)]
        found.append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    return found[1] / found[0]


def cases():
    """Yield the names and arguments of the table of equality."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((430, 20)) * (rng.random((430, 20)) < 0.5)
    total, weight = x.sum(axis=1), rng.random(430)
    targets = {
        "multiclass": np.digitize(total, [-1, 1]),
        "binary": (total + rng.standard_normal(430) > 0).astype(int),
        "multilabel": np.stack([total > 0, x[:, 0] > 0], axis=1).astype(int),
        "squared_error": total + x[:, 0] ** 2,
        "poisson": rng.poisson(np.exp(total / 6)).astype(float),
    }
    activations, ways = (
        ("identity", "logistic", "tanh", "relu"),
        ("plain", "early stopping", "weights", "warm", "partial"),
    )
    for solver, target, form in itertools.product(("adam", "sgd", "lbfgs"), targets, ("dense", "CSR")):
        for activation, way in itertools.product(
            activations, ways if solver != "lbfgs" else ("plain", "weights", "warm")
        ):
            given = x if form == "dense" else sparse.csr_array(x)
            yield (solver, target, form), activation, way, given, targets[target], weight


def trained(module, solver, target, activation, way, x, y, weight):
    options = {"solver": solver, "activation": activation, "max_iter": 20, "random_state": 2, "batch_size": 64}
    options |= {"learning_rate_init": 0.01, "hidden_layer_sizes": (16,), "tol": 1e-9}
    if way == "warm":
        options["max_iter"] = 10  # 20 with both fits: rounding errors grow with each
    options |= {"early_stopping": way == "early stopping", "warm_start": way == "warm"}
    if target in ("squared_error", "poisson"):
        model = getattr(MODULES[module], REGRESSOR)(loss=target, **options)
    else:
        model = getattr(MODULES[module], CLASSIFIER)(**options)
    if way == "partial":
        labels = np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])
        for turn in range(20):
            model.partial_fit(x, y, **({"classes": labels} if turn == 0 and hasattr(model, "predict_proba") else {}))
        return model
    for _ in range(2 if way == "warm" else 1):
        model.fit(x, y, sample_weight=weight if way == "weights" else None)
    return model


def differences(one, other):
    """Return the largest relative differences of the coefficients and of the loss curve."""
    pairs = zip([*one.coefs_, *one.intercepts_], [*other.coefs_, *other.intercepts_], strict=True)
    curves = (np.atleast_1d(getattr(model, "loss_curve_", model.loss_)) for model in (one, other))
    return max(problems.difference(a, b) for a, b in pairs), problems.difference(*curves)


def equality(quick):
    """Print the table of equality; return whether all is equal."""
    worst = {}
    for (solver, target, form), activation, way, *data in cases():
        if quick and activation != "relu":
            continue
        theirs, ours = (trained(name, solver, target, activation, way, *data) for name in MODULES)
        before = worst.get((solver, target, form, way), (0.0, 0.0))
        worst[solver, target, form, way] = tuple(map(max, before, differences(ours, theirs)))
    print("largest relative difference over all activations: coefficients, loss curve")
    for names, found in worst.items():
        print(f"{', '.join(names):45} {found[0]:.1e}  {found[1]:.1e}")
    return max(itertools.chain(*worst.values())) <= DIFFERENCE


def main(words=None):
    parser = argparse.ArgumentParser("python -m benchmarks.estimator", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small data: a test run, not a measurement")
    parser.add_argument("--only", default="", metavar="TEXT", help="time only the rows whose name contains TEXT")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    warnings.simplefilter("ignore")
    if options.memory_of:
        print(memory_of_fit(options.memory_of[0], float(options.memory_of[1])))
        return 0
    reached = options.only != "" or equality(options.quick)
    share, rounds = (0.02, 1) if options.quick else (1.0, 5)
    print(f"\n{'scikit-learn over fastmlp':45} required  aim  measured")
    for row in ROWS:
        if options.only in row.name:
            found = speed(row, share, rounds)
            reached = reached and found >= row.required
            print(f"{row.name:45} {row.required:8} {row.aim:4} {found:8.2f} x", flush=True)
    if options.only in "memory" and sys.platform == "linux":
        found = memory(share)
        reached = reached and found <= 0.6
        print(f"{'memory of fit on MNIST beyond X':45} {0.6:8} {0.3:4} {found:8.2f}")
    return 0 if reached or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
