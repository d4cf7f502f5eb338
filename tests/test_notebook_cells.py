"""The whole notebook on real MNIST: plain NumPy against one import line."""

import notebook_cells
import numpy as np
from compare import F8, TOLERANCE


def test_twenty_epochs_of_the_notebook_agree(backend, mnist_data):
    differences = notebook_cells.differences(epochs=20)
    assert max(differences.values()) <= TOLERANCE["trajectory", F8], differences


def test_the_star_import_runs_the_cells(mnist_data):
    assert notebook_cells.FASTMLP == "from fastmlp import *"
    variables = notebook_cells.run(notebook_cells.FASTMLP, epochs=1)
    assert variables["Y"].shape == (10, 60000)
    assert np.isfinite(variables["costs"]).all()
