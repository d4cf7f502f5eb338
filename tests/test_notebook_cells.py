"""The whole notebook on real MNIST: plain NumPy against one import line."""

import inspect
import re

import notebook_cells
import numpy as np
import pytest
from compare import F8, TOLERANCE

from fastmlp import formulas


@pytest.fixture(scope="module")
def plain(mnist_data):
    """Return the variables of the notebook in plain NumPy, which takes most of the time."""
    return notebook_cells.run(notebook_cells.PLAIN)


def test_twenty_epochs_of_the_notebook_agree(backend, plain):
    differences = notebook_cells.differences(plain, notebook_cells.run(notebook_cells.FASTMLP))
    assert max(differences.values()) <= TOLERANCE["trajectory", F8], differences


def test_the_star_import_runs_the_cells(mnist_data):
    assert notebook_cells.FASTMLP == "from fastmlp import *"
    variables = notebook_cells.run(notebook_cells.FASTMLP, epochs=1)
    assert variables["Y"].shape == (10, 60000)
    assert np.isfinite(variables["costs"]).all()


def test_the_functions_from_scratch_are_the_formulas_of_the_benchmarks(rng):
    scratch = {"np": np}
    exec(notebook_cells.PLAIN, scratch)
    x, y, alpha = rng.random((6, 30)), scratch["one_hot"](rng.integers(0, 10, 30)), 0.5
    weights = rng.random((4, 6)), rng.random((4, 1)), rng.random((10, 4)), rng.random((10, 1))

    def step(one_hot, ReLU, Softmax, Forwardprop, compute_cost, backward_prop, update_params):
        w1, b1, w2, b2 = weights
        a1, z1, a2, z2 = Forwardprop(x, w1, w2, b1, b2)
        gradients = backward_prop(z1, a1, z2, a2, w1, w2, x, y)
        updated = *update_params(*weights, *gradients), *update_params(*weights, *gradients, alpha=alpha)
        return one_hot(np.arange(10)), ReLU(z1), Softmax(z2), a2, compute_cost(a2, y), *gradients, *updated

    functions = list(inspect.signature(step).parameters)
    ours = step(*(getattr(formulas, name) for name in functions))
    for one, other in zip(step(*map(scratch.get, functions)), ours, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_notebook_runs_from_its_first_cell_to_its_last(mnist_data, run_python):
    """IPython runs the cells as Jupyter does, with the notebook's 20 epochs cut to 2."""
    pytest.importorskip("IPython", exc_type=ImportError)
    cells = [code.replace("epochs = 20", "epochs = 2") for code in notebook_cells.CODE.values()]
    printed = run_python(f"""
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in {cells!r}:
    shell.run_cell(cell, store_history=True).raise_error()
""").stdout
    first, again = re.findall(r"cost ([\d.]+), test accuracy ([\d.]+%), 2 epochs in [\d.]+ s", printed)
    assert first == again
    assert [float(one) < 1e-10 for one in re.findall(r"largest difference .*: +([\d.e-]+)", printed)] == [True, True]
    assert re.search(r"NumPy [\d.]+ s, fastmlp [\d.]+ s: [\d.]+ times as fast", printed)
