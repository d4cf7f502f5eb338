"""The same training on minibatches in every framework, each in its best form: same initial weights, same recipe.

Each builder takes a `Task` and returns a `Learner`. It runs in a process of its own and imports its framework itself.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastmlp
from benchmarks.recipes import EPSILON, Task
from benchmarks.suite import CORES
from benchmarks.timing import seconds
from benchmarks.workers import settled


class Learner(NamedTuple):
    """Two functions.

    ``prepare(recipe, seed)`` returns the data in the form that is trained on, from uint8 or float32 arrays.
    ``train(data, recipe, epochs, seed)`` returns [W1, b1, W2, b2], as the notebook has them.
    """

    prepare: Callable[..., Any]
    train: Callable[..., list[Any]]
    version: str


def fastmlp_fit(task):
    fastmlp.set_backend("numba")

    def prepare(recipe, seed):
        return fastmlp.pack(task.x, scale=task.scale, minibatches=True)

    def train(data, recipe, epochs, seed):
        model = fastmlp.MLP(task.sizes, dtype="float32", seed=seed)
        model.fit(data, task.labels, epochs=epochs, progress=False, **recipe._asdict())
        return [p for both in zip(model.weights, model.biases, strict=True) for p in both]

    return Learner(prepare, train, f"fastmlp {fastmlp.__version__}")


def _torch_layers(torch, task, seed):
    return [torch.tensor(p.squeeze()) for p in task.layers(seed)]


def _torch_rows(torch, task, samples):
    return torch.from_numpy(task.x.T[samples]).float().mul_(task.scale)


def _from_torch(layers):
    w1, b1, w2, b2 = (p.detach().numpy() for p in layers)
    return [w1, b1[:, None], w2, b2[:, None]]


def torch_eager(task, threads):
    import torch
    from torch.nn.functional import cross_entropy, linear

    torch.set_num_threads(threads)
    m = len(task.labels)

    def prepare(recipe, seed):
        samples = recipe.samples(m, seed)
        size = recipe.batch_size
        x, y = _torch_rows(torch, task, samples), torch.from_numpy(task.labels[samples])
        return list(zip(x.split(size), y.split(size), strict=True))

    def train(data, recipe, epochs, seed):
        w1, b1, w2, b2 = layers = [p.requires_grad_() for p in _torch_layers(torch, task, seed)]
        betas = recipe.optimizer.beta1, recipe.optimizer.beta2
        optimizer = torch.optim.Adam(layers, betas=betas, eps=EPSILON, fused=True)
        (group,), rates = optimizer.param_groups, recipe.rates(m, epochs).tolist()
        for epoch in range(epochs):
            for k, group["lr"] in zip(recipe.order(m, epoch, seed).tolist(), rates[epoch], strict=True):
                x, y = data[k]
                optimizer.zero_grad()
                cross_entropy(linear(linear(x, w1, b1).relu(), w2, b2), y).backward()
                optimizer.step()
        return _from_torch(layers)

    return Learner(prepare, train, f"torch {torch.__version__}")


def torch_compiled(task):
    """Return a learner whose gradients and update are one compiled function."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    torch._dynamo.config.recompile_limit = 64  # one compilation for each size of batches
    m = len(task.labels)

    def cost_of(layers, x, y, share):
        w1, b1, w2, b2 = layers
        return torch.dot(cross_entropy(linear(linear(x, w1, b1).relu(), w2, b2), y, reduction="none"), share)

    @functools.partial(torch.compile, dynamic=False, fullgraph=True)
    def update(layers, state, x, y, share, now, beta1, beta2):
        step, scale = now[0] / (1 - now[1]), (1 - now[2]).rsqrt()
        gradients = torch.func.grad(cost_of)(layers, x, y, share)
        for p, (first, second), g in zip(layers, state, gradients, strict=True):
            first.lerp_(g, 1 - beta1)
            second.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            p.sub_(step * first / (scale * second.sqrt() + EPSILON))

    def prepare(recipe, seed):
        x, y, share = recipe.arranged(task, seed)
        return torch.from_numpy(x).float().mul_(task.scale), torch.from_numpy(y), torch.from_numpy(share)

    @torch.no_grad()
    def train(data, recipe, epochs, seed):
        layers = _torch_layers(torch, task, seed)
        state = [(torch.zeros_like(p), torch.zeros_like(p)) for p in layers]
        betas = recipe.optimizer.beta1, recipe.optimizer.beta2
        batches, numbers = list(zip(*data, strict=True)), torch.from_numpy(recipe.numbers(m, epochs))
        for epoch in range(epochs):
            for k, now in zip(recipe.order(m, epoch, seed).tolist(), numbers[epoch], strict=True):
                update(layers, state, *batches[k], now, *betas)
        return _from_torch(layers)

    return Learner(prepare, train, f"torch {torch.__version__}")


def jax_epoch(task):
    """Return a learner of which an epoch is one compiled function."""
    import jax
    from jax import numpy as jnp

    m = len(task.labels)

    def cost_of(layers, x, y, share):
        w1, b1, w2, b2 = layers
        logits = jax.nn.relu(x @ w1 + b1) @ w2 + b2
        own = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0]
        return jnp.dot(jax.nn.logsumexp(logits, axis=1) - own, share)

    @functools.partial(jax.jit, donate_argnums=0, static_argnums=(4, 5))
    def run(state, data, order, numbers, beta1, beta2):
        def update(state, now):
            k, (rate, power1, power2) = now
            layers, first, second = state
            gradients = jax.grad(cost_of)(layers, *(part[k] for part in data))
            first = [beta1 * m + (1 - beta1) * g for m, g in zip(first, gradients, strict=True)]
            second = [beta2 * v + (1 - beta2) * g * g for v, g in zip(second, gradients, strict=True)]
            step, scale = rate / (1 - power1), jax.lax.rsqrt(1 - power2)
            layers = [
                p - step * m / (scale * jnp.sqrt(v) + EPSILON) for p, m, v in zip(layers, first, second, strict=True)
            ]
            return (layers, first, second), None

        return jax.lax.scan(update, state, (order, numbers))[0]

    @jax.jit
    def scaled(x):
        return x.astype(jnp.float32) * task.scale

    def prepare(recipe, seed):
        x, y, share = recipe.arranged(task, seed)
        return jax.block_until_ready((scaled(x), jnp.asarray(y), jnp.asarray(share)))

    def train(data, recipe, epochs, seed):
        layers = [jnp.asarray(p.squeeze().T) for p in task.layers(seed)]
        state = layers, *([jnp.zeros_like(p) for p in layers] for _ in range(2))
        betas, numbers = (recipe.optimizer.beta1, recipe.optimizer.beta2), recipe.numbers(m, epochs)
        for epoch in range(epochs):
            state = run(state, data, recipe.order(m, epoch, seed), numbers[epoch], *betas)
        return _turned(np.asarray(p) for p in state[0])

    return Learner(prepare, train, f"jax {jax.__version__}")


def _turned(layers):
    w1, b1, w2, b2 = layers
    return [w1.T, b1[:, None], w2.T, b2[:, None]]


def tensorflow_epoch(task, compiled):
    """Return a learner of which an epoch is one function of TensorFlow, with its own kernel for the update."""
    import tensorflow as tf

    m = len(task.labels)
    layers = [tf.Variable(p.squeeze().T) for p in task.layers(0)]
    state = [[tf.Variable(tf.zeros_like(p)) for p in layers] for _ in range(2)]

    @tf.function(jit_compile=compiled)
    def run(data, order, numbers, beta1, beta2):
        for k in tf.range(tf.shape(order)[0]):
            x, y, share = (part[order[k]] for part in data)
            with tf.GradientTape() as tape:
                logits = tf.nn.relu(x @ layers[0] + layers[1]) @ layers[2] + layers[3]
                cost = tf.tensordot(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits), share, 1)
            now = numbers[k]
            for p, first, second, g in zip(layers, *state, tape.gradient(cost, layers), strict=True):
                tf.raw_ops.ResourceApplyAdam(
                    var=p.handle, m=first.handle, v=second.handle, beta1_power=now[1], beta2_power=now[2],
                    lr=now[0], beta1=beta1, beta2=beta2, epsilon=EPSILON, grad=g,
                )  # fmt: skip

    def prepare(recipe, seed):
        x, y, share = recipe.arranged(task, seed)
        return tf.cast(x, tf.float32) * task.scale, tf.constant(y), tf.constant(share)

    def train(data, recipe, epochs, seed):
        for p, value in zip(layers, task.layers(seed), strict=True):
            p.assign(value.squeeze().T)
        for p in (*state[0], *state[1]):
            p.assign(tf.zeros_like(p))
        betas = tf.constant(recipe.optimizer.beta1), tf.constant(recipe.optimizer.beta2)
        numbers = tf.constant(recipe.numbers(m, epochs))
        for epoch in range(epochs):
            run(data, tf.constant(recipe.order(m, epoch, seed)), numbers[epoch], *betas)
        return _turned(p.numpy() for p in layers)

    return Learner(prepare, train, f"tensorflow {tf.__version__}")


def sklearn_classifier(task):
    """Return a learner with scikit-learn's own loop, which has constant rates only: a schedule becomes its default."""
    import sklearn
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")  # scikit-learn warns that training has not converged
    classes = np.arange(task.sizes[-1])

    def prepare(recipe, seed):
        return np.multiply(task.x.T, task.scale, dtype=np.float32)

    def train(data, recipe, epochs, seed):
        rate = recipe.optimizer.learning_rate(1, 1) if not recipe.shuffle else 1e-3
        net = MLPClassifier(
            task.sizes[1:-1], alpha=0, batch_size=recipe.batch_size, learning_rate_init=rate, max_iter=epochs,
            shuffle=bool(recipe.shuffle), random_state=seed, tol=0, n_iter_no_change=epochs + 1, warm_start=True,
        )  # fmt: skip
        # Creates the layers that are overwritten below; `fit` then starts from these, with a fresh optimizer.
        net.partial_fit(data[: recipe.batch_size], task.labels[: recipe.batch_size], classes=classes)
        w1, b1, w2, b2 = task.layers(seed)
        for ours, given in zip((*net.coefs_, *net.intercepts_), (w1, w2, b1, b2), strict=True):
            ours[...] = given.squeeze().T
        net.fit(data, task.labels)
        return _turned((net.coefs_[0], net.intercepts_[0], net.coefs_[1], net.intercepts_[1]))

    return Learner(prepare, train, f"scikit-learn {sklearn.__version__}")


OURS, CONSTANT = "fastmlp", "scikit-learn, MLPClassifier"
BUILDERS = {
    OURS: fastmlp_fit,
    "PyTorch, eager": lambda task: torch_eager(task, CORES),
    "PyTorch, eager, one thread": lambda task: torch_eager(task, 1),  # better beside another busy process
    "PyTorch, compiled": torch_compiled,
    "JAX, one jit for an epoch": jax_epoch,
    "TensorFlow, tf.function for an epoch": lambda task: tensorflow_epoch(task, compiled=False),
    "TensorFlow, XLA for an epoch": lambda task: tensorflow_epoch(task, compiled=True),
    CONSTANT: sklearn_classifier,
}


def save(folder, name, task):
    """Write a task for the processes of learners."""
    np.savez(f"{folder}/{name}.npz", **task._asdict())


def serve(name, folder, task_name):
    """Return facts and functions of a learner, as `Worker` wants them."""
    with np.load(f"{folder}/{task_name}.npz") as file:
        task = Task(**file)
    task = task._replace(scale=float(task.scale), sizes=tuple(task.sizes.tolist()))
    learner = BUILDERS[name](task)
    prepared = functools.lru_cache(maxsize=1)(lambda recipe: learner.prepare(recipe, 0))

    @functools.cache
    def warm(recipe):
        learner.train(prepared(recipe), recipe, 1, 0)

    def loss(recipe):
        return task.loss(learner.train(prepared(recipe), recipe, 1, 0))

    def first(recipe):
        """Return the seconds of preparation and of a run of one epoch."""
        return settled(lambda: seconds(lambda: learner.train(learner.prepare(recipe, 0), recipe, 1, 0)))

    def epoch(recipe, epochs):
        """Return the seconds of a run of so many epochs, for each of them."""
        data = prepared(recipe)
        learner.train(data, recipe, 1, 0)  # the caches are filled with the data of other processes
        return settled(lambda: seconds(lambda: learner.train(data, recipe, epochs, 0)) / epochs)

    def run(recipe, epochs, seed):
        warm(recipe)
        layers = None

        def train():
            nonlocal layers
            layers = learner.train(learner.prepare(recipe, seed), recipe, epochs, seed)

        taken = settled(lambda: seconds(train))
        return taken, settled(lambda: task.accuracy(layers))

    return (learner.version, 0), {"loss": loss, "first": first, "epoch": epoch, "run": run}
