"""The cells of ``benchmarks/notebook.ipynb``, and the largest differences between plain NumPy and fastmlp in them.

``python tests/notebook_cells.py`` runs the cells twice and prints the differences: with the cell that defines the seven
functions, and with the changed import instead. Needs MNIST: set FASTMLP_DATA to the folder that contains mnist/.
"""

import json
from pathlib import Path

import numpy as np

NOTEBOOK = Path(__file__).parents[1] / "benchmarks" / "notebook.ipynb"
CODE = {
    cell["id"]: "".join(cell["source"])
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
}
PLAIN, FASTMLP = CODE["functions"], CODE["fastmlp"]
ARRAYS = "Y A1 Z1 A2 Z2 dW1 db1 dW2 db2 W1 b1 W2 b2 costs test_accuracy".split()


def run(functions, epochs=20):
    """Run the notebook with ``functions`` as the cell that defines the functions; return its variables."""
    variables = {}
    exec(CODE["imports"], variables)
    variables["epochs"] = epochs
    for code in (functions, *map(CODE.get, ("data", "weights", "training", "test"))):
        exec(code, variables)
    return {name: np.asarray(variables[name]) for name in ARRAYS}


def differences(plain, ours):
    """Return {variable: max|ours - plain| / max|plain|} for the variables of two runs."""
    return {name: float(np.max(np.abs(ours[name] - plain[name])) / np.max(np.abs(plain[name]))) for name in ARRAYS}


if __name__ == "__main__":
    result = differences(run(PLAIN), run(FASTMLP))
    for name, value in result.items():
        print(f"{name:14}{value:.1e}")  # noqa: T201
    print(f"{'largest':14}{max(result.values()):.1e}")  # noqa: T201
