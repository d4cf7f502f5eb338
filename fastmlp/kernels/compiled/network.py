"""What the engine does for a network."""

from typing import Any

import numpy as np

from fastmlp.kernels.compiled import tuning
from fastmlp.kernels.compiled.memory import canonical
from fastmlp.kernels.compiled.operands import Packed
from fastmlp.kernels.compiled.plan import first_and_rest
from fastmlp.kernels.compiled.small_batch import few_pass, few_plan, few_step
from fastmlp.kernels.compiled.step import make_problem, network_outputs, packed_and_plain, set_gradient


def network_step(
    gradient: Any, parameters: Any, sizes: tuple[int, ...], x: Any, table: Any, y: Any, weight: Any
) -> tuple[float, float, float]:
    """Set ``gradient`` to the weighted mean gradient; return the sums of loss, weight of right answers, weight.

    parameters and gradient (k,) flat, y labels (m,) int64 or targets (C, m), weight (m,).
    """
    dtype = parameters.dtype
    weight = canonical(weight, dtype)
    target = {"labels": canonical(y, np.int64)} if y.ndim == 1 else {"targets": canonical(y.T, dtype)}
    if isinstance(x, np.ndarray):
        return few_step(gradient, parameters, sizes, x, weight=weight, **target)
    problem, scratch_size = make_problem(parameters, sizes, len(x.order), x)
    x, rows = packed_and_plain(x, dtype, sizes[0])
    return set_gradient(gradient, sizes, problem, scratch_size, x, rows, weight=weight, **target)


def backward(n: int, w2: Any, x: Any, table: Any, z: Any, a: Any, delta: Any) -> tuple[Any, Any, Any, Any]:
    """Return the mean gradient by W1, b1, W2, b2 of a net of one hidden layer whose forward pass is given.

    x rows (m, n) or packed; z, a (h, m); delta (C, m) the gradient by the logits.
    """
    dtype, (classes, h), m = w2.dtype, w2.shape, z.shape[1]
    sizes = (n, h, classes)
    gradient = np.empty(h * (n + 1) + classes * (h + 1), dtype)
    split = h * n
    if m <= tuning.FEW_SAMPLES:
        deltas = np.empty(few_plan(sizes, m).deltas, dtype)
        np.divide(delta.T, dtype.type(m), out=deltas[len(deltas) - m * classes :].reshape(m, classes))
        z, a = (canonical(one.T, dtype).reshape(-1) for one in (z, a))
        rest = np.concatenate((np.empty(h, dtype), w2.reshape(-1), np.empty(classes, dtype)))
        first_gradient, rest_gradient = first_and_rest(gradient, sizes)
        few_pass(sizes, (np.empty(0, dtype), rest), x, deltas=deltas, outputs=a, z=z,
                  first_gradient=first_gradient, rest_gradient=rest_gradient)  # fmt: skip
    else:
        parameters = np.empty_like(gradient)
        parameters[split + h : -classes] = w2.reshape(-1)
        problem, scratch_size = make_problem(parameters, sizes, m, x, first_layer=1)
        x, rows = packed_and_plain(x, dtype, n)
        given = (one.T if rows is not None else one.T[x.order] for one in (z, a, delta))
        z, a, targets = (canonical(one, dtype) for one in given)
        set_gradient(gradient, sizes, problem, scratch_size, x, rows, z=z.reshape(-1), a=a.reshape(-1),
                      targets=targets)  # fmt: skip
    dw1, db1, dw2, db2 = np.split(gradient, (split, split + h, len(gradient) - classes))
    return dw1.reshape(h, n), db1.reshape(h, 1), dw2.reshape(classes, h), db2.reshape(classes, 1)


def forward(w1: Any, b1: Any, w2: Any, b2: Any, x: Any, table: Any) -> tuple[Any, Any, Any]:
    """Return z, a (h, m) and the logits (C, m) of a net of one hidden layer; x rows (m, n) or packed."""
    m = len(x.order) if isinstance(x, Packed) else len(x)
    dtype, (h, n), classes = w1.dtype, w1.shape, len(w2)
    sizes = (n, h, classes)
    rest = np.concatenate([one.reshape(-1) for one in (b1, w2, b2)])
    if m <= tuning.FEW_SAMPLES:
        z = np.empty(m * h, dtype)
        outputs = few_pass(sizes, (w1.reshape(-1), rest), x, z=z)
        a, out = outputs[: m * h], outputs[m * h :].reshape(m, classes).T
        return z.reshape(m, h).T, a.reshape(m, h).T, np.ascontiguousarray(out)
    z, a = np.empty((2, m, h), dtype)
    out = np.empty((classes, m), dtype)
    network_outputs(out, z, a, np.concatenate((w1.reshape(-1), rest)), sizes, x, m)
    return z.T, a.T, out


def network_logits(out: Any, parameters: Any, sizes: tuple[int, ...], x: Any, table: Any) -> None:
    """Set ``out`` (C, m) to the logits, samples in the caller's order."""
    if isinstance(x, np.ndarray):
        outputs = few_pass(sizes, first_and_rest(parameters, sizes), x)
        out[:] = outputs[len(outputs) - out.size :].reshape(-1, sizes[-1]).T
        return
    none = np.empty((0, 0), parameters.dtype)
    network_outputs(out, none, none, parameters, sizes, x, len(x.order))
