"""Data frames of pandas and polars as samples, labels and targets: rows are samples, and columns have names."""

import datetime
import pickle

import numpy as np
import pytest
from compare import assert_close, assert_same_bits

import fastmlp
from fastmlp import preprocessing
from fastmlp.datasets import Dataset

NAMES = ["age", "height", "kids"]


def pandas_frame(columns, index=None):
    return pytest.importorskip("pandas").DataFrame(columns, index=index)


def polars_frame(columns):
    return pytest.importorskip("polars").DataFrame(columns)


@pytest.fixture(params=[pandas_frame, polars_frame], ids=["pandas", "polars"])
def frame(request):
    """Return a function that makes a frame of columns, of either library."""
    return request.param


@pytest.fixture
def columns(rng):
    return {"age": rng.normal(size=30), "height": rng.normal(size=30), "kids": rng.integers(0, 4, 30)}


def matrix(columns):
    return np.stack([np.asarray(column, np.float64) for column in columns.values()])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_frame_trains_as_the_transposed_array(frame, columns, rng, dtype):
    labels = rng.integers(0, 2, 30)
    one, other = (fastmlp.MLP((3, 4, 2), dtype) for _ in range(2))
    table = frame(columns)
    held_out = {name: column[:10] for name, column in columns.items()}
    expected = one.fit(matrix(columns), labels, 5, validation=(matrix(held_out), labels[:10]))
    found = other.fit(table, frame({"kind": labels}), 5, validation=(frame(held_out), labels[:10]))
    assert_same_bits(other.parameters, one.parameters)
    assert (found.loss, found.validation_loss) == (expected.loss, expected.validation_loss)
    assert other.evaluate(table, frame({"kind": labels})["kind"]) == one.evaluate(matrix(columns), labels)
    assert_same_bits(other.predict(table), one.predict(matrix(columns)))
    assert_same_bits(other.predict_proba(table), one.predict_proba(matrix(columns)))
    assert_same_bits(other.loss_and_grad(table, labels)[1], one.loss_and_grad(matrix(columns), labels)[1])


def test_targets_may_be_a_frame_of_several_columns(frame, columns):
    model = fastmlp.MLP((3, 2), loss="squared_error")
    y = {"a": columns["age"] * 2, "b": columns["height"]}
    assert model.evaluate(frame(columns), frame(y)) == model.evaluate(matrix(columns), matrix(y))


def test_pack_takes_a_frame_in_the_dtype_of_its_columns(frame):
    for kind, expected in (("uint8", "uint8"), ("float32", "float32"), ("int16", "float64"), ("bool", "float64")):
        packed = fastmlp.pack(frame({"a": np.array([0, 1, 1], kind), "b": np.array([1, 0, 1], kind)}))
        assert (packed.shape, packed.dtype) == ((2, 3), np.dtype(expected))
        np.testing.assert_array_equal(packed.to_dense(), [[0, 1, 1], [1, 0, 1]])


def test_columns_are_those_of_the_training_in_its_order(frame, columns, tmp_path):
    model = fastmlp.MLP((3, 2))
    model.fit(frame(columns), np.arange(30) % 2, 1)
    model.save(tmp_path / "model")
    for one in (model, fastmlp.MLP.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert one.features == tuple(NAMES)
        turned = {name: columns[name] for name in ("kids", "age", "height")}
        words = "got the columns 'kids', 'age', 'height', expected them in the order 'age', 'height', 'kids', as in"
        with pytest.raises(ValueError, match=f"^X: {words} training; select them by name"):
            one.predict(frame(turned))
        assert_same_bits(one.predict(frame(turned)[list(one.features)]), one.predict(frame(columns)))
        other = {"Age" if name == "age" else name: column for name, column in columns.items()}
        with pytest.raises(ValueError, match="^X: got no column 'age' and the unknown column 'Age', expected 'age'"):
            one.evaluate(frame(other), np.arange(30) % 2)
        with pytest.raises(ValueError, match="^validation X: got the columns"):
            one.fit(frame(columns), np.arange(30) % 2, 1, validation=(frame(turned), np.arange(30) % 2))
        one.predict(matrix(columns))  # an array has no names
    with pytest.raises(ValueError, match="^X: got the columns"):  # a second fit continues the first
        model.fit(frame(turned), np.arange(30) % 2, 1)


def test_columns_without_names_are_known_by_their_places(rng):
    table = pandas_frame(rng.normal(size=(5, 3)))
    model = fastmlp.MLP((3, 2))
    model.fit(table, np.arange(5) % 2, 1)
    assert model.features == ()
    model.predict(table[[2, 1, 0]])


@pytest.mark.parametrize(
    ("cell", "error", "words"),
    [
        (None, ValueError, "got no value, expected a value; fill it in"),
        (np.nan, ValueError, "got no value"),
        ("tall", TypeError, "got str 'tall', expected a number; correct it, or encode the column with fastmlp.prepro"),
        ("1.5", TypeError, "got str '1.5', expected a number"),
        (b"3", TypeError, "got bytes b'3', expected a number"),
    ],
)
def test_a_cell_that_is_no_number_is_named(cell, error, words):
    cells = [1.0, 2.0, cell]
    with pytest.raises(error, match=f"^X, column 'height', row 2: {words}"):
        fastmlp.pack(pandas_frame({"age": [1, 2, 3], "height": np.array(cells, object)}))
    with pytest.raises(error, match=f"^X, column 'height', row 'c': {words}"):
        fastmlp.MLP((2, 2)).predict(pandas_frame({"age": [1, 2, 3], "height": cells}, index=["a", "b", "c"]))


def test_a_cell_of_polars_that_is_no_number_is_named():
    polars = pytest.importorskip("polars")
    for column, error in (([1, 2, None], ValueError), ([True, False, None], ValueError), (["1", "2", "c"], TypeError)):
        where = 0 if error is TypeError else 2
        with pytest.raises(error, match=f"^X, column 'b', row {where}: got "):
            fastmlp.pack(polars.DataFrame({"a": [1.0, 2.0, 3.0], "b": column}))


def test_missing_numbers_of_nullable_columns_are_named():
    pandas = pytest.importorskip("pandas")
    for kind in ("Int64", "Float64", "boolean"):
        whole = pandas.DataFrame({"a": pandas.array([1, 0, 1], dtype=kind)})
        np.testing.assert_array_equal(fastmlp.pack(whole).to_dense(), [[1, 0, 1]])
        holed = pandas.DataFrame({"a": pandas.array([1, 0, None], dtype=kind)})
        with pytest.raises(ValueError, match="^X, column 'a', row 2: got no value"):
            fastmlp.pack(holed)


def test_dates_are_no_numbers(frame):
    days = [datetime.datetime(2026, 1, day) for day in (1, 2)]
    with pytest.raises(TypeError, match=r"^X, column 'day': got dtype datetime64.*, expected numbers; convert it"):
        fastmlp.pack(frame({"day": days}))


def test_labels_that_are_missing_or_text_are_refused(frame, columns):
    model = fastmlp.MLP((3, 2))
    labels = frame({"kind": [0.0, 1.0, None] * 10})
    for y in (labels, labels["kind"]):
        with pytest.raises(ValueError, match="^Y, column 'kind', row 2: got no value"):
            model.fit(frame(columns), y, 1)
    with pytest.raises(TypeError, match=r"names, labels = np.unique\(labels, return_inverse=True\)"):
        model.fit(frame(columns), frame({"kind": ["a", "b", "c"] * 10})["kind"], 1)


def test_frames_that_are_no_samples_are_refused(columns):
    pandas, polars = (pytest.importorskip(name) for name in ("pandas", "polars"))
    model = fastmlp.MLP((3, 2))
    with pytest.raises(TypeError, match=r"^X: got a LazyFrame, expected a frame with its rows; call its .collect"):
        model.predict(polars.DataFrame(columns).lazy())
    with pytest.raises(TypeError, match="^Y: got a LazyFrame"):
        model.evaluate(matrix(columns), polars.DataFrame(columns).lazy())
    with pytest.raises(ValueError, match="^X: got two columns 'a', expected different names"):
        model.predict(pandas.DataFrame(np.eye(3), columns=["a", "b", "a"]))
    with pytest.raises(ValueError, match="^X: got a frame without columns"):
        model.predict(pandas.DataFrame(index=[1, 2]))
    with pytest.raises(ValueError, match=r"^X: got shape \(3, 0\), expected at least one element"):
        model.predict(pandas.DataFrame(columns)[:0])
    with pytest.raises(ValueError, match=r"^X: got shape \(2, 30\), expected shape"):
        model.predict(pandas.DataFrame(columns)[["age", "kids"]])


@pytest.fixture
def people(rng):
    """Return columns of numbers and of categories, and labels that depend on both."""
    town, age = rng.choice(["Bern", "Oslo", "Rome"], 90), rng.normal(40, 10, 90)
    columns = {"town": town.tolist(), "age": age, "floor": rng.integers(0, 3, 90)}
    return columns, ((town == "Rome") ^ (age > 40)).astype(int)


def test_an_encoder_lets_a_model_take_raw_rows(frame, people, tmp_path):
    columns, labels = people
    encoder = preprocessing.fit(frame(columns), categories=["floor"])
    assert (encoder.names, encoder.width) == (("town", "age", "floor"), 7)
    assert encoder.categories == {0: ("Bern", "Oslo", "Rome"), 2: ("0", "1", "2")}
    model = fastmlp.MLP((7, 16, 2))
    model.encoder = encoder
    model.fit(frame(columns), labels, 300, alpha=0.5)
    assert model.evaluate(frame(columns), labels)["accuracy"] == 1
    model.save(tmp_path / "model")
    loaded = fastmlp.MLP.load(tmp_path / "model")
    assert loaded.encoder == encoder
    assert_same_bits(loaded.predict_proba(frame(columns)), model.predict_proba(frame(columns)))
    with pytest.raises(ValueError, match="^X: got the columns 'age', 'town', 'floor'"):
        model.predict(frame({name: columns[name] for name in ("age", "town", "floor")}))


def test_a_packed_frame_is_not_taken_for_encoded(frame, people):
    ages = frame({"age": people[0]["age"] / 100})
    model = fastmlp.MLP((1, 4, 2))
    model.fit(fastmlp.pack(ages), people[1], 1)
    model.encoder = preprocessing.fit(ages)
    packed = fastmlp.pack(ages)
    for one in (packed, pickle.loads(pickle.dumps(packed))):
        for call in (model.predict, lambda x: model.fit(ages, people[1], 1, validation=(x, people[1]))):
            with pytest.raises(ValueError, match="X: got a packed data frame, .*; pass the frame as"):
                call(one)
    assert model.predict(fastmlp.pack(np.zeros((1, 3)))).shape == (3,)


def test_infinite_numbers_have_no_mean(frame):
    with pytest.raises(ValueError, match=r"^frame: got inf in column 'b', row 1 \(from 0\), expected finite numbers"):
        preprocessing.fit(frame({"a": np.zeros(3), "b": np.array([0, np.inf, 1])}))


def test_large_integers_are_different_categories(frame):
    numbers = np.array([2**53, 2**53 + 1, 5])
    encoder = preprocessing.fit(frame({"id": numbers}), categories=["id"])
    assert encoder.categories == {0: ("5", str(2**53), str(2**53 + 1))}


def test_encoded_rows_are_those_of_scikit_learn(frame, people):
    compose, prepare = (pytest.importorskip(f"sklearn.{name}") for name in ("compose", "preprocessing"))
    columns, _ = people
    train = {name: column[:60] for name, column in columns.items()}
    table = pandas_frame(columns)
    steps = [("n", prepare.StandardScaler(), ["age"]), ("c", prepare.OneHotEncoder(), ["town", "floor"])]
    expected = compose.ColumnTransformer(steps, sparse_threshold=0).fit(table[:60]).transform(table)
    model = fastmlp.MLP((7, 2))
    model.encoder = preprocessing.fit(frame(train), ["floor"])
    assert_close(model.predict_proba(frame(columns)), model.predict_proba(expected.T), "trajectory")


def test_a_new_category_is_zeros_and_a_warning(frame, people):
    columns, _ = people
    model = fastmlp.MLP((5, 2))
    model.encoder = preprocessing.fit(frame(columns))
    strange = {**columns, "town": ["Paris", *columns["town"][1:]]}
    with pytest.warns(UserWarning, match="^X, column 'town': 'Paris' did not occur in training: encoded as"):
        found = model.predict_proba(frame(strange))
    numbers = np.array([columns["age"], columns["floor"]])
    x = (numbers - numbers.mean(axis=1, keepdims=True)) / numbers.std(axis=1, keepdims=True)
    assert_close(found[:, :1], model.predict_proba([[x[0, 0]], [x[1, 0]], [0.0], [0.0], [0.0]]), "trajectory")
    assert_same_bits(found[:, 1:], model.predict_proba(frame(columns))[:, 1:])


def test_rare_categories_share_an_input(frame, rng):
    codes = np.concatenate([np.repeat(np.arange(99), 3), np.arange(99, 300)])
    table = {"code": [f"k{code:03}" for code in codes], "x": rng.normal(size=len(codes))}
    encoder = preprocessing.fit(frame(table))
    assert encoder.width == 101
    assert encoder.categories[0] == (*(f"k{code:03}" for code in range(99)), None)
    model = fastmlp.MLP((101, 2))
    model.encoder = encoder
    rare = model.predict_proba(frame({"code": ["k150", "k299", "never seen"], "x": [0.0] * 3}))  # without a warning
    assert_same_bits(rare[:, :1], rare[:, 1:2])
    assert_same_bits(rare[:, :1], rare[:, 2:])


def test_a_number_that_became_text_is_refused(frame, people):
    columns, _ = people
    model = fastmlp.MLP((5, 2))
    model.encoder = preprocessing.fit(frame(columns))
    with pytest.raises(TypeError, match="^X, column 'age', row 0: got str 'old', expected a number; correct it"):
        model.predict(frame({**columns, "age": ["old"] * 90}))
    with pytest.raises(ValueError, match="^X, column 'town', row 1: got no value"):
        model.predict(frame({**columns, "town": ["Bern", None, *columns["town"][2:]]}))


def test_categories_have_one_spelling(people):
    """A category of integers may come back as floating point, as a missing value elsewhere makes it in pandas."""
    table = pandas_frame(people[0])
    encoder = preprocessing.fit(table, ["floor"])
    model = fastmlp.MLP((7, 2))
    model.encoder = encoder
    assert_same_bits(model.predict_proba(table.astype({"floor": float})), model.predict_proba(table))
    assert_same_bits(model.predict_proba(table.astype({"town": "category"})), model.predict_proba(table))
    assert preprocessing.fit(table.astype({"floor": "category", "town": "category"})) == encoder


def test_a_wrong_encoder_is_refused(frame, people):
    encoder = preprocessing.fit(frame(people[0]))
    model = fastmlp.MLP((4, 2))
    with pytest.raises(ValueError, match=r"^encoder: got 5 inputs, expected 4, as the model; make the model with"):
        model.encoder = encoder
    with pytest.raises(TypeError, match="^encoder: got NoneType, expected an encoder"):
        model.encoder = None
    with pytest.raises(TypeError, match="^frame: got ndarray, expected a data frame of pandas or polars"):
        preprocessing.fit(np.eye(3))
    with pytest.raises(ValueError, match="^categories: got 'flor', expected one of: town, age, floor"):
        preprocessing.fit(frame(people[0]), ["flor"])
    with pytest.raises(ValueError, match="^frame: got no rows"):
        preprocessing.fit(frame(people[0])[:0])
    with pytest.raises(ValueError, match="^frame, column 'town', row 1: got no value"):
        preprocessing.fit(frame({**people[0], "town": ["Bern", None, *people[0]["town"][2:]]}))


def test_a_frame_of_pixels_is_scaled_as_the_command_line_scales_them(frame, rng):
    """A model of pictures has one scale for all columns, and no encoder."""
    x = rng.integers(0, 17, (20, 64)).astype(np.uint8)
    y = np.arange(20) % 2
    inputs = preprocessing.from_dataset(Dataset(x, y, x, y, 16.0, False, ("0", "1")))
    model = fastmlp.MLP((64, 2))
    model.notes = preprocessing.to_notes("pixels", inputs)
    found = model.predict_proba(frame({f"p{i}": x[:, i] for i in range(64)}))
    assert_close(found, model.predict_proba(preprocessing.pack_samples(x, inputs, model)), "product")


def test_an_encoder_that_lies_is_refused(frame, people):
    model = fastmlp.MLP((5, 2))
    model.encoder = preprocessing.fit(frame(people[0]))
    good = model.notes
    for lie in ({"columns": "[[0.0], [1.0]]"}, {"categories": "[]"}, {"features": "7"}, {"columns": "["}):
        model.notes = good | lie
        with pytest.raises(ValueError, match="^notes: got an encoder that does not fit the model, expected those of"):
            model.predict(frame(people[0]))


def test_no_frame_library_is_imported(run_python):
    run_python("""
import sys, numpy, fastmlp
fastmlp.MLP((2, 2)).fit(numpy.eye(2), [0, 1], 1)
assert not {"pandas", "polars", "narwhals", "sklearn"} & set(sys.modules)
""")
