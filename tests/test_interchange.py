"""Models of PyTorch, Keras and scikit-learn: the same predictions there and here, and refusals by name."""

import doctest
import importlib
import json

import numpy as np
import pytest
from compare import F4, F8, assert_same_bits, relative_difference

import fastmlp
from fastmlp.interchange import methods
from fastmlp.kernels.nets import ACTIVATIONS, LOSSES

TOLERANCE = {F8: 1e-12, F4: 1e-5}  # relative to the largest entry

pytestmark = [
    pytest.mark.usefixtures("_on_numpy"),
    # Keras on PyTorch converts its variables so.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]


@pytest.fixture
def _on_numpy():
    with fastmlp.use_backend("numpy"):  # the backends agree, and this one need not compile
        yield


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def keras(monkeypatch):
    if "KERAS_BACKEND" not in __import__("os").environ:
        monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("torch")
    return pytest.importorskip("keras")


@pytest.fixture
def library():
    return pytest.importorskip("sklearn.neural_network")


def drawn(rng, sizes, dtype="float64", **settings):
    """Return a model whose biases are not zero either."""
    model = fastmlp.MLP(sizes, dtype, **settings)
    model.parameters = rng.normal(size=model.parameters.size)
    return model


def assert_agree(actual, expected, dtype):
    assert np.shape(actual) == np.shape(expected)
    assert relative_difference(actual, expected) <= TOLERANCE[np.dtype(dtype)]


# PyTorch.


def net_of(torch, dtype, activation, bias=True):
    nn = torch.nn
    modules = [nn.Linear(5, 7, bias), activation(), nn.Linear(7, 7, bias), activation(), nn.Linear(7, 3, bias)]
    return nn.Sequential(*modules).to(getattr(torch, dtype.name))


THEIRS = {"identity": "Identity", "logistic": "Sigmoid", "tanh": "Tanh", "relu": "ReLU", "leaky_relu": "LeakyReLU"}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_state_dict_of_torch(torch, rng, dtype, name, bias):
    net = net_of(torch, dtype, getattr(torch.nn, THEIRS.get(name, "GELU")), bias)
    model = fastmlp.MLP.from_torch(net.state_dict(), activation=name)
    assert (model.layer_sizes, model.dtype, model.activation, model.seed) == ((5, 7, 7, 3), dtype, name, None)
    x = rng.normal(size=(20, 5)).astype(dtype)
    expected = torch.softmax(net(torch.tensor(x)), dim=1).detach().numpy()
    assert_agree(model.predict_proba(x.T).T, expected, dtype)
    back = model.to_torch()
    assert_agree(back(torch.tensor(x)).detach().numpy(), net(torch.tensor(x)).detach().numpy(), dtype)
    assert_same_bits(fastmlp.MLP.from_torch(back.state_dict(), activation=name).parameters, model.parameters)


def test_the_copy_has_its_own_memory_and_leaves_the_random_numbers_of_torch(torch, rng):
    model = drawn(rng, (5, 7, 3))
    state, before = torch.get_rng_state(), model.parameters.copy()
    net = model.to_torch()
    assert torch.equal(torch.get_rng_state(), state)
    imported = fastmlp.MLP.from_torch(net.state_dict())
    with torch.no_grad():
        for tensor in net.parameters():
            assert tensor.requires_grad
            tensor.zero_()
    assert_same_bits(model.parameters, before)
    assert_same_bits(imported.parameters, before)


def test_activations_losses_and_dtypes_by_argument(torch, rng):
    net = net_of(torch, F4, torch.nn.Tanh)
    model = fastmlp.MLP.from_torch(net.state_dict(), activation=("tanh", "gelu"), loss="huber", dtype="float64")
    assert (model.activation, model.loss, model.dtype) == (("tanh", "gelu"), "huber", F8)
    halves = fastmlp.MLP.from_torch(net.to(torch.bfloat16).state_dict())
    assert halves.dtype == F4
    assert_same_bits(halves.weights[0], net[0].weight.detach().float().numpy())


def test_files_of_safetensors_are_read_in_the_order_of_their_numbers(torch, rng, tmp_path):
    """In the file, layer 10 comes before layer 2; all layers but the first have the same shape."""
    save = pytest.importorskip("safetensors.torch").save_file
    net = torch.nn.Sequential(*[torch.nn.Linear(5 if i == 0 else 4, 4) for i in range(12)])
    save(net.state_dict(), tmp_path / "net.safetensors")
    model = fastmlp.MLP.from_torch(tmp_path / "net.safetensors", activation="identity")
    x = rng.normal(size=(20, 5)).astype(np.float32)
    expected = torch.softmax(net(torch.tensor(x)), dim=1).detach().numpy()
    assert_agree(model.predict_proba(x.T).T, expected, F4)
    model.save(tmp_path / "ours.safetensors")
    assert_same_bits(fastmlp.MLP.from_torch(str(tmp_path / "ours.safetensors")).parameters, model.parameters)


def test_a_file_that_does_not_tell_the_order_is_refused(tmp_path):
    save = pytest.importorskip("safetensors.numpy").save_file
    tensors = {"out.weight": np.ones((4, 4)), "hidden.weight": np.ones((4, 4))}
    save(tensors, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"state: got layers named hidden, out, .* in the order of the layers"):
        fastmlp.MLP.from_torch(tmp_path / "net.safetensors")
    assert fastmlp.MLP.from_torch(tensors).layer_sizes == (4, 4, 4)
    (tmp_path / "net.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="state: got a file that cannot be read"):
        fastmlp.MLP.from_torch(tmp_path / "net.safetensors")
    with pytest.raises(FileNotFoundError):
        fastmlp.MLP.from_torch(tmp_path / "missing.safetensors")


LINEAR = {"0.weight": np.ones((3, 2)), "0.bias": np.ones(3)}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (LINEAR | {"1.running_mean": np.ones(3)}, "'1.running_mean'"),
        (LINEAR | {"1.weight": np.ones(3), "1.bias": np.ones(3)}, r"'1.weight' of shape \(3,\)"),
        (LINEAR | {"2.weight": np.ones((4, 4))}, "'2' of 4 inputs, expected 3"),
        (LINEAR | {"0.bias": np.ones(2)}, r"bias of '0' of shape \(2,\), expected shape \(3,\)"),
        (LINEAR | {"0.bias": np.ones((3, 1))}, r"'0.bias' of shape \(3, 1\)"),
        ({"conv.weight": np.ones((3, 2, 1, 1))}, r"'conv.weight' of shape \(3, 2, 1, 1\)"),
        ({"0.bias": np.ones(3)}, "a bias but no weight of '0'"),
        ({}, "no layers"),
        ({"0.weight": np.ones((3, 0))}, r"'0' of shape \(3, 0\)"),
    ],
)
def test_what_is_no_linear_layer_is_refused_by_name(state, text):
    with pytest.raises(ValueError, match=f"^state: got .*{text}"):
        fastmlp.MLP.from_torch(state)


def test_the_state_dict_with_batch_norm_is_refused_by_name(torch):
    nn = torch.nn
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"'1.weight' of shape \(3,\).*BatchNorm"):
        fastmlp.MLP.from_torch(net.state_dict())
    with pytest.raises(TypeError, match=r"state: got Sequential, .*pass model.state_dict\(\)"):
        fastmlp.MLP.from_torch(net)


def test_tensors_of_integers_are_refused():
    with pytest.raises(TypeError, match="'0.weight' of dtype int64, expected floating-point numbers"):
        fastmlp.MLP.from_torch({"0.weight": np.ones((3, 2), int)})


# Keras.


def of_keras(keras, rng, *layers, shape=(5,)):
    net = keras.Sequential([keras.Input(shape), *layers])
    for layer in net.layers:
        layer.set_weights([rng.normal(size=one.shape) for one in layer.get_weights()])
    return net


@pytest.mark.parametrize(
    ("name", "ours"),
    [("linear", "identity"), ("sigmoid", "logistic"), ("tanh", "tanh"), ("relu", "relu"), ("gelu", "gelu")],
)
def test_a_model_of_keras(keras, rng, tmp_path, name, ours):
    dense = keras.layers.Dense
    layers = keras.layers.Flatten(), dense(7, name), keras.layers.Dropout(0.5), dense(6, "tanh", use_bias=False)
    net = of_keras(keras, rng, *layers, dense(3, "softmax"), shape=(2, 4))
    net.save(tmp_path / "net.keras")
    x = rng.normal(size=(20, 2, 4)).astype(np.float32)
    expected = net.predict(x, verbose=0)
    for source in (net, tmp_path / "net.keras", str(tmp_path / "net.keras")):
        model = fastmlp.MLP.from_keras(source)
        assert (model.layer_sizes, model.dtype, model.loss) == ((8, 7, 6, 3), F4, "cross_entropy")
        assert model.activation == (ours if ours == "tanh" else (ours, "tanh"))
        assert_agree(model.predict_proba(x.reshape(20, -1).T).T, expected, F4)


@pytest.mark.parametrize(
    ("last", "wanted", "loss"),
    [
        ("softmax", None, "cross_entropy"),
        ("sigmoid", None, "logistic"),
        ("linear", None, "squared_error"),
        ("linear", "huber", "huber"),
        ("linear", "cross_entropy", "cross_entropy"),
        ("exponential", None, "poisson"),
    ],
)
def test_the_last_activation_determines_the_loss(keras, rng, last, wanted, loss):
    net = of_keras(keras, rng, keras.layers.Dense(4, "relu"), keras.layers.Dense(3, last))
    model, x = fastmlp.MLP.from_keras(net, wanted, "float64"), rng.normal(size=(20, 5))
    assert (model.loss, model.dtype) == (loss, F8)
    found = model.predict_proba(x.T) if loss in ("cross_entropy", "logistic") else model.predict(x.T)
    expected = net.predict(x, verbose=0)
    if last == "linear" and loss == "cross_entropy":
        expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    assert_agree(found.T, expected, F4)


def test_a_functional_model_of_keras_is_one_chain(keras, rng):
    layers = keras.layers
    x = keras.Input((5,))
    a = layers.Dense(4, "relu", name="first")(x)
    b = layers.Dense(4, "tanh", name="second")(a)
    model = fastmlp.MLP.from_keras(keras.Model(x, layers.Dense(2, "softmax")(b)))
    assert model.activation == ("relu", "tanh")
    side = layers.Dense(4, "tanh", name="side")(x)
    joined = layers.Dense(2, "softmax")(layers.Add(name="sum")([a, side]))
    with pytest.raises(ValueError, match=r"model: got the (layer 'side', which does not follow|Add layer 'sum')"):
        fastmlp.MLP.from_keras(keras.Model(x, joined))
    twice = layers.Dense(5, "relu", name="twice")
    with pytest.raises(ValueError, match="which does not follow 'twice', expected layers in one chain"):
        fastmlp.MLP.from_keras(keras.Model(x, layers.Dense(2, "softmax")(twice(twice(x)))))
    skipping = keras.Model(x, [layers.Dense(4, "softmax")(a), b])
    with pytest.raises(ValueError, match="model: got"):
        fastmlp.MLP.from_keras(skipping)
    two = keras.Model(x, [a, b])
    with pytest.raises(ValueError, match="a model with 2 outputs"):
        fastmlp.MLP.from_keras(two)


def test_what_keras_has_and_fastmlp_has_not_is_refused_by_name(keras, rng):
    layers = keras.layers
    for layer, text in [
        (layers.BatchNormalization(name="norm"), "the BatchNormalization layer 'norm'"),
        (layers.Dense(3, "leaky_relu", name="mid"), "the activation 'leaky_relu' of 'mid'"),
        (layers.Dense(3, "softmax", name="mid"), "the activation 'softmax' of 'mid'"),
        (layers.Dense(3, keras.layers.LeakyReLU(0.1), name="mid"), "the activation .*LeakyReLU.* of 'mid'"),
    ]:
        with pytest.raises(ValueError, match=f"model: got {text}"):
            fastmlp.MLP.from_keras(of_keras(keras, rng, layer, layers.Dense(2, "softmax")))
    for last, text in [("relu", "the activation 'relu' of 'last'"), ("tanh", "the activation 'tanh'")]:
        with pytest.raises(ValueError, match=f"model: got {text}"):
            fastmlp.MLP.from_keras(of_keras(keras, rng, layers.Dense(2, last, name="last")))
    with pytest.raises(ValueError, match="loss: got 'huber', expected 'cross_entropy', which belongs to softmax"):
        fastmlp.MLP.from_keras(of_keras(keras, rng, layers.Dense(2, "softmax")), "huber")
    with pytest.raises(ValueError, match="the Flatten layer 'flat' after a Dense layer"):
        fastmlp.MLP.from_keras(of_keras(keras, rng, layers.Dense(2), layers.Flatten(name="flat")))
    with pytest.raises(ValueError, match="on arrays of 3 dimensions, .*put a Flatten layer"):
        fastmlp.MLP.from_keras(of_keras(keras, rng, layers.Dense(2, "softmax"), shape=(3, 4)))
    with pytest.raises(ValueError, match="the layer 'dry' without weights"):
        fastmlp.MLP.from_keras(keras.Sequential([layers.Dense(2, "softmax", name="dry")]))
    with pytest.raises(ValueError, match="no layers"):
        fastmlp.MLP.from_keras(of_keras(keras, rng, layers.Flatten()))
    with pytest.raises(TypeError, match="model: got dict, expected a model of Keras"):
        fastmlp.MLP.from_keras({})
    with pytest.raises(FileNotFoundError):
        fastmlp.MLP.from_keras("missing.keras")


# scikit-learn.


def fitted(make, x, y, **settings):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a few iterations have not converged
        return make(max_iter=20, random_state=0, **settings).fit(x, y)


def targets(rng, kind, x):
    return {
        "binary": (x[:, 0] > 0).astype(int),
        "words": np.where(x[:, 0] > 0, "yes", "no"),
        "three": np.digitize(x[:, 0], [-0.5, 0.5]),
        "names": np.array(["c", "a", "b"])[np.digitize(x[:, 0], [-0.5, 0.5])],
        "multilabel": (x[:, :3] > 0).astype(int),
    }[kind]


@pytest.mark.parametrize("whose", ["sklearn.neural_network", "fastmlp.estimator"])
@pytest.mark.parametrize("kind", ["binary", "words", "three", "names", "multilabel"])
@pytest.mark.parametrize("hidden", [(), (6, 5)])
def test_a_classifier_of_scikit_learn(library, rng, dtype, whose, kind, hidden):
    x = rng.normal(size=(60, 4)).astype(dtype)
    make = importlib.import_module(whose).MLPClassifier
    theirs = fitted(make, x, targets(rng, kind, x), hidden_layer_sizes=hidden, activation="tanh")
    model = fastmlp.MLP.from_sklearn(theirs)
    assert (model.dtype, model.seed) == (dtype, None)
    expected = theirs.predict_proba(x)
    found = model.predict_proba(x.T).T
    assert_agree(found, expected[:, 1] if kind in ("binary", "words") else expected, dtype)
    labels = model.predict(x.T).T
    assert (labels if kind == "multilabel" else theirs.classes_[labels]).tolist() == theirs.predict(x).tolist()
    back = model.to_sklearn()
    assert type(back) is library.MLPClassifier
    assert back.predict(x).tolist() == theirs.predict(x).tolist()
    assert back.classes_.tolist() == theirs.classes_.tolist()
    assert_agree(back.predict_proba(x), expected, dtype)
    assert back.score(x, theirs.predict(x)) == 1
    for one, other in zip(back.coefs_, theirs.coefs_, strict=True):
        assert_same_bits(one, np.ascontiguousarray(other))


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "huber", "absolute_error"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_regressor_of_scikit_learn(library, rng, dtype, loss, outputs):
    x = rng.normal(size=(60, 4)).astype(dtype)
    ours = loss in ("huber", "absolute_error")
    make = importlib.import_module("fastmlp.estimator" if ours else "sklearn.neural_network").MLPRegressor
    theirs = fitted(make, x, np.abs(x[:, :outputs]).squeeze(), loss=loss, hidden_layer_sizes=(6, 5))
    model = fastmlp.MLP.from_sklearn(theirs)
    assert model.loss == loss
    assert_agree(model.predict(x.T).T, theirs.predict(x), dtype)
    back = model.to_sklearn()
    assert type(back) is make
    assert_agree(back.predict(x), theirs.predict(x), dtype)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, ("tanh", "relu")])
def test_every_model_becomes_an_estimator(library, rng, dtype, loss, activation):
    for outputs in {"cross_entropy": (2, 4), "logistic": (1, 3)}.get(loss, (1, 2)):
        model = drawn(rng, (5, 7, 6, outputs), dtype, activation=activation, loss=loss)
        x = rng.normal(size=(30, 5)).astype(dtype)
        back = model.to_sklearn()
        assert back.predict(x).shape == model.predict(x.T).T.shape
        if loss in ("cross_entropy", "logistic"):
            assert back.predict(x).tolist() == model.predict(x.T).T.tolist()
            expected = model.predict_proba(x.T).T
            found = back.predict_proba(x)
            assert_agree(found[:, 1] if expected.ndim == 1 else found, expected, dtype)
        else:
            assert_agree(back.predict(x), model.predict(x.T).T, dtype)


@pytest.mark.parametrize(("loss", "outputs"), [("cross_entropy", 3), ("cross_entropy", 2), ("logistic", 1)])
def test_classes_are_sorted_as_scikit_learn_has_them(library, rng, loss, outputs):
    names = ["dog", "bird", "cat"][: max(2, outputs)]
    model = drawn(rng, (4, 5, outputs), loss=loss)
    model.notes = {"inputs": "[4]", "max_value": "1.0", "classes": json.dumps(names)}
    x, back = rng.normal(size=(40, 4)), model.to_sklearn()
    expected = model.predict_proba(x.T).T
    expected = np.stack([1 - expected, expected], axis=1) if expected.ndim == 1 else expected
    assert back.classes_.tolist() == sorted(names)
    assert back.predict(x).tolist() == np.array(names)[model.predict(x.T)].tolist()
    assert_agree(back.predict_proba(x), expected[:, np.argsort(names)], F8)


def test_training_continues_in_scikit_learn(library, rng):
    from sklearn.exceptions import ConvergenceWarning

    x = rng.normal(size=(90, 4))
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    back = drawn(rng, (4, 8, 3), activation="tanh").to_sklearn()
    start, before = back.score(x, y), [one.copy() for one in back.coefs_]
    back.set_params(warm_start=True, max_iter=50, learning_rate_init=0.01, random_state=0)
    with pytest.warns(ConvergenceWarning):
        back.fit(x, y)
    assert back.score(x, y) > start
    assert np.abs(back.coefs_[0] - before[0]).max() < 2  # and not drawn anew


def test_names_of_features_and_classes_travel_to_the_command_line(library, rng, run, tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rng.normal(size=(60, 3)), columns=["a", "b", "c"])
    y = np.where(frame["a"] > 0, "plus", "minus")
    theirs = fitted(library.MLPClassifier, frame, y, hidden_layer_sizes=(6,))
    model = fastmlp.MLP.from_sklearn(theirs)
    assert model.features == ("a", "b", "c")
    assert np.array(["minus", "plus"])[model.predict(frame)].tolist() == theirs.predict(frame).tolist()
    assert model.to_sklearn().feature_names_in_.tolist() == ["a", "b", "c"]
    model.save(tmp_path / "m.safetensors")
    frame.to_csv(tmp_path / "t.csv", index=False)
    status, printed, _ = run("predict --json --backend numpy", tmp_path / "m.safetensors", tmp_path / "t.csv")
    assert status == 0
    assert [one["name"] for one in json.loads(printed)["predictions"]] == theirs.predict(frame).tolist()


def test_what_is_not_a_fitted_estimator_is_refused(library):
    pipeline = pytest.importorskip("sklearn.pipeline")
    with pytest.raises(TypeError, match="estimator: got Pipeline, expected .*pass the last step"):
        fastmlp.MLP.from_sklearn(pipeline.make_pipeline(library.MLPClassifier()))
    with pytest.raises(ValueError, match="estimator: got an estimator without coefficients"):
        fastmlp.MLP.from_sklearn(library.MLPClassifier())
    with pytest.raises(ValueError, match="model: got a model of one class"):
        fastmlp.MLP((3, 1)).to_sklearn()
    model = fastmlp.MLP((3, 2))
    model.notes = {"inputs": "[3]", "max_value": "1.0", "classes": '["a", "a"]'}
    with pytest.raises(ValueError, match="2 classes with 1 names"):
        model.to_sklearn()


@pytest.mark.parametrize(
    ("module", "extra", "call"),
    [
        ("torch", "torch", "fastmlp.MLP((2, 3)).to_torch()"),
        ("safetensors", "torch", "fastmlp.MLP.from_torch('x')"),
        ("keras", "keras", "fastmlp.MLP.from_keras('x')"),
        ("sklearn.neural_network", "sklearn", "fastmlp.MLP.from_sklearn(0)"),
        ("sklearn.neural_network", "sklearn", "fastmlp.MLP((2, 3)).to_sklearn()"),
    ],
)
def test_a_missing_package_is_named(run_python, module, extra, call):
    run_python(f"""
import sys
sys.modules[{module!r}] = None
import fastmlp
try:
    {call}
except ImportError as error:
    assert 'python -m pip install ".[{extra}]"' in str(error), error
else:
    raise AssertionError
""")


@pytest.mark.parametrize("name", ["to_torch", "from_keras"])
def test_the_examples_that_need_other_libraries(torch, keras, name):
    """Doctests skip them: the libraries are optional."""
    text = getattr(methods.Interchange, name).__doc__.replace("# doctest: +SKIP", "")
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed == 0
