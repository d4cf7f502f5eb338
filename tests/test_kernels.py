"""The kernels below the public functions: twins, tables, shells, bits, compiled signatures."""

import ast
import inspect
import os
import sys
import textwrap

import naive
import numpy as np
import pytest
from compare import assert_close, assert_close_where_finite, assert_same_bits, assert_softmax

import fastmlp
from fastmlp.kernels import inputs as kernel_inputs
from fastmlp.kernels import nets, scores
from fastmlp.kernels import reference as reference_tables

pytestmark = pytest.mark.kernels

# Every backend has them, whatever else it has.
API = {
    "accumulate", "all_dense", "apply", "attach", "backward", "begin", "begin_parts", "begin_training",
    "compiler_locks", "complete", "cross_entropy", "describe", "enter", "enter_training", "finish", "forward",
    "from_arrays", "layout", "to_arrays",
    "leaf_size", "leaf_starts", "limited_threads", "limits_threads", "list_samples", "loss_gradient", "max_threads",
    "network_logits", "network_step", "nodes", "one_hot", "operands", "order_features", "other_form", "output_delta",
    "pack", "packed_facts", "plain_operand", "preparation", "relu", "softmax_columns", "softmax_cross_entropy_grad",
    "survey", "train", "training_vectors", "unpack", "update", "warmup", "weight_mask",
}  # fmt: skip


def kernel_arguments(rng, dtype, h=9, m=133):
    """Return {kernel: [outputs and inputs]} with outputs full of garbage."""

    def garbage(*shape):
        return np.full(shape, np.nan, dtype)

    z = rng.standard_normal((h, m)).astype(dtype)
    y = naive.one_hot(rng.integers(h, size=m), h).astype(dtype)
    weight = rng.random(m).astype(dtype)
    return {
        "softmax_columns": [garbage(h, m), z],
        "softmax_cross_entropy_grad": [garbage(h, m), garbage(m), garbage(m), z, y, weight],
    }


# How many of a kernel's arguments come first as outputs; scratch is neither.
OUTPUTS = {
    "_one_hot": 1, "_relu_elements": 1, "_softmax": 1, "_cross_entropy_gradient": 2, "_subtract": 1, "_update": 1,
    "_costs": 1, "_output_gradient": 2,
}  # fmt: skip
ENGINE = {
    "_accumulate", "_outputs", "_fill", "run_phases", "_accumulate_given", "pack_parameters", "unpack_gradient",
    "_list_columns", "_list_rows", "_survey", "_unpack", "run_updates", "_copy_columns",
}  # fmt: skip
MOST_WORKERS = 8


def launch_arguments(compiled, rng, dtype, name, m, h=9):
    """Return the arguments of a kernel for up to MOST_WORKERS workers, with outputs and scratch full of garbage."""
    tuning, (losses, cost) = compiled.tuning, (compiled.losses, compiled.cost)

    def garbage(*shape, kind=dtype):
        return np.full(shape, np.nan if np.dtype(kind).kind == "f" else -77, kind)

    z = rng.standard_normal((h, m)).astype(dtype)
    y = naive.one_hot(rng.integers(h, size=m), h).astype(dtype)
    p, weight = naive.softmax(z).astype(dtype), rng.random(m).astype(dtype)
    width, kind = tuning.COST_BLOCK, losses.LOSSES["logistic"].kind(np.dtype(dtype), rng.random(h + 1).astype(dtype))
    return {
        "_one_hot": [garbage(h, m), rng.integers(h, size=m)],
        "_relu_elements": [garbage(h * m), z.ravel(), h * m],
        "_softmax": [garbage(h, m), z],
        "_cross_entropy_gradient": [
            garbage(h, m), garbage(2, m), z, y, weight,
            garbage(MOST_WORKERS * losses._STATISTICS * tuning.COLUMN_BLOCK),
        ],
        "_output_gradient": [garbage(h, m), garbage(2, m), z, y, weight, kind],
        "_subtract": [garbage(h * m), p.ravel(), y.ravel(), h * m],
        "_update": [garbage(h * m), z.ravel(), p.ravel(), dtype.type(0.1), h * m],
        "_costs": [
            garbage(-(-m // width), kind=float), garbage(MOST_WORKERS, 3 * width),
            garbage(MOST_WORKERS, width + tuning.TARGETS_AT_ONCE, kind=np.int64), cost._table(p), cost._table(y), m,
        ],
    }[name]  # fmt: skip


def copies(args):
    return [a.copy() if isinstance(a, np.ndarray) else a for a in args]


@pytest.fixture(params=["compiled", pytest.param("reference", marks=pytest.mark.numpy)])
def kernels(request):
    return request.getfixturevalue(request.param)


def public(module):
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and inspect.isfunction(value) and value.__module__.startswith("fastmlp")
    }


@pytest.mark.numba
def test_both_backends_have_the_same_names_and_signatures(compiled, reference):
    ours = public(compiled)
    assert set(ours) == set(compiled.__all__)
    del ours["cache_statistics"]
    assert set(ours) == set(public(reference)) == API
    for name, function in ours.items():
        twin = getattr(reference, name)
        assert list(inspect.signature(function).parameters) == list(inspect.signature(twin).parameters), name


def dispatchers(compiled):
    """Return all that Numba compiles: kernels, the bodies that these call, and shells."""
    modules = [module for name, module in sys.modules.items() if name.startswith("fastmlp.kernels.")]
    found = [one for module in modules for one in vars(module).values()]
    found += [one for kernel in compiled.launch.KERNELS.values() for one in kernel.dispatchers()]
    return {one for one in found if isinstance(one, compiled.numba.core.dispatcher.Dispatcher)}


@pytest.mark.numba
def test_kernels_never_raise_or_assert(compiled):
    functions = {one.py_func for one in dispatchers(compiled)}
    names = {one.__name__ for one in functions}
    assert {*compiled.launch.KERNELS, "_shell", "_parallel_shell", "forward_lists", "add_leaf", "loss_rows"} <= names
    for function in functions:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            assert not isinstance(node, ast.Raise | ast.Assert | ast.Try | ast.Dict | ast.List), function.__name__


@pytest.mark.numba
def test_nothing_was_given_up_without_a_sound(compiled):
    """With the installed Numba all of its internals are found: a fallback would give right results, but slowly."""
    model = fastmlp.MLP((4, 3, 2))
    with fastmlp.use_backend("numba"):
        model.fit(np.eye(4), [0, 1, 0, 1], epochs=1)
        for m in (3, 200):
            model.loss_and_grad(np.ones((4, m)), np.zeros(m, int))
    assert compiled.internals.missing == []
    assert compiled.internals.convention.known()
    assert "slower without" not in compiled.describe()


@pytest.mark.numba
@pytest.mark.parametrize("parallel", [False, True])
def test_what_one_worker_of_a_kernel_raises_is_raised_when_all_are_done(compiled, parallel):
    numba = compiled.numba

    def body(out, worker, workers):
        out[worker] = workers
        if worker == 1:
            raise ZeroDivisionError("in one worker")

    @numba.njit
    def shell(launcher, address, out, workers):
        compiled.vector.call_workers(launcher, address, (out,), workers, 0)

    out = np.zeros(3, np.int64)
    types = (compiled.vector.opened(numba.typeof(out)), numba.int64, numba.int64)
    address = compiled.runtime.address_of(numba.njit(body), types)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="in one worker"):
            shell(compiled.launch.launcher() if parallel else 0, address, out, 3)
        assert out.tolist() == [3, 3, 3]
    shell(compiled.launch.launcher() if parallel else 0, address, out[:1], 1)
    assert out.tolist() == [1, 3, 3]


def array_types(types, kind):
    """Return the arrays in a type: itself, or those in a tuple, however deep."""
    if isinstance(kind, types.Array):
        return [kind]
    return [array for item in getattr(kind, "types", ()) for array in array_types(types, item)]


@pytest.mark.numba
def test_bodies_get_no_array_that_counts_references(compiled):
    """Workers share their arguments: arrays reach a body as addresses, records as an array without an owner."""
    numba, vector = compiled.numba, compiled.vector

    @numba.extending.intrinsic
    def owner(typingctx, array):
        def codegen(context, builder, sig, args):
            found = context.make_array(sig.args[0])(context, builder, args[0])
            addresses = [builder.ptrtoint(one, args[0].type.elements[2]) for one in (found.meminfo, found.parent)]
            return builder.or_(*addresses)

        return numba.int64(array), codegen

    @numba.njit
    def body(out, nested, worker, workers):
        out[0], out[1] = owner(nested[0]), owner(nested[1][0])

    @numba.njit
    def shell(address, out, nested):
        vector.call_workers(0, address, (out, nested), 1, 0)
        return owner(nested[0]), owner(nested[1][0])

    records = np.zeros(2, [("a", np.int64)])
    out, nested = np.ones(2, np.int64), (records, (records.copy(), 1))
    given = [*map(numba.typeof, (out, nested))]
    types = (*map(vector.opened, given), numba.int64, numba.int64)
    assert all(shell(compiled.runtime.address_of(body, types), out, nested))
    assert out.tolist() == [0, 0]
    if not compiled.internals.CHECKS_BOUNDS:
        for kernel in compiled.launch.KERNELS.values():
            for signature in kernel.body.signatures:
                arrays = [array for kind in signature for array in array_types(numba.types, kind)]
                assert all(isinstance(one.dtype, numba.types.Record) for one in arrays), kernel.__name__


@pytest.mark.numba
def test_every_kernel_is_launched_by_some_test_below(compiled):
    assert set(compiled.launch.KERNELS) == {*OUTPUTS, *ENGINE}


@pytest.mark.numba
@pytest.mark.skipif(bool(os.environ.get("NUMBA_BOUNDSCHECK")), reason="an IndexError inside prange is swallowed")
@pytest.mark.parametrize("name", list(OUTPUTS))
def test_any_number_of_workers_gives_the_same_bits_in_parallel_and_serially(compiled, rng, dtype, name, monkeypatch):
    kernel, launch = compiled.launch.KERNELS[name], compiled.launch
    launcher, launched = launch.launcher, []
    monkeypatch.setattr(launch, "launcher", lambda: launched.append(1) or launcher())
    for m in (1, 64, 133, 2000):
        args = launch_arguments(compiled, rng, dtype, name, m)
        expected = copies(args)
        kernel.launch(1, *expected)
        assert not any(np.isnan(one).any() for one in expected[: OUTPUTS[name]])
        for workers, serially in ((2, False), (3, False), (MOST_WORKERS, False), (2, True), (3, True), (1, False)):
            actual = copies(args)
            launched.clear()
            with monkeypatch.context() as patch:
                patch.setattr(launch, "_forked_after_launch", serially)
                kernel.launch(workers, *actual)
            assert len(launched) == (workers > 1 and not serially)
            for one, other in zip(actual[: OUTPUTS[name]], expected[: OUTPUTS[name]], strict=True):
                assert_same_bits(one, other)


@pytest.mark.numba
def test_an_exception_leaves_a_layer_that_is_not_thread_safe_free(compiled, monkeypatch):
    def fail(launcher, address, args, workers, noted):
        raise KeyboardInterrupt

    def record(launcher, address, args, workers, noted):
        calls.append("parallel" if launcher else "serial")

    calls, launch, x = [], compiled.launch, np.empty(1)
    monkeypatch.setattr(launch, "_layer_is_threadsafe", lambda: False)
    kernel = launch.Kernel(lambda x, worker, workers: None, 0)
    monkeypatch.setattr(kernel, "_ready", {x.dtype: (fail, 0)})
    with pytest.raises(KeyboardInterrupt):
        kernel.launch(2, x)
    monkeypatch.setattr(kernel, "_ready", {x.dtype: (record, 0)})
    kernel.launch(2, x)
    assert not launch._layer_lock.locked()
    with launch._layer_lock:  # as if another Python thread were in the layer
        kernel.launch(2, x)
    assert calls == ["parallel", "serial"]


# ---- The tables of activations and losses ----

ARGUMENTS = [0.0, -0.0, 1.0, -1.0, 1e-30, -1e-30, 3.5, -3.5, np.inf, -np.inf, np.nan]


@pytest.mark.numba
def test_both_backends_know_the_same_activations_and_losses(compiled, reference):
    assert list(compiled.activations.ACTIVATIONS) == list(reference.ACTIVATIONS) == list(nets.ACTIVATIONS)
    assert list(compiled.losses.LOSSES) == list(reference.LOSSES) == list(nets.LOSSES)
    for table in (compiled.activations.ACTIVATIONS, compiled.losses.LOSSES):
        assert len({entry.code for entry in table.values()}) == len(table)


@pytest.mark.numba
@pytest.mark.parametrize("name", sorted(reference_tables.ACTIVATIONS))
def test_both_backends_agree_about_an_activation(compiled, reference, rng, dtype, name):
    """About its values, its derivative, and whether it makes zeros that may be skipped."""
    numba, vector = compiled.numba, compiled.vector
    activate, multiply_derivative = compiled.activations.activate, compiled.activations.multiply_derivative
    has_slopes = compiled.activations.has_slopes

    @numba.njit
    def run(code, values, slopes, delta):
        rows, columns = values.shape
        for r in range(rows):
            activate(code, values[r], slopes[r])
        multiply_derivative(
            code, vector.matrix(delta.reshape(-1), 0, columns),
            vector.matrix((slopes if has_slopes(code) else values).reshape(-1), 0, columns), rows, columns,
        )  # fmt: skip

    entry, twin = compiled.activations.ACTIVATIONS[name], reference.ACTIVATIONS[name]
    z = np.concatenate([ARGUMENTS, rng.standard_normal(37 * 9 - len(ARGUMENTS))]).astype(dtype).reshape(9, 37)
    delta = rng.standard_normal(z.shape).astype(dtype)
    delta[-1, :2] = np.nan, np.inf  # which a derivative of zero does not hide
    values, gradient, expected = z.copy(), delta.copy(), np.empty_like(z)
    slopes = np.full_like(z, np.nan)
    run(entry.code, values, slopes, gradient)
    with np.errstate(invalid="ignore", over="ignore"):
        twin.value(z, expected)
    assert entry.has_slopes == twin.of_argument == np.isfinite(slopes).any()
    assert_close_where_finite(values, expected, "function", dtype)
    with np.errstate(invalid="ignore"):
        assert_close_where_finite(
            gradient, delta * twin.derivative(z if twin.of_argument else expected), "function", dtype
        )
    zero, finite = expected == 0, np.isfinite(delta)
    skippable = zero.mean() > 0.25 and not gradient[zero & finite].any()
    assert entry.makes_zeros == twin.makes_zeros == skippable


@pytest.mark.numba
@pytest.mark.parametrize(("name", "soft"), [("cross_entropy", False), *((name, True) for name in nets.LOSSES)])
def test_both_backends_agree_about_a_loss(compiled, reference, rng, dtype, name, soft):
    """The engine takes logits by rows, in an order of its own; the twin by columns."""
    numba, vector, losses = compiled.numba, compiled.vector, compiled.losses
    loss_rows, Logits = losses.loss_rows, losses.Logits

    @numba.njit
    def run(costs, delta, logits, targets, order, scratch):
        length, classes = logits.shape
        loss_rows(
            vector.matrix(costs.reshape(-1), 0, length), vector.matrix(delta.reshape(-1), 0, classes),
            Logits(vector.address(logits.reshape(-1), 0), classes, classes, np.int64(0)),
            vector.open_arguments((targets,))[0],
            vector.address(order, 0), length, vector.address(scratch, 0),
        )  # fmt: skip

    m, length, classes = 200, 150, 7
    z, labels = rng.standard_normal((length, classes)).astype(dtype), rng.integers(classes, size=m)
    y = naive.softmax(rng.standard_normal((classes, m))) if soft else naive.one_hot(labels, classes)
    rows, weight = np.ascontiguousarray(y.T, dtype), rng.random(m).astype(dtype)
    order = rng.permutation(m)[:length].astype(np.int32)
    costs, delta = np.full((2, length), np.nan, dtype), np.full((length, classes), np.nan, dtype)
    scratch = np.full(losses.loss_scratch(classes, length, dtype.itemsize), np.nan, dtype)
    scales, most = scores.hit_scales(name, rows.T, weight), 1.5  # which is less than many a loss
    kind, at = losses.LOSSES[name].kind(dtype, scales, most), losses.losses_at(dtype)
    run(costs, delta, z, losses.Targets(labels, rows, weight, int(not soft), kind, at), order, scratch)
    dz, loss, hit = np.empty((classes, length), dtype), np.empty(length, dtype), np.empty(length, dtype)
    reference.LOSSES[name].gradient(dz, loss, hit, z.T.copy(), rows[order].T.copy(), weight[order], scales, most)
    assert_close(costs[0], loss, "product", dtype)
    if name in scores.CLASSIFICATIONS:
        assert_same_bits(costs[1], hit)
    assert_close(costs[1], hit, "product", dtype)
    assert_close(delta, dz.T.copy(), "product", dtype)


# ---- Softmax and its loss ----


@pytest.mark.parametrize("h", [1, 2, 10, 1000])
def test_softmax_columns(kernels, rng, dtype, h):
    out, z = kernel_arguments(rng, dtype, h=h, m=5)["softmax_columns"]
    kernels.softmax_columns(out, z)
    assert_softmax(out, z, naive.softmax(z))


@pytest.mark.parametrize("h", [1, 2, 10, 1000])
def test_softmax_cross_entropy_grad(kernels, rng, dtype, h):
    dz, loss, hit, z, y, weight = kernel_arguments(rng, dtype, h=h, m=21)["softmax_cross_entropy_grad"]
    soft = naive.softmax(rng.standard_normal(y.shape)).astype(dtype) * dtype.type(0.75)
    for target in (y, soft):
        kernels.softmax_cross_entropy_grad(dz, loss, hit, z, target, weight)
        wide, p = target.astype(naive.WIDE), naive.softmax(z)
        assert_close(dz, (p * wide.sum(axis=0) - wide) * weight, "product", dtype)
        assert_close(loss, weight * -(wide * np.log(p)).sum(axis=0), "product", dtype)
        right = target[z.argmax(axis=0), np.arange(21)] == target.max(axis=0)
        assert_same_bits(hit, (weight * right).astype(dtype))


def test_softmax_cross_entropy_grad_where_probabilities_underflow(kernels, dtype):
    z = np.array([[0.0, 5000.0], [3000.0, 0.0]], dtype)
    y = np.array([[1.0, 1.0], [0.0, 0.0]], dtype)
    dz, loss, hit = np.empty_like(z), np.empty(2, dtype), np.empty(2, dtype)
    kernels.softmax_cross_entropy_grad(dz, loss, hit, z, y, np.ones(2, dtype))
    np.testing.assert_array_equal(loss, [3000, 0])
    np.testing.assert_array_equal(dz, [[-1, 0], [1, 0]])
    np.testing.assert_array_equal(hit, [0, 1])


def test_the_first_nan_counts_as_the_largest_logit(kernels, rng, dtype):
    """As np.argmax says: a target is hit where it is the first of two."""
    z = rng.standard_normal((5, 4)).astype(dtype)
    z[1], z[3] = np.nan, (np.nan, np.nan, np.inf, np.nan)
    y = naive.one_hot([1, 3, 1, 0], 5).astype(dtype)
    hit = np.empty(4, dtype)
    kernels.softmax_cross_entropy_grad(np.empty_like(z), np.empty(4, dtype), hit, z, y, np.ones(4, dtype))
    np.testing.assert_array_equal(hit, [1, 0, 1, 0])


def test_an_infinite_loss_counts_only_where_there_is_a_target(kernels, rng, dtype):
    z = rng.standard_normal((4, 3)).astype(dtype)
    z[2] = -np.inf
    y = np.array([[1, 0.5, 0], [0, 0.5, 0], [0, 0, 0.5], [0, 0, 0.5]], dtype)
    dz, loss, hit = np.empty_like(z), np.empty(3, dtype), np.empty(3, dtype)
    kernels.softmax_cross_entropy_grad(dz, loss, hit, z, y, np.ones(3, dtype))
    p, there = naive.softmax(z), [0, 1, 3]
    assert_close(loss[:2], -(y[there, :2] * np.log(p[there, :2])).sum(axis=0), "product", dtype)
    assert loss[2] == np.inf
    assert_close(dz, p - y, "product", dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@np.errstate(all="ignore")  # as the backend calls them
def test_survey(kernels, rng, dtype):
    """Of every layout, on one worker and on several."""
    for shape in [(1, 1), (3, 7), (64, 5), (0, 3), (129, 2000)]:
        x = np.where(rng.random(shape) < 0.2, rng.standard_normal(shape), -0.0).astype(dtype)
        forms = x, np.asfortranarray(x), x[::-1, ::2], x[:, ::-1], x.astype(x.dtype.newbyteorder())
        for form in forms:
            counts, finite = kernels.survey(form)
            assert (counts.sum(), finite) == (np.count_nonzero(form), True)
            for value in (np.nan, np.inf, -np.inf) if x.size else ():
                for place in (0, form.size // 2, form.size - 1):
                    odd = form.copy(order="K")
                    odd[np.unravel_index(place, odd.shape)] = value
                    counts, finite = kernels.survey(odd)
                    assert (counts.sum(), finite) == (np.count_nonzero(odd), False)
        if x.size:
            x[0, 0] = np.finfo(dtype).smallest_subnormal
            most = np.full_like(x, np.finfo(dtype).max)  # whose sum is infinite
            assert kernels.survey(x)[0].sum() == np.count_nonzero(x)
            counts, finite = kernels.survey(most)
            assert (counts.sum(), finite) == (x.size, True)
            assert kernels.survey(x[0].copy())[0].sum() == np.count_nonzero(x[0])
        codes = rng.integers(0, 3, shape).astype(np.uint8)
        for form in codes, np.asfortranarray(codes), codes[::-1, ::2]:
            counts, finite = kernels.survey(form)
            assert (counts.sum(), finite) == (np.count_nonzero(form), True)


@pytest.mark.parametrize("kind", ["float32", "floats of few values", "uint8"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_lists_are_the_same_with_the_counts_of_a_survey(compiled, threads, kind, rng, monkeypatch):
    """Each thread counts its samples; where the form is copied first, nobody knows whose they are."""
    from fastmlp.kernels.compiled import elementwise, sample_lists

    x = rng.integers(0, 4, (700, 1501)) * (rng.random((700, 1501)) < rng.random(1501))
    x = x.astype("uint8" if kind == "uint8" else "float32")
    if kind == "float32":
        x *= rng.standard_normal(x.shape).astype("float32")
    monkeypatch.setattr(elementwise, "usable_threads", lambda: threads)
    monkeypatch.setattr(sample_lists, "usable_threads", lambda: threads)
    for form in (x, np.asfortranarray(x), x[:, ::-1]):
        counts, _ = elementwise.survey(form)
        assert len(counts) == (threads if form.flags.f_contiguous else 1)
        found, without = (sample_lists.list_samples(form, 0.4, given) for given in (counts, None))
        assert found.coded == {"float32": 0, "floats of few values": 2, "uint8": 1}[kind]
        for one, other in zip(found[:5], without[:5], strict=True):
            assert_same_bits(one, other)


def test_the_last_chunk_of_a_step_may_be_one_sample(backend, reference, rng, dtype):
    m, sizes = kernel_inputs.CHUNK + 1, (3, 2)
    model = fastmlp.MLP(sizes, dtype=dtype.name)
    x, labels = rng.standard_normal((3, m)).astype(dtype), rng.integers(2, size=m)
    weight = np.ones(m)
    weight[-1] = m  # as much as all others together
    loss, grad = model.loss_and_grad(x, labels, weight)
    wanted_loss, wanted = naive.loss_and_grad(model.parameters, sizes, x, naive.one_hot(labels, 2), weight)
    assert_close(np.asarray(loss, dtype), wanted_loss, "product", dtype)
    assert_close(grad, wanted, "product", dtype)
