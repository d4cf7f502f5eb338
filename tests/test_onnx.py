"""ONNX files: onnxruntime predicts from them what the models predict, from raw samples as from prepared ones."""

import json
import warnings

import numpy as np
import pytest
from compare import F4, F8, relative_difference

import fastmlp
from fastmlp.kernels.nets import ACTIVATIONS, LOSSES

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

TOLERANCE = {F8: 1e-12, F4: 1e-5}  # relative to the largest entry
OUTPUTS = {"cross_entropy": (2, 4), "logistic": (1, 3)}  # of the others (1, 2)

pytestmark = pytest.mark.usefixtures("_on_numpy")


@pytest.fixture
def _on_numpy():
    with fastmlp.use_backend("numpy"):  # the backends agree, and this one need not compile
        yield


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def drawn(rng, sizes, dtype="float64", **settings):
    """Return a model whose biases are not zero either."""
    model = fastmlp.MLP(sizes, dtype, **settings)
    model.parameters = rng.normal(size=model.parameters.size)
    return model


def run(path, **inputs):
    """Return the outputs of an ONNX file by name, after its check by the package onnx."""
    onnx.checker.check_model(str(path), full_check=True)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def assert_predicts(path, model, columns, names=None, **inputs):
    """Require the predictions of a model for columns (n_features, m) from an ONNX file with these inputs."""
    found, expected = run(path, **inputs), model.predict(columns).T
    if "variable" in found:
        numbers = found["variable"]
        assert list(found) == ["variable"]
        expected = expected.reshape(len(expected), -1)
    else:
        assert list(found) == ["label", "probabilities"]
        labels = expected if names is None else np.array(names)[expected]
        assert found["label"].tolist() == labels.tolist()
        numbers, expected = found["probabilities"], model.predict_proba(columns).T
        expected = np.stack([1 - expected, expected], axis=1) if expected.ndim == 1 else expected
    assert numbers.shape == expected.shape
    assert numbers.dtype == model.dtype
    assert relative_difference(numbers, expected) <= TOLERANCE[model.dtype]
    return found


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, ("gelu", "relu")])
def test_onnxruntime_predicts_the_same(rng, path, dtype, activation, loss):
    for outputs in OUTPUTS.get(loss, (1, 2)):
        model = drawn(rng, (5, 7, 6, outputs), dtype, activation=activation, loss=loss)
        model.export_onnx(path)
        for m in (1, 40):  # the number of samples is not part of the file
            x = rng.normal(size=(m, 5)).astype(dtype)
            found = assert_predicts(path, model, x.T, X=x)
            assert "label" not in found or found["label"].dtype == np.int64


def test_a_net_without_hidden_layers(rng, path):
    model = drawn(rng, (5, 3))
    model.export_onnx(path)
    x = rng.normal(size=(9, 5))
    assert_predicts(path, model, x.T, X=x)


def test_the_exact_gelu_where_approximations_and_cancellation_show(path):
    """Of the tanh formula, the error would be 5e-4; of 1 - erf for negative numbers, all digits."""
    special = pytest.importorskip("scipy.special")
    model = fastmlp.MLP((1, 1, 1), activation="gelu", loss="squared_error")
    model.parameters = [1, 0, 1, 0]
    model.export_onnx(path)
    z = np.concatenate([np.linspace(-37, 40, 1541), [0, 1e-9, -1e-9, 1e-300, -1e-300]]).reshape(-1, 1)
    found, expected = run(path, X=z)["variable"], z * special.ndtr(z)
    assert np.abs(found - expected).max() <= 1e-14
    assert (np.abs(found - expected) <= 1e-11 * np.abs(expected)).all()


def test_logits_that_are_equal_and_probabilities_that_are_small(path):
    model = fastmlp.MLP((1, 3))
    model.parameters = [1, 1, 0, 0, 0, 0]
    model.export_onnx(path)
    assert_predicts(path, model, np.array([[5.0, -5.0, 0.0]]), X=np.array([[5.0], [-5.0], [0.0]]))
    binary = fastmlp.MLP((1, 1), loss="logistic")
    binary.parameters = [1, 0]
    binary.export_onnx(path)
    found = run(path, X=np.array([[40.0], [-40.0], [0.0]]))
    assert found["label"].tolist() == binary.predict([[40.0, -40.0, 0.0]]).tolist() == [1, 0, 0]
    np.testing.assert_allclose(found["probabilities"][0], [np.exp(-40), 1], rtol=1e-12)


def test_the_file(rng, path):
    model = drawn(rng, (5, 4, 3), "float32")
    model.export_onnx(path)
    file = onnx.load(path)
    assert (file.ir_version, [(one.domain, one.version) for one in file.opset_import]) == (8, [("", 17)])
    assert [one.dim_param or one.dim_value for one in file.graph.input[0].type.tensor_type.shape.dim] == [
        "n_samples",
        5,
    ]
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in file.graph.initializer}
    for i, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
        np.testing.assert_array_equal(constants[f"layers.{i}.weight"], weight)
        np.testing.assert_array_equal(constants[f"layers.{i}.bias"], bias[:, 0])


class Table(dict):
    """A frame of named columns."""

    columns, dtypes = property(list), None
    shape = property(lambda self: (len(next(iter(self.values()))), len(self)))

    def to_numpy(self):
        return np.array(list(self.values()), object).T


def test_raw_rows_of_numbers_are_standardised_in_the_graph(rng, path, dtype):
    # Numbers whose mean is 1e5 times their deviation: single precision would lose the difference.
    frame = Table(age=rng.normal(40, 9, 50), year=2**16 + rng.integers(0, 4, 50).astype(float))
    encoder = fastmlp.preprocessing.fit(frame)
    model = drawn(rng, (encoder.width, 6, 3), dtype)
    model.encoder = encoder
    model.export_onnx(path)
    rows = np.stack([frame["age"], frame["year"]], axis=1).astype(dtype)
    raw = Table(age=rows[:, 0].astype(np.float64), year=rows[:, 1].astype(np.float64))
    assert_predicts(path, model, raw, X=rows)
    (columns,) = onnx.load(path).metadata_props
    assert (columns.key, json.loads(columns.value)) == ("columns of X", ["age", "year"])


def test_a_column_too_fine_for_the_inputs_of_the_file_is_said(rng, path):
    frame = Table(age=rng.normal(40, 9, 50), stamp=1e9 + rng.normal(0, 1, 50))
    for dtype in ("float32", "float64"):
        model = drawn(rng, (2, 6, 3), dtype)
        model.encoder = fastmlp.preprocessing.fit(frame)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model.export_onnx(path)
        found = [str(one.message) for one in told if "steps of" in str(one.message)]
        assert len(found) == (dtype == "float32")
        assert not found or "values of column 'stamp' are rounded to steps of 1" in found[0]


@pytest.mark.parametrize("numbers", [True, False])
def test_categories_are_encoded_in_the_graph(rng, path, dtype, numbers):
    """Also the rare ones, which share an input, and those that did not occur in training."""
    many = np.array([f"t{i:03}" for i in range(130)])
    words = {
        "town": np.append(many, many[rng.integers(0, 110, 470)]),
        "kind": rng.choice(["é", "b", ""], 600).astype("U9"),
    }
    plain = {"age": rng.normal(40, 9, 600)} if numbers else {}
    frame = Table({"town": words["town"], **plain, "kind": words["kind"]})
    pytest.importorskip("sklearn")
    encoder = fastmlp.preprocessing.fit(frame)
    assert encoder.categories[0][-1] is None
    assert encoder.width == 103 + numbers
    model = drawn(rng, (encoder.width, 6, 3), dtype)
    model.encoder = encoder
    model.export_onnx(path)
    frame["town"][:3], frame["kind"][3:9] = "new", "new"
    frame["age"] = frame["age"].astype(dtype).astype(np.float64) if numbers else None
    frame = Table({name: frame[name] for name in encoder.names})
    given = {"categories": np.stack([frame["town"], frame["kind"]], axis=1).astype(object)}
    given |= {"X": frame["age"].reshape(-1, 1).astype(dtype)} if numbers else {}
    with pytest.warns(UserWarning, match="'kind': 'new' did not occur in training"):
        assert_predicts(path, model, frame, **given)


def test_names_of_classes_and_the_scale_of_pictures(rng, path):
    model = drawn(rng, (4, 5, 3), "float32")
    model.notes = {"inputs": "[2, 2]", "max_value": "16.0", "classes": '["cat", "dog", "æ"]'}
    model.export_onnx(path)
    pixels = rng.integers(0, 17, (30, 4)).astype(np.float32)
    found = assert_predicts(path, model, pixels.T / 16, ["cat", "dog", "æ"], X=pixels)
    assert found["label"].dtype == object
    model.notes |= {"classes": '["3", "-7", "12"]'}
    model.export_onnx(path)
    assert assert_predicts(path, model, pixels.T / 16, [3, -7, 12], X=pixels)["label"].dtype == np.int64


def test_the_unit_of_a_target_is_restored(rng, path):
    model = drawn(rng, (4, 5, 1), loss="squared_error")
    model.notes = {"inputs": "[4]", "max_value": "1.0", "classes": "[]", "target": "[1000.0, 250.0]"}
    model.export_onnx(path)
    x = rng.normal(size=(9, 4))
    np.testing.assert_allclose(run(path, X=x)["variable"][:, 0], 1000 + 250 * model.predict(x.T), rtol=1e-12)


@pytest.mark.parametrize(
    "notes",
    [
        {"inputs": "[4]", "max_value": "0", "classes": "[]"},
        {"inputs": "[4]", "classes": "[]"},
        {"inputs": "[4]", "max_value": "1", "classes": '["a"]'},
        {"inputs": "[4]", "max_value": "1", "classes": "[" * 10},
        {"target": "[1, 0]"},
        {"columns": "[[0], [1]]"},
    ],
)
def test_notes_that_do_not_fit_are_refused(path, notes):
    model = fastmlp.MLP((4, 3))
    model.notes = notes
    with pytest.raises(ValueError, match="notes: got .* fit the model"):
        model.export_onnx(path)
    assert not path.exists()


def test_notes_of_the_user_do_not_matter(rng, path):
    model = drawn(rng, (4, 3))
    model.notes = {"author": "me", "classes": "of 1984"}
    model.export_onnx(path)
    x = rng.normal(size=(9, 4))
    assert_predicts(path, model, x.T, X=x)


def test_a_model_too_large_for_the_format_is_refused(path, monkeypatch):
    from fastmlp.interchange import graph

    monkeypatch.setattr(graph, "_LARGEST_FILE", 1000)
    with pytest.raises(ValueError, match="model: got a model of 4\\d\\d\\d bytes, expected at most 1000"):
        fastmlp.MLP((10, 50)).export_onnx(path)


def test_a_missing_package_is_named(run_python, path):
    run_python(f"""
import sys
sys.modules["onnx"] = sys.modules["skl2onnx"] = None
import fastmlp
import fastmlp.onnx
for what in (lambda: fastmlp.MLP((2, 3)).export_onnx({str(path)!r}), fastmlp.onnx.register):
    try:
        what()
    except ImportError as error:
        assert 'python -m pip install ".[onnx]"' in str(error), error
    else:
        raise AssertionError
""")


TABLE = "age,town,rooms,price\n" + "".join(f"{20 + i % 37},{'ABC'[i % 3]},{i % 4},{3 * i % 50}.5\n" for i in range(60))


@pytest.mark.parametrize("target", ["--label town", "--target price"])
def test_the_command_line(run, tmp_path, target):
    """The answers of `predict` for a table, which reads the same raw rows."""
    pytest.importorskip("sklearn")
    (tmp_path / "t.csv").write_text(TABLE)
    saved, file = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    train = f"train --category rooms --epochs 3 --backend numpy {target} --save"
    assert run(train, saved, tmp_path / "t.csv")[0] == 0
    status, printed, _ = run("export --json --backend numpy", saved, "--to", file)
    facts = json.loads(printed)
    assert status == 0
    names = [one["columns"] for one in facts["inputs"]]
    rows = [line.split(",") for line in TABLE.splitlines()[1:]]
    cells = {name: [row[at] for row in rows] for at, name in enumerate(["age", "town", "rooms", "price"])}
    given = {
        one["name"]: np.array([cells[name] for name in one["columns"]], one["type"].replace("string", "object")).T
        for one in facts["inputs"]
    }
    found = run_file(file, given)
    status, printed, _ = run("predict --json --backend numpy", saved, tmp_path / "t.csv")
    answers = json.loads(printed)["predictions"]
    if target.startswith("--label"):
        assert names == [["age", "price"], ["rooms"]]
        assert found["label"].tolist() == [one["name"] for one in answers]
        expected = np.array([one["probabilities"] for one in answers])
        assert relative_difference(found["probabilities"], expected) <= 1e-5
    else:
        assert names == [["age"], ["town", "rooms"]]
        expected = np.array([one["value"] for one in answers])
        assert relative_difference(found["variable"][:, 0], expected) <= 1e-5


run_file = lambda path, given: run(path, **given)  # noqa: E731  # the fixture `run` hides the function


def test_pictures_of_the_command_line(run, tmp_path):
    pytest.importorskip("sklearn")
    saved, file = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    assert run("train digits --epochs 1 --backend numpy --save", saved)[0] == 0
    status, printed, _ = run("export --backend numpy", saved, "--to", file)
    assert status == 0
    assert printed.splitlines()[:2] == [
        "inputs: X (n_samples, 64) float32",
        "outputs: label (n_samples,) int64, probabilities (n_samples, 10) float32",
    ]
    (x, _), _ = fastmlp.datasets.digits.load_data()
    x = x.reshape(len(x), -1)
    assert_predicts(file, fastmlp.MLP.load(saved), x.T / 16, X=x.astype(np.float32))


@pytest.mark.parametrize(
    ("to", "text"),
    [("m.txt", "expected a file whose name ends in .onnx"), ("no/m.onnx", "no such folder"), ("s.onnx", "of MODEL")],
)
def test_wrong_words(run, tmp_path, to, text):
    fastmlp.MLP((2, 3)).save(tmp_path / "s.onnx")
    status, _, error = run("export", tmp_path / "s.onnx", "--to", tmp_path / to)
    assert status == 2
    assert "--to: got " in error
    assert text in error


# Pipelines of scikit-learn.


@pytest.fixture(scope="module")
def to_onnx():
    skl2onnx = pytest.importorskip("skl2onnx")
    import fastmlp.onnx

    fastmlp.onnx.register()
    fastmlp.onnx.register()
    return skl2onnx.to_onnx


def pipeline(estimator, x, y):
    import warnings

    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a few iterations have not converged
        return make_pipeline(StandardScaler(), estimator).fit(x, y)


def saved(model, path):
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("kind", ["binary", "words", "three", "multilabel", "floats"])
@pytest.mark.parametrize("activation", ["relu", ("gelu", "leaky_relu")])
def test_a_pipeline_with_a_classifier(rng, path, to_onnx, dtype, activation, kind):
    from fastmlp.estimator import MLPClassifier

    x = rng.normal(3, 2, (60, 4)).astype(dtype)
    y = {
        "binary": x[:, 0] > 3,
        "words": np.where(x[:, 0] > 3, "yes", "no"),
        "three": np.digitize(x[:, 0], [2, 4]) * 5 - 5,
        "multilabel": (x[:, :3] > 3).astype(int),
        "floats": np.digitize(x[:, 0], [2, 4]) * 1.0,
    }[kind]
    model = pipeline(MLPClassifier((6, 5), activation, max_iter=20, random_state=0), x, y)
    found = run(saved(to_onnx(model, x[:1], options={"zipmap": False}), path), X=x)
    assert list(found) == ["label", "probabilities"]
    assert found["label"].tolist() == model.predict(x).tolist()
    assert found["probabilities"].dtype == dtype
    assert relative_difference(found["probabilities"], model.predict_proba(x)) <= TOLERANCE[dtype]
    if kind == "words" and dtype == F4:  # skl2onnx has no ZipMap for float64
        zipped = run(saved(to_onnx(model, x[:1]), path), X=x)["output_probability"]
        assert sorted(zipped[0]) == ["no", "yes"]


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "huber"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_pipeline_with_a_regressor(rng, path, to_onnx, dtype, loss, outputs):
    from fastmlp.estimator import MLPRegressor

    x = rng.normal(3, 2, (60, 4)).astype(dtype)
    y = np.abs(x[:, :outputs]).squeeze()
    model = pipeline(MLPRegressor(loss, (6,), "gelu", max_iter=20, random_state=0), x, y)
    found = run(saved(to_onnx(model, x[:1]), path), X=x)["variable"]
    assert found.shape == (60, outputs)
    assert relative_difference(found, model.predict(x).reshape(60, outputs)) <= TOLERANCE[dtype]


def test_a_pipeline_of_whole_numbers(rng, path, to_onnx):
    from sklearn.pipeline import make_pipeline

    from fastmlp.estimator import MLPClassifier

    x = rng.integers(0, 9, (60, 4))
    model = make_pipeline(MLPClassifier((5,), solver="lbfgs", max_iter=2000, random_state=0)).fit(x, x[:, 0] > 4)
    found = run(saved(to_onnx(model, x[:1], options={"zipmap": False}), path), X=x)
    assert found["label"].tolist() == model.predict(x).tolist()
