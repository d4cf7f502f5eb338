"""The activations: values in decimal arithmetic, gradients by three oracles, the same bits, files, names."""

import decimal
import pickle
from decimal import Decimal

import naive
import numpy as np
import pytest
from compare import F8, TOLERANCE, assert_close, assert_same_bits

import fastmlp
from fastmlp import storage
from fastmlp.kernels.nets import ACTIVATIONS

SMOOTH = ["logistic", "tanh", "gelu"]
HUGE = np.finfo(np.float32).max
each_activation = pytest.mark.parametrize("name", ACTIVATIONS)


@pytest.fixture
def values_and_slopes(backend, request):
    """Return a function that returns values and derivatives of an activation, by the kernels of a backend."""
    if backend == "numpy":
        table = request.getfixturevalue("reference").ACTIVATIONS
        return lambda name, z: by_numpy(table[name], z)
    compiled = request.getfixturevalue("compiled")
    return lambda name, z: by_numba(compiled, name, z)


def by_numpy(entry, z):
    values = np.empty_like(z)
    with np.errstate(all="ignore"):
        entry.value(z, values)
        return values, entry.derivative(z if entry.of_argument else values) * np.ones_like(z)


def by_numba(compiled, name, z):
    vector, functions = compiled.vector, compiled.activations
    activate, multiply_derivative, has_slopes = functions.activate, functions.multiply_derivative, functions.has_slopes

    @compiled.numba.njit
    def run(code, values, slopes, delta):
        activate(code, values, slopes)
        made_from = slopes if has_slopes(code) else values
        count = len(values)
        multiply_derivative(code, vector.matrix(delta, 0, count), vector.matrix(made_from, 0, count), 1, count)

    values, delta = z.copy(), np.ones_like(z)
    run(functions.ACTIVATIONS[name].code, values, np.empty_like(z), delta)
    return values, delta


# ---- Values ----


@pytest.fixture
def fifty_digits():
    with decimal.localcontext(prec=50, Emin=-99999, Emax=99999):
        yield


PI = Decimal("3.141592653589793238462643383279502884197169399375105820974944592307816406286208998628034825342117")


def normal(x):
    """Return the probability that a standard normal variable is below x."""
    density = (-x * x / 2).exp() / (2 * PI).sqrt()
    if abs(x) > 8:
        fraction = Decimal(0)
        for k in range(200, 0, -1):
            fraction = k / (abs(x) + fraction)
        tail = density / (abs(x) + fraction)
        return tail if x < 0 else 1 - tail
    with decimal.localcontext(prec=90):
        term, total, k = x, x, 1
        while abs(term) > Decimal(10) ** -85:
            k += 2
            term *= x * x / k
            total += term
        return Decimal("0.5") + (-x * x / 2).exp() / (2 * PI).sqrt() * total


EXACT = {
    "logistic": lambda x: 1 / (1 + (-x).exp()),
    "tanh": lambda x: ((2 * x).exp() - 1) / ((2 * x).exp() + 1),
    "gelu": lambda x: x * normal(x),
}


def arguments(rng, dtype, widest):
    """Return arguments of every size, of both signs, and those around which the formulas change."""
    widths = [1e-30, 1e-5, 0.1, 1, 3, 10, widest]
    z = np.concatenate([rng.uniform(-width, width, 300) for width in widths] + [[1, -1], 1 + rng.normal(size=50) / 1e3])
    z = z.astype(dtype)
    return z[z != 0]


@pytest.mark.kernels
@pytest.mark.parametrize("name", ["logistic", "tanh"])
def test_within_a_few_ulp(values_and_slopes, backend, rng, dtype, fifty_digits, name):
    most = 2 if backend == "numba" else 4  # NumPy's exponential alone is up to 2.5 ULP off in float32
    # Plainly, 1 / (1 + exp(-x)) is up to 3.05 ULP off just above -3.45.
    z = np.append(arguments(rng, dtype, 700 if dtype == F8 else 87), rng.uniform(-3.45, -3.43, 600).astype(dtype))
    values, _ = values_and_slopes(name, z)
    assert values.dtype == dtype
    for x, value in zip(z, values, strict=True):
        exact = EXACT[name](Decimal(float(x)))
        # The unit of the exact value: that of the actual one may be twice as large.
        unit = np.spacing(np.abs(np.asarray(float(exact)).astype(dtype)))
        assert abs(Decimal(float(value)) - exact) <= most * Decimal(float(unit)), x


@pytest.mark.kernels
def test_gelu_has_a_small_relative_error_also_far_below_zero(values_and_slopes, rng, dtype, fifty_digits):
    """At most (6 + x^2) eps, because x^2 / 2 rounds before it is an exponent; of the slope 4 eps, absolutely."""
    z = arguments(rng, dtype, 37 if dtype == F8 else 12)
    values, slopes = values_and_slopes("gelu", z)
    eps = Decimal(float(np.finfo(dtype).eps))
    for x, value, slope in zip(map(Decimal, z.tolist()), values, slopes, strict=True):
        exact = EXACT["gelu"](x)
        assert abs(Decimal(float(value)) - exact) <= (6 + x * x) * eps * abs(exact), x
        exact = normal(x) + x * (-x * x / 2).exp() / (2 * PI).sqrt()
        assert abs(Decimal(float(slope)) - exact) <= 4 * eps, x


@pytest.mark.kernels
def test_special_values(values_and_slopes, dtype):
    """What overflows in the plain formula does not; NaN and infinity come out as there, and -0.0 where it does."""
    info, inf, nan = np.finfo(dtype), np.inf, np.nan
    tiny = info.smallest_subnormal
    z = np.array([nan, inf, -inf, 0.0, -0.0, info.max, -info.max, tiny, -tiny] * 5, dtype)  # whole vectors and a rest
    expected = {
        "identity": z[:9],
        "logistic": [nan, 1, 0, 0.5, 0.5, 1, 0, 0.5, 0.5],
        "tanh": [nan, 1, -1, 0.0, -0.0, 1, -1, tiny, -tiny],
        "relu": [nan, inf, 0, 0.0, -0.0, info.max, 0, tiny, 0],
        "leaky_relu": [nan, inf, -inf, 0.0, -0.0, info.max, dtype.type(0.01) * -info.max, tiny, -0.0],
        "gelu": [nan, inf, nan, 0.0, -0.0, info.max, -0.0, None, None],  # half of the smallest number rounds either way
    }
    for name in ACTIVATIONS:
        values, slopes = values_and_slopes(name, z)
        for actual in values.reshape(5, 9):
            known = [k for k, one in enumerate(expected[name]) if one is not None]
            wanted = np.array([expected[name][k] for k in known], dtype)
            np.testing.assert_array_equal(actual[known], wanted)
            there = ~np.isnan(wanted)
            if name != "relu":  # whose zeros have the sign that NumPy's maximum gives them
                np.testing.assert_array_equal(np.signbit(actual[known][there]), np.signbit(wanted[there]))
        assert np.isfinite(slopes[3:9]).all()


@pytest.mark.kernels
@each_activation
def test_values_and_slopes_are_those_of_the_oracle(values_and_slopes, rng, dtype, name):
    z = (3 * rng.standard_normal(1001)).astype(dtype)
    values, slopes = values_and_slopes(name, z)
    value, slope = naive.ACTIVATIONS[name]
    assert_close(values, value(z.astype(naive.WIDE)), "function", dtype)
    assert_close(slopes, slope(z.astype(naive.WIDE)).astype(naive.WIDE), "function", dtype)


# ---- Gradients ----

NETS = {
    **{name: ((5, 6, 3), name) for name in ACTIVATIONS},
    "two layers": ((5, 6, 4, 3), ("gelu", "leaky_relu")),
    "three layers": ((5, 6, 4, 7, 3), ("tanh", "gelu", "logistic")),
    "a ReLU between": ((5, 6, 4, 7, 3), ("gelu", "relu", "identity")),
}
each_net = pytest.mark.parametrize("net", NETS)
FORMS = {"one sample": 1, "few samples": 30, "many samples": 1000}


def problem(rng, net, m, dtype="float64"):
    sizes, names = NETS[net]
    model = fastmlp.MLP(sizes, dtype=dtype, activation=names)
    model.parameters = rng.standard_normal(model.parameters.size) / 2
    soft = naive.softmax(rng.standard_normal((sizes[-1], m))).astype(float)
    return model, rng.standard_normal((sizes[0], m)), soft, rng.random(m) + 0.1


def names_of(model):
    """Return the activation of each hidden layer."""
    hidden = len(model.layer_sizes) - 2
    return [model.activation] * hidden if isinstance(model.activation, str) else list(model.activation)


def complex_loss(vector, model, x, y, weight):
    a, layers = x, naive.unflatten(vector, model.layer_sizes)
    for (w, b), name in zip(layers[:-1], names_of(model), strict=True):
        a = naive.COMPLEX[name](w @ a + b)
    z = layers[-1][0] @ a + layers[-1][1]
    shift = z.real.max(axis=0)
    lse = shift + np.log(np.exp(z - shift).sum(axis=0))
    return (weight * (y * (lse - z)).sum(axis=0)).sum() / weight.sum()


@pytest.mark.kernels
@pytest.mark.parametrize("m", FORMS.values(), ids=FORMS)
@each_net
def test_gradients(backend, rng, net, m):
    """By the oracle; and by complex steps and central differences, which know no derivative."""
    model, x, y, weight = problem(rng, net, m)
    loss, grad = model.loss_and_grad(x, y, weight)
    wanted_loss, wanted = naive.loss_and_grad(model.parameters, model.layer_sizes, x, y, weight, names_of(model))
    assert loss == pytest.approx(float(wanted_loss), rel=TOLERANCE["product", F8])
    assert_close(grad, wanted, "product")
    start, step, by_steps, by_differences = model.parameters.copy(), 1e-100, [], []
    for unit in np.eye(len(start))[:: 1 if m < 1000 else 7]:
        by_steps.append(complex_loss(start + 1j * step * unit, model, x, y, weight).imag / step)
        sides = []
        for sign in (1, -1):
            model.parameters = start + sign * 1e-5 * unit
            sides.append(model.loss_and_grad(x, y, weight)[0])
        by_differences.append((sides[0] - sides[1]) / 2e-5)
    grad = grad[:: 1 if m < 1000 else 7]
    assert_close(grad, np.array(by_steps), "product")
    if "relu" not in str(NETS[net][1]):  # differences across a kink are wrong
        assert_close(grad, np.array(by_differences), "central difference")


@pytest.mark.kernels
@pytest.mark.parametrize("m", [1, 7, 130, 2500])
@each_net
def test_float32(backend, rng, net, m):
    model, x, y, weight = problem(rng, net, m, "float32")
    x, y, weight = (one.astype("f4") for one in (x, y, weight))
    _, wanted = naive.loss_and_grad(model.parameters, model.layer_sizes, x, y, weight, names_of(model))
    assert_close(model.loss_and_grad(x, y, weight)[1], wanted, "product", "float32")


@pytest.mark.kernels
@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("m", [20, 500])
def test_wide_layers(backend, rng, density, m):
    """Whose products take other forms behind a ReLU than behind other activations."""
    names = ["relu", "gelu", "relu", "tanh"]
    model = fastmlp.MLP((200, 150, 140, 150, 140, 7), activation=names)
    x = rng.standard_normal((200, m)) * (rng.random((200, m)) < density)
    labels = rng.integers(7, size=m)
    one_hot = naive.one_hot(labels, 7)
    wanted_loss, wanted = naive.loss_and_grad(model.parameters, model.layer_sizes, x, one_hot, None, names)
    for given in (x, fastmlp.pack(x)):
        loss, grad = model.loss_and_grad(given, labels)
        assert loss == pytest.approx(float(wanted_loss), rel=TOLERANCE["product", F8])
        assert_close(grad, wanted, "product")


@pytest.mark.kernels
@pytest.mark.parametrize("m", [7, 600])
@each_net
def test_predictions_and_scores(backend, rng, net, m):
    model, x, y, _ = problem(rng, net, m)
    *_, z = naive.activations_and_logits(
        naive.unflatten(model.parameters.astype(naive.WIDE), model.layer_sizes), x, names_of(model)
    )
    assert_close(model.predict_proba(x), naive.softmax(z), "product")
    np.testing.assert_array_equal(model.predict(x), z.argmax(axis=0))
    assert model.evaluate(x, y)["loss"] == pytest.approx(model.loss_and_grad(x, y)[0], rel=1e-12)


@pytest.mark.kernels
@pytest.mark.parametrize("m", [7, 500])
@each_activation
def test_torch_agrees(backend, rng, name, m):
    torch = pytest.importorskip("torch")
    functions = torch.nn.functional
    act = {"identity": lambda a: a, "logistic": torch.sigmoid}.get(name) or getattr(functions, name)
    model, x, y, weight = problem(rng, name, m)
    vector = torch.tensor(model.parameters, requires_grad=True)
    w1, b1, w2, b2 = torch.split(vector, [30, 6, 18, 3])
    hidden = act(functions.linear(torch.tensor(x.T), w1.reshape(6, 5), b1))
    each = functions.cross_entropy(functions.linear(hidden, w2.reshape(3, 6), b2), torch.tensor(y.T), reduction="none")
    loss = (torch.tensor(weight) * each).sum() / weight.sum()
    loss.backward()
    ours, grad = model.loss_and_grad(x, y, weight)
    assert ours == pytest.approx(loss.item(), rel=TOLERANCE["product", F8])
    assert_close(grad, vector.grad.numpy(), "product")


# ---- Training ----


def training_data(rng, m=300):
    x = rng.random((12, m)) * (rng.random((12, m)) < 0.4)
    return x, rng.integers(4, size=m)


@pytest.mark.kernels
@pytest.mark.parametrize("optimizer", ["descent", "L-BFGS"])
@each_activation
def test_full_batches_learn(backend, rng, name, optimizer):
    x, labels = training_data(rng)
    model = fastmlp.MLP((12, 16, 9, 4), activation=name)
    options = {"optimizer": fastmlp.optimizers.LBFGS()} if optimizer == "L-BFGS" else {"alpha": 0.05}
    history = model.fit(x, labels, epochs=9, **options)
    assert history.loss[-1] < history.loss[0]


@pytest.mark.kernels
@each_net
def test_both_backends_train_alike_on_batches(compiled, reference, rng, net):
    sizes, names = NETS[net]
    x, labels = rng.standard_normal((5, 200)), rng.integers(3, size=200)
    ends = []
    for backend in ("numba", "numpy"):
        model = fastmlp.MLP(sizes, activation=names)
        with fastmlp.use_backend(backend):
            history = model.fit(x, labels, epochs=3, optimizer=fastmlp.optimizers.Adam(0.01), batch_size=32, l2=0.01)
        ends.append((model.parameters, np.array(history.loss)))
    for one, other in zip(*ends, strict=True):
        assert_close(one, other, "trajectory")


BITS = [("gelu", 300), (("tanh", "gelu"), 300), (("logistic", "leaky_relu"), 300), ("gelu", 3000), ("tanh", 40)]


@pytest.mark.kernels
@pytest.mark.numba
@pytest.mark.parametrize(("activation", "m"), BITS)
def test_bits_depend_neither_on_threads_nor_on_the_form_of_the_input(compiled, rng, dtype, monkeypatch, activation, m):
    """With so many threads as there are; three share little work by turns."""
    monkeypatch.setattr(compiled.tuning, "PARALLEL_WORK", 0)
    monkeypatch.setattr(compiled.tuning, "TEAM_WORK", 0)
    codes = (rng.integers(1, 256, size=(30, m)) * (rng.random((30, m)) < 0.3)).astype(np.uint8)
    labels, found = rng.integers(4, size=m), {"step": set(), "batches": set()}
    plain = (codes / 255).astype(dtype)
    forms = [plain, np.asfortranarray(plain), fastmlp.pack(codes, scale=1 / 255), fastmlp.pack(plain)]
    batches = [fastmlp.pack(one, scale=1 / 255, minibatches=True) for one in (codes,)]
    batches += [fastmlp.pack(plain, minibatches=True)]
    model = fastmlp.MLP((30, 21, 18, 4), dtype=dtype.name, activation=activation)
    for threads in (1, 2, 3):
        if threads > compiled.max_threads():
            continue
        with fastmlp.use_backend("numba"), fastmlp.use_threads(threads):
            for x in (*forms, *batches):
                loss, grad = model.loss_and_grad(x, labels)
                bits = (loss, grad.tobytes(), model.predict_proba(x).tobytes())
                found["step"].add(bits)
                trained = fastmlp.MLP((30, 21, 18, 4), dtype=dtype.name, activation=activation)
                adam = fastmlp.optimizers.Adam(0.01)
                trained.fit(x, labels, epochs=2, optimizer=adam, batch_size=16, clip_norm=0.5)
                found["batches"].add(trained.parameters.tobytes())
    assert {name: len(one) for name, one in found.items()} == {"step": 1, "batches": 1}


@pytest.mark.kernels
def test_a_run_says_nothing_of_dead_units_where_there_are_no_relus(backend, rng):
    x, labels = training_data(rng)
    for activation, dead in (("relu", True), (("relu", "tanh"), False), ("tanh", False), ("leaky_relu", False)):
        model = fastmlp.MLP((12, 9, 9, 4), activation=activation)
        model.biases[1][:] = -1e3
        with pytest.warns(fastmlp.TrainingWarning) as caught:
            model.fit(x, rng.permutation(labels), epochs=60, alpha=1e-4)
        assert ("no sample activates any hidden unit" in str(caught[0].message)) == dead


# ---- Names, files and copies ----


def test_one_name_for_all_or_one_for_each():
    assert fastmlp.MLP((3, 4, 5, 2)).activation == "relu"
    assert fastmlp.MLP((3, 4, 5, 2), activation="gelu").activation == "gelu"
    assert fastmlp.MLP((3, 4, 5, 2), activation=["gelu", "tanh"]).activation == ("gelu", "tanh")
    assert fastmlp.MLP((3, 4, 5, 2), activation=("tanh", "tanh")).activation == "tanh"
    assert fastmlp.MLP((3, 2), activation=()).activation == "relu"
    assert fastmlp.MLP((3, 2), activation="tanh").activation == "tanh"
    assert repr(fastmlp.MLP((3, 4, 2), activation="relu")) == "MLP((3, 4, 2), dtype='float64')"
    assert repr(fastmlp.MLP((3, 4, 2), activation="tanh")) == "MLP((3, 4, 2), dtype='float64', activation='tanh')"


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (
            "Tanh",
            ValueError,
            "^activation: got 'Tanh', expected one of 'identity', .*, 'gelu'; pass one of these names$",
        ),
        (("tanh", "swish"), ValueError, "^activation: got 'swish', expected one of"),
        (("tanh", None), ValueError, "^activation: got None, expected one of"),
        (("tanh",), ValueError, "^activation: got 1 names, expected one for each of 2 hidden layers, or one name .*;"),
        (("tanh",) * 3, ValueError, "^activation: got 3 names, expected"),
        (None, TypeError, "^activation: got NoneType None, expected a name, or one for each hidden layer; pass a name"),
        (np.tanh, TypeError, "^activation: got ufunc "),
    ],
)
def test_what_is_no_activation_is_refused(given, error, text):
    with pytest.raises(error, match=text):
        fastmlp.MLP((3, 4, 5, 2), activation=given)


@pytest.mark.parametrize("activation", ["gelu", "relu", ("tanh", "relu")])
def test_files_and_pickles_know_the_activation(tmp_path, activation):
    model = fastmlp.MLP((3, 4, 5, 2), activation=activation)
    model.save(tmp_path / "model")
    for again in (fastmlp.MLP.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert (again.activation, repr(again)) == (activation, repr(model))
        assert_same_bits(again.predict_proba(np.eye(3)), model.predict_proba(np.eye(3)))


def test_only_files_with_other_activations_are_of_a_version_that_older_programs_refuse(tmp_path):
    for activation, version in (("relu", b'"format_version":"1"'), ("tanh", b'"format_version":"2"')):
        fastmlp.MLP((3, 4, 2), activation=activation).save(tmp_path / "model")
        assert version in (tmp_path / "model").read_bytes()


def test_models_that_were_pickled_before_there_was_a_choice_have_relus():
    state = fastmlp.MLP((3, 4, 2)).__dict__.copy()
    del state["_activation"]
    old = fastmlp.MLP.__new__(fastmlp.MLP)
    old.__dict__.update(state)
    assert pickle.loads(pickle.dumps(old)).activation == "relu"
    assert_same_bits(old.predict_proba(np.eye(3)), fastmlp.MLP((3, 4, 2)).predict_proba(np.eye(3)))


@pytest.mark.parametrize("options", [{}, {"optimizer": fastmlp.optimizers.Adam(0.01), "batch_size": 32}])
def test_a_run_resumes_with_its_own_activation_only(backend, rng, tmp_path, options):
    x, labels = training_data(rng)
    whole = fastmlp.MLP((12, 9, 7, 4), activation=("gelu", "tanh"))
    whole.fit(x, labels, epochs=6, **options)
    begun = fastmlp.MLP((12, 9, 7, 4), activation=("gelu", "tanh"))
    begun.fit(x, labels, epochs=3, checkpoint=tmp_path / "run", **options)
    assert storage.load(tmp_path / "run").activation == "gelu,tanh"
    other = fastmlp.MLP((12, 9, 7, 4))
    with pytest.raises(ValueError, match="^path: got activation gelu,tanh in the file but relu here: .*run, expected"):
        other.fit(x, labels, epochs=6, checkpoint=tmp_path / "run", resume=True, **options)
    resumed = fastmlp.MLP((12, 9, 7, 4), activation=("gelu", "tanh"))
    resumed.fit(x, labels, epochs=6, checkpoint=tmp_path / "run", resume=True, **options)
    assert_same_bits(resumed.parameters, whole.parameters)


def test_a_checkpoint_from_before_there_was_a_choice_resumes_with_relus(backend, rng, tmp_path, monkeypatch):
    x, labels = training_data(rng)
    with monkeypatch.context() as patch:
        checksum = storage._checksum

        def without(tensors, metadata):
            metadata.pop("activation", None)
            return checksum(tensors, metadata)

        patch.setattr(storage, "_checksum", without)
        fastmlp.MLP((12, 9, 4)).fit(x, labels, epochs=3, checkpoint=tmp_path / "run")
    assert b'"activation"' not in (tmp_path / "run").read_bytes()
    with pytest.raises(ValueError, match="activation relu in the file but tanh here"):
        fastmlp.MLP((12, 9, 4), activation="tanh").fit(x, labels, epochs=5, checkpoint=tmp_path / "run", resume=True)
    model, whole = fastmlp.MLP((12, 9, 4)), fastmlp.MLP((12, 9, 4))
    model.fit(x, labels, epochs=5, checkpoint=tmp_path / "run", resume=True)
    whole.fit(x, labels, epochs=5)
    assert_same_bits(model.parameters, whole.parameters)


def test_the_draws_of_sklearn_know_the_logistic_function():
    relu, logistic, mixed = (
        fastmlp.MLP((5, 4, 4, 3), init="sklearn", activation=one).parameters
        for one in ("relu", "logistic", ("logistic", "tanh"))
    )
    assert_close(logistic, relu / np.sqrt(3), "function")
    assert_same_bits(mixed, relu)
