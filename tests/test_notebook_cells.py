"""The whole notebook on real MNIST: plain NumPy against one import line."""

import notebook_cells
import numpy as np
import pytest
from compare import F8, TOLERANCE


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
