"""The notebook, cell by cell: ``python tests/notebook_cells.py`` runs it twice and prints the largest differences.

The first run defines the seven functions in plain NumPy; the second replaces that cell by ``from fastmlp import *``.
Needs MNIST: set FASTMLP_DATA to the folder that contains mnist/.
"""

import numpy as np

PLAIN = "from fastmlp.formulas import *"
FASTMLP = "from fastmlp import *"

CELLS = """
# %% data
(x_train, y_train), (x_test, y_test) = mnist.load_data()
X = x_train.reshape(x_train.shape[0], -1).T / 255.
X_test = x_test.reshape(x_test.shape[0], -1).T / 255.
Y = one_hot(y_train)

# %% weights
np.random.seed(0)
W1 = np.random.rand(128, 784) - 0.5
b1 = np.zeros((128, 1))
W2 = np.random.rand(10, 128) - 0.5
b2 = np.zeros((10, 1))

# %% training
costs = []
for epoch in range(epochs):
    A1, Z1, A2, Z2 = Forwardprop(X, W1, W2, b1, b2)
    costs.append(compute_cost(A2, Y))
    dW1, db1, dW2, db2 = backward_prop(Z1, A1, Z2, A2, W1, W2, X, Y)
    W1, b1, W2, b2 = update_params(W1, b1, W2, b2, dW1, db1, dW2, db2, alpha=0.5)

# %% test
test_accuracy = np.mean(np.argmax(Forwardprop(X_test, W1, W2, b1, b2)[2], axis=0) == y_test)
"""
ARRAYS = "Y A1 Z1 A2 Z2 dW1 db1 dW2 db2 W1 b1 W2 b2 costs test_accuracy".split()


def run(functions, epochs=20):
    """Run the notebook with ``functions`` as the cell that defines the functions; return its variables."""
    from fastmlp.datasets import mnist

    variables = {"np": np, "mnist": mnist, "epochs": epochs}
    exec(functions + CELLS, variables)
    return {name: np.asarray(variables[name]) for name in ARRAYS}


def differences(plain, ours):
    """Return {variable: max|ours - plain| / max|plain|} for the variables of two runs."""
    return {name: float(np.max(np.abs(ours[name] - plain[name])) / np.max(np.abs(plain[name]))) for name in ARRAYS}


if __name__ == "__main__":
    result = differences(run(PLAIN), run(FASTMLP))
    for name, value in result.items():
        print(f"{name:14}{value:.1e}")  # noqa: T201
    print(f"{'largest':14}{max(result.values()):.1e}")  # noqa: T201
