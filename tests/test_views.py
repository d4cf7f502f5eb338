"""Every argument of every public function as a view: strided, reversed, broadcast, unaligned and so on.

All arguments of a call are views at once, and any two arguments are tested with every pair of views. Their memory ends
at a protected page or begins after one, so that a kernel that misinterprets a view crashes the process; each backend
and dtype therefore runs in its own process. The results must equal those for plain copies, bit for bit with Numba, and
agree with the oracle.
"""

import faulthandler
import inspect
import itertools
import math
import os
import sys
from pathlib import Path
from typing import NamedTuple

import naive
import numpy as np
import pytest
from compare import assert_close, assert_same_bits
from pages import SIDES, Guarded

import fastmlp

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(os.name != "posix", reason="pages are protected by mprotect"),
]

# (n features, h units, C classes, m samples). One class makes matrices of one row, one sample those of one column; the
# cost tests 64 targets at once; up to 120 samples are not packed.
SHAPES = [(6, 5, 4, 130), (5, 3, 1, 67)]
SHAPES_OF_COST = [*SHAPES, (1, 2, 3, 64), (4, 3, 2, 1)]


class Memory:
    """Allocates arrays that end at a protected page or begin after one."""

    def __init__(self, side):
        self.side, self._made = side, []

    def __call__(self, shape, dtype):
        self._made.append(Guarded(math.prod(shape), dtype, self.side))
        return self._made[-1].array.reshape(shape)

    def intact(self):
        return all(one.intact() for one in self._made)


def copied(memory, x):
    out = memory(x.shape, x.dtype)
    out[...] = x
    return out


def spread(memory, x, *steps):
    """Return x with the given strides, in entries, and with values in between that no kernel may use."""
    whole = memory([step * (count - 1) + 1 for step, count in zip(steps, x.shape, strict=True)], x.dtype)
    whole[...] = np.nan if x.dtype.kind == "f" else 99
    view = whole[tuple(slice(None, None, step) for step in steps)]
    view[...] = x
    return view


def every_other_column(memory, x):
    return spread(memory, x, *[1] * (x.ndim - 1), 2)


def unaligned(memory, x):
    raw = memory([x.nbytes + 1], np.uint8)
    view = raw[1:] if memory.side == "start" else raw[:-1]
    view = view.view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def field_of_records(memory, x):
    records = memory(x.shape, [("before", "u1"), ("value", x.dtype)])
    records["value"] = x
    return records["value"]


def read_only(memory, x):
    out = copied(memory, x)
    out.flags.writeable = False
    return out


# Each returns its array; broadcast views repeat its first column or entry. Their number is prime.
VIEWS = {
    "plain": copied,
    "transposed": lambda memory, x: copied(memory, x.T).T,
    "every other column": every_other_column,
    "every third of the transpose": lambda memory, x: spread(memory, x.T, *[3] * x.ndim).T,
    "columns reversed": lambda memory, x: copied(memory, x[..., ::-1])[..., ::-1],
    "rows reversed": lambda memory, x: copied(memory, x[::-1])[::-1],
    "every other column, all reversed": lambda memory, x: np.flip(every_other_column(memory, np.flip(x))),
    "one column": lambda memory, x: np.broadcast_to(copied(memory, x[..., :1]), x.shape),
    "one value": lambda memory, x: np.broadcast_to(copied(memory, x[(slice(1),) * x.ndim]), x.shape),
    "unaligned": unaligned,
    "byte-swapped": lambda memory, x: copied(memory, x.astype(x.dtype.newbyteorder())),
    "read-only": read_only,
    "field of records": field_of_records,
}


class Problem:
    """Arrays of matching shapes, with the names of the arguments in the calls below."""

    def __init__(self, dtype, n, h, classes, m):
        rng = np.random.default_rng(20260101)
        normal, labels = rng.standard_normal, rng.integers(classes, size=m)
        self.dtype, self.sizes, self.classes = dtype, (n, h, classes), classes
        self.parameters = (normal(h * (n + 1) + classes * (h + 1)) / 2).astype(dtype)
        floats = {
            "x": normal((n, m)) * (rng.random((n, m)) < 0.5),
            "w1": normal((h, n)), "b1": normal((h, 1)), "w2": normal((classes, h)), "b2": normal((classes, 1)),
            "dw1": normal((h, n)), "db1": normal((h, 1)), "dw2": normal((classes, h)), "db2": normal((classes, 1)),
            "z1": normal((h, m)), "a1": rng.random((h, m)), "z2": normal((classes, m)),
            "a2": rng.uniform(0.1, 1, (classes, m)), "y": naive.one_hot(labels, classes),
            "soft": rng.uniform(0.1, 1, (classes, m)), "weight": rng.uniform(0.5, 2, m),
            "by_class": rng.uniform(0.5, 2, classes), "held_out": normal((n, m)),
            "vector": normal(self.parameters.size),
        }  # fmt: skip
        self.arrays = {name: x.astype(dtype) for name, x in floats.items()}
        self.arrays |= {"labels": labels, "true": labels[::-1].copy()}
        self.arrays["codes"] = (rng.integers(1, 256, size=(n, m)) * (rng.random((n, m)) < 0.5)).astype(np.uint8)

    def model(self):
        model = fastmlp.MLP(self.sizes, dtype=self.dtype.name)
        model.parameters = self.parameters
        return model

    def layers(self):
        (w1, b1), (w2, b2) = naive.unflatten(self.parameters.astype(naive.WIDE), self.sizes)
        return w1, w2, b1, b2


class Calls(Problem):
    """Calls of the public functions on these arrays."""

    def one_hot(self, labels):
        return fastmlp.one_hot(labels, self.classes)

    def relu(self, z1):
        return fastmlp.ReLU(z1)

    def softmax(self, z2):
        return fastmlp.Softmax(z2)

    def forwardprop(self, x, w1, w2, b1, b2):
        return fastmlp.Forwardprop(x, w1, w2, b1, b2)

    def compute_cost(self, a2, y):
        return fastmlp.compute_cost(a2, y)

    def compute_cost_of_soft_targets(self, a2, soft):
        return fastmlp.compute_cost(a2, soft)

    def backward_prop(self, z1, a1, z2, a2, w1, w2, x, y):
        return fastmlp.backward_prop(z1, a1, z2, a2, w1, w2, x, y)

    def update_params(self, w1, b1, w2, b2, dw1, db1, dw2, db2):
        return fastmlp.update_params(w1, b1, w2, b2, dw1, db1, dw2, db2, 0.25)

    def pack(self, x):
        return fastmlp.pack(x).to_dense()

    def pack_codes(self, codes):
        return fastmlp.pack(codes, scale=1 / 255).to_dense(self.dtype.name)

    def set_parameters(self, vector):
        model = self.model()
        model.parameters = vector
        return model.parameters

    def loss_and_grad(self, x, labels, weight):
        return self.model().loss_and_grad(x, labels, weight)

    def loss_and_grad_of_soft_targets(self, x, soft, weight):
        out = np.full_like(self.parameters, np.nan)
        loss, grad = self.model().loss_and_grad(x, soft, weight, out=out)
        assert grad is out
        return loss, grad

    def evaluate(self, x, soft):
        return tuple(self.model().evaluate(x, soft).values())

    def predict(self, x):
        return self.model().predict(x)

    def predict_proba(self, x):
        return self.model().predict_proba(x)

    def fit(self, x, labels, held_out, true, weight, by_class):
        model = self.model()
        history = model.fit(x, labels, epochs=2, alpha=0.1, validation=(held_out, true), sample_weight=weight,
                            class_weight=by_class, progress=False)  # fmt: skip
        return model.parameters, *history.loss, *history.validation_loss


class Oracle(Problem):
    """The expected results of `Calls`, computed from plain arrays."""

    def one_hot(self, labels):
        return naive.one_hot(labels, self.classes)

    def relu(self, z1):
        return naive.relu(z1)

    def softmax(self, z2):
        return naive.softmax(z2)

    def forwardprop(self, x, w1, w2, b1, b2):
        return naive.forward(x, w1, w2, b1, b2)

    def compute_cost(self, a2, y):
        return naive.cost(a2, y)

    def compute_cost_of_soft_targets(self, a2, soft):
        return naive.cost(a2, soft)

    def backward_prop(self, z1, a1, z2, a2, w1, w2, x, y):
        return naive.backward(z1, a1, a2, w2, x, y)

    def update_params(self, *given):
        return tuple(w - self.dtype.type(0.25) * dw for w, dw in zip(given[:4], given[4:], strict=True))

    def pack(self, x):
        return x

    def pack_codes(self, codes):
        return codes / np.asarray(255, self.dtype)

    def set_parameters(self, vector):
        return vector

    def loss_and_grad(self, x, labels, weight):
        return naive.loss_and_grad(self.parameters, self.sizes, x, naive.one_hot(labels, self.classes), weight)

    def loss_and_grad_of_soft_targets(self, x, soft, weight):
        return naive.loss_and_grad(self.parameters, self.sizes, x, soft, weight)

    def evaluate(self, x, soft):
        labels, samples = self.predict(x), np.arange(soft.shape[1])
        right = soft[labels, samples] == soft.max(axis=0)
        return naive.loss_and_grad(self.parameters, self.sizes, x, soft)[0], right.mean()

    def predict(self, x):
        return naive.forward(x, *self.layers())[3].argmax(axis=0)

    def predict_proba(self, x):
        return naive.forward(x, *self.layers())[2]

    def fit(self, x, labels, held_out, true, weight, by_class):
        y, seen = naive.one_hot(labels, self.classes), naive.one_hot(true, self.classes)
        vector, losses, held_out_losses = self.parameters.astype(naive.WIDE), [], []
        for _ in range(2):
            loss, grad = naive.loss_and_grad(vector, self.sizes, x, y, weight * by_class[labels])
            vector = vector - grad / 10
            losses.append(loss)
            held_out_losses.append(naive.loss_and_grad(vector, self.sizes, held_out, seen)[0])
        return vector, *losses, *held_out_losses


def as_list(given):
    return [np.asarray(one) for one in (given if isinstance(given, tuple) else (given,))]


class Expected(NamedTuple):
    plain: list
    oracle: list

    def check(self, results, dtype, *, bits):
        for actual, plain, exact in zip(results, self.plain, self.oracle, strict=True):
            if bits or actual.dtype.kind != "f":
                assert_same_bits(actual, plain)
            if actual.dtype.kind == "f":  # losses are float64 for either dtype
                assert_close(actual.astype(dtype), exact, "product", dtype)
            else:
                np.testing.assert_array_equal(actual, exact)


def check_call(name, problem, *, bits):
    """Run a call with all pairs of views of its arguments: argument i has the view number a i + b modulo the prime.

    Each view of each argument is placed before and after a protected page, in turn.
    """
    call, oracle = (getattr(kind(*problem), name) for kind in (Calls, Oracle))
    arrays = [call.__self__.arrays[argument] for argument in inspect.signature(call).parameters]
    expected, views = {}, list(VIEWS)
    for a, b in itertools.product(range(len(views) if len(arrays) > 1 else len(SIDES)), range(len(views))):
        chosen, side = [views[(a * i + b) % len(views)] for i in range(len(arrays))], SIDES[(a + b) % len(SIDES)]
        sys.stderr.write(f"{name} {problem} {side} {chosen}\n")
        memory = Memory(side)
        given = [VIEWS[view](memory, x) for view, x in zip(chosen, arrays, strict=True)]
        plain = [np.array(x, x.dtype.newbyteorder("="), order="C") for x in given]
        key = tuple(x.tobytes() for x in plain)
        if key not in expected:
            expected[key] = Expected(as_list(call(*plain)), as_list(oracle(*plain)))
        expected[key].check(as_list(call(*given)), problem[0], bits=bits)
        assert memory.intact()
        assert key == tuple(x.astype(x.dtype.newbyteorder("=")).tobytes() for x in given)


def check(backend, dtype):
    """Run all calls in this process."""
    faulthandler.enable()
    fastmlp.set_backend(backend)
    fastmlp.set_num_threads(1)  # thousands of launches would dominate the time
    for name in (name for name, call in vars(Calls).items() if inspect.isfunction(call)):
        for shape in SHAPES_OF_COST if "cost" in name else SHAPES:
            check_call(name, (np.dtype(dtype), *shape), bits=backend == "numba")
    if backend == "numba":
        check_compiled_types()


def check_compiled_types():
    """Shells are compiled only for native, aligned, contiguous arrays; the table of records is fastmlp's own."""
    from numba import types

    from fastmlp.kernels import compiled

    def arrays_in(kind):
        if isinstance(kind, types.Array):
            return [kind]
        return [array for item in getattr(kind, "types", ()) for array in arrays_in(item)]

    arrays = [
        array for signature in compiled.launch.SHELL.signatures for kind in signature for array in arrays_in(kind)
    ]
    arrays = [one for one in arrays if not isinstance(one.dtype, types.Record)]
    assert len(arrays) > 100
    assert {(one.layout, one.aligned, one.mutable) for one in arrays} == {("C", True, True)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_views_of_any_kind_two_at_a_time(run_python, backend, dtype):
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_views as views"
    result = run_python(f"{code}\nviews.check({backend!r}, {dtype!r})", check=False)
    assert result.returncode == 0, result.stderr[-2000:]
