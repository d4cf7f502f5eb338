"""The same net in every framework: same initial weights, same data, full-batch gradient descent.

Each builder takes a `Problem` and returns a `Net`. It runs in a process of its own and imports its framework itself.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastmlp
from benchmarks import problems
from fastmlp import formulas

ALPHA = 0.1
SIZES = (784, 128, 10)


class Problem(NamedTuple):
    """Images (784, m) uint8, labels (m,), and the dtype of the computation."""

    codes: Any
    labels: Any
    dtype: str

    def rows(self):
        """Return X (m, 784), one sample per row, as the frameworks expect it."""
        return np.divide(self.codes.T, 255, dtype=self.dtype)

    def layers(self):
        """Return [W1, b1, W2, b2] as the notebook draws them."""
        return problems.parameters(SIZES, self.dtype)


class Net(NamedTuple):
    """``start()`` resets to the initial weights and returns a step function, which returns the cost before the step."""

    start: Callable[[], Callable[[], float]]
    version: str
    train: Callable[[int], Any] | None = None  # trains n epochs, if that is more than n steps
    costs: Callable[[int], list[float]] | None = None  # the costs of n steps, if a step returns another cost
    operations: int = 0  # per step, for the limit only


def _notebook(functions, version, problem):
    x, y = problem.rows().T, formulas.one_hot(problem.labels).astype(problem.dtype)

    def start():
        layers = problem.layers()

        def step():
            nonlocal layers
            cost, layers = problems.notebook_turn(functions, layers, x, y, ALPHA)
            return cost

        return step

    return Net(start, version)


def _blas():
    from threadpoolctl import threadpool_info

    libraries = threadpool_info()
    return ", ".join(f"{found['internal_api']} {found.get('architecture', '')}".strip() for found in libraries)


def numpy_formulas(problem):
    return _notebook(formulas, f"NumPy {np.__version__}, {_blas()}", problem)


def _plain(backend, problem):
    fastmlp.set_backend(backend)
    return _notebook(fastmlp, f"fastmlp {fastmlp.__version__}", problem)


def _packed(backend, problem):
    fastmlp.set_backend(backend)
    packed = fastmlp.pack(problem.codes, scale=1 / 255)

    def start():
        model = fastmlp.MLP(SIZES, dtype=problem.dtype, seed=0)
        gradient = np.empty_like(model.parameters)
        rate = model.dtype.type(ALPHA)

        def step():
            cost, _ = model.loss_and_grad(packed, problem.labels, out=gradient)
            model.parameters = model.parameters - rate * gradient
            return cost

        return step

    def train(epochs):  # includes packing
        model = fastmlp.MLP(SIZES, dtype=problem.dtype, seed=0)
        model.fit(fastmlp.pack(problem.codes, scale=1 / 255), problem.labels, epochs=epochs, alpha=ALPHA)

    return Net(start, f"fastmlp {fastmlp.__version__}", train)


def _torch(problem, compiled):
    import torch

    x, y = torch.from_numpy(problem.rows()), torch.from_numpy(problem.labels)

    def cost_of(w1, b1, w2, b2):
        hidden = torch.nn.functional.linear(x, w1, b1).relu()
        return torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden, w2, b2), y)

    cost_of = torch.compile(cost_of) if compiled else cost_of

    def start():
        layers = [torch.tensor(p.squeeze()).requires_grad_() for p in problem.layers()]
        optimizer = torch.optim.SGD(layers, lr=ALPHA)

        def step():
            optimizer.zero_grad()
            cost = cost_of(*layers)
            cost.backward()
            optimizer.step()
            return cost.item()

        return step

    return Net(start, f"torch {torch.__version__}")


def jax_jit(problem):
    import jax

    jax.config.update("jax_enable_x64", True)
    from jax import numpy as jnp

    x, y = jnp.asarray(problem.rows()), jnp.asarray(problem.labels)

    @jax.value_and_grad
    def cost_of(layers, x, y):
        w1, b1, w2, b2 = layers
        logits = jax.nn.relu(x @ w1 + b1) @ w2 + b2
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0])

    @jax.jit
    def update(layers, x, y):
        cost, gradients = cost_of(layers, x, y)
        return cost, [p - ALPHA * g for p, g in zip(layers, gradients, strict=True)]

    def start():
        layers = [jnp.asarray(p.squeeze().T) for p in problem.layers()]

        def step():
            nonlocal layers
            cost, layers = update(layers, x, y)
            jax.block_until_ready(layers)
            return float(cost)

        return step

    return Net(start, f"jax {jax.__version__}")


def tensorflow_function(problem):
    import tensorflow as tf

    x, y = tf.constant(problem.rows()), tf.constant(problem.labels)

    def start():
        layers = [tf.Variable(p.squeeze().T) for p in problem.layers()]

        @tf.function
        def update():
            with tf.GradientTape() as tape:
                logits = tf.nn.relu(x @ layers[0] + layers[1]) @ layers[2] + layers[3]
                cost = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
            for p, g in zip(layers, tape.gradient(cost, layers), strict=True):
                p.assign_sub(ALPHA * g)
            return cost

        return lambda: float(update())

    return Net(start, f"tensorflow {tf.__version__}")


def sklearn_classifier(problem):
    import sklearn
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")  # scikit-learn warns of a batch as large as the data
    x, classes = problem.rows(), np.arange(SIZES[-1])

    def begin():
        net = MLPClassifier(
            SIZES[1:-1], solver="sgd", alpha=0, batch_size=len(x), learning_rate_init=ALPHA, shuffle=False, momentum=0
        )
        net.partial_fit(x[:1], problem.labels[:1], classes=classes)  # creates the layers that are overwritten below
        w1, b1, w2, b2 = problem.layers()
        for ours, given in zip((*net.coefs_, *net.intercepts_), (w1, w2, b1, b2), strict=True):
            ours[...] = given.squeeze().T
        return net

    def start():
        net = begin()
        return lambda: net.partial_fit(x, problem.labels).loss_

    def costs(count):
        # scikit-learn's cost clips probabilities at eps, which in float32 is larger than many of them.
        net, y, found = begin(), formulas.one_hot(problem.labels), []
        for _ in range(count):
            (w1, w2), (b1, b2) = net.coefs_, net.intercepts_
            a2 = formulas.Forwardprop(x.T, w1.T, w2.T, b1[:, None], b2[:, None])[2]
            found.append(float(formulas.compute_cost(a2, y)))
            net.partial_fit(x, problem.labels)
        return found

    return Net(start, f"scikit-learn {sklearn.__version__}", costs=costs)


def peak(problem):
    """Not a net: only multiply-adds, measured in turn with the nets because the clock frequency drifts."""
    from benchmarks import limits

    run, operations = limits.multiply_adds(problem.dtype)

    def step():
        run()
        return float("nan")

    return Net(lambda: step, "", operations=operations)


BASELINE, LIMIT = "NumPy, the notebook's formulas", "the peak of multiply-adds"
BUILDERS = {
    BASELINE: numpy_formulas,
    "fastmlp, numba, packed": lambda problem: _packed("numba", problem),
    "fastmlp, numba, plain arrays": lambda problem: _plain("numba", problem),
    "fastmlp, numpy, packed": lambda problem: _packed("numpy", problem),
    "fastmlp, numpy, plain arrays": lambda problem: _plain("numpy", problem),
    "PyTorch, eager": lambda problem: _torch(problem, compiled=False),
    "PyTorch, compiled": lambda problem: _torch(problem, compiled=True),
    "JAX, jit": jax_jit,
    "TensorFlow, tf.function": tensorflow_function,
    "scikit-learn, MLPClassifier": sklearn_classifier,
    LIMIT: peak,
}
