"""Targets of learning that are measured without other frameworks' processes."""

import json
import subprocess
import sys
import time

import numpy as np

import fastmlp
from benchmarks import problems
from benchmarks.timing import ratio
from fastmlp import formulas, optimizers

ITERATIONS = 10


def two_threads(task, recipe, rounds):
    """Return the time of two epochs on one thread over that on all threads."""
    packed = fastmlp.pack(task.x, scale=task.scale, minibatches=True)

    def train():
        model = fastmlp.MLP(task.sizes, dtype="float32")
        model.fit(packed, task.labels, epochs=2, progress=False, **recipe._asdict())
        return model.parameters

    def train_on_one_thread():
        with fastmlp.use_threads(1):
            return train()

    if not np.array_equal(train(), train_on_one_thread()):
        raise AssertionError("one thread trains another net: not timed")
    return ratio(train_on_one_thread, train, rounds)


def lbfgs(task, rounds):
    """Return the time of an iteration of SciPy's L-BFGS-B with the notebook's gradients over that of ours, float64."""
    from scipy.optimize import minimize

    model = fastmlp.MLP(task.sizes, seed=0)
    packed, start = fastmlp.pack(task.x, scale=task.scale), model.parameters.copy()
    x, y = task.x * task.scale, formulas.one_hot(task.labels)
    n, h, c = task.sizes
    ends = np.cumsum([h * n, h, c * h])

    def loss_and_grad(flat):
        w1, b1, w2, b2 = np.split(flat, ends)
        w1, b1, w2, b2 = w1.reshape(h, n), b1[:, None], w2.reshape(c, h), b2[:, None]
        a1, z1, a2, z2 = formulas.Forwardprop(x, w1, w2, b1, b2)
        gradients = formulas.backward_prop(z1, a1, z2, a2, w1, w2, x, y)
        return float(formulas.compute_cost(a2, y)), np.concatenate([g.ravel() for g in gradients])

    def scipy():
        settings = {"maxiter": ITERATIONS, "maxcor": 10, "ftol": 0, "gtol": 0}
        return minimize(loss_and_grad, start, jac=True, method="L-BFGS-B", options=settings)

    def ours():
        model.parameters = start
        model.fit(packed, task.labels, epochs=ITERATIONS, optimizer=optimizers.LBFGS(), progress=False)
        return model.loss_and_grad(packed, task.labels)[0]

    problems.check([model.loss_and_grad(packed, task.labels)[1]], [loss_and_grad(start)[1]], "float64", "the gradient")
    found = scipy()
    if found.nit != ITERATIONS or not ours() <= 1.25 * found.fun:
        raise AssertionError(f"losses of {ours():.3f} and, in {found.nit} iterations, {found.fun:.3f}: not timed")
    return ratio(scipy, ours, rounds)


def command_line(target):
    """Return the seconds of ``fastmlp train mnist`` in a process of its own, or None if it ends below the target."""
    command = [sys.executable, "-m", "fastmlp", "train", "mnist", "--json"]
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        taken.append(time.perf_counter() - start)
        accuracy = json.loads(done.stdout)["test"]["accuracy"]
        if accuracy < target:
            print(f"    {' '.join(command[2:])} ends at {accuracy:.2%}")
            return None
    return float(np.median(taken[1:]))  # the first run filled the compile cache
