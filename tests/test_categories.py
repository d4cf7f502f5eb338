"""Tables with columns of categories: read, encoded as scikit-learn does, learnt, and predicted from raw rows."""

import csv
import json
import re

import numpy as np
import pytest
from compare import assert_close

import fastmlp
from fastmlp import encoding, preprocessing
from fastmlp.datasets import load
from fastmlp.datasets.files import held_out

prepare = pytest.importorskip("sklearn.preprocessing")

PIPELINE = ("compose", "neural_network", "pipeline")


def people(rng, m=600):
    """Return columns of numbers and categories, and a label that depends on both."""
    town, job = rng.choice(["Bern", "Oslo", "Rome"], m), rng.choice([f"job {i}" for i in range(8)], m)
    age, zone = rng.normal(40, 10, m).round(1), rng.integers(1, 5, m)
    merit = (town == "Rome") * 2.0 + (job == "job 3") * 3 + (age - 40) / 10 + (zone == 2) - (zone == 3)
    return {"town": town, "age": age, "job": job, "zone": zone, "buys": np.where(merit > 1, "yes", "no")}


def write(path, columns):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True))
    return path


@pytest.fixture
def table(rng, tmp_path):
    return write(tmp_path / "people.csv", people(rng))


@pytest.fixture
def model(run, table, tmp_path):
    status, _, error = run("train --label buys --category zone --epochs 5 --quiet --save", tmp_path / "m", table)
    assert status == 0, error
    return tmp_path / "m"


def first_rows(table, count=20):
    """Return the columns of a table but for the last one, its labels: {name: cells}."""
    rows = list(csv.reader(table.read_text().splitlines()))
    return {name: [row[i] for row in rows[1 : count + 1]] for i, name in enumerate(rows[0][:-1])}


def test_columns_of_words_are_categories(table):
    data = load(table, "buys", categories=["zone"])
    assert data.columns == ("town", "age", "job", "zone")
    assert data.words == {0: ("Bern", "Oslo", "Rome"), 2: tuple(f"job {i}" for i in range(8)), 3: ("1", "2", "3", "4")}
    assert data.remarks[1] == "categories: column 'town' (3), column 'job' (8), column 'zone' (4)"
    rows = np.array(list(csv.reader(table.read_text().splitlines()))[1:])
    test = held_out((rows[:, -1] == "yes").astype(int))
    for x, expected in ((data.x_train, rows[~test]), (data.x_test, rows[test])):
        for column, words in data.words.items():
            np.testing.assert_array_equal(np.array(words)[x[:, column].astype(int)], expected[:, column])
        np.testing.assert_array_equal(x[:, 1], expected[:, 1].astype(float))
    assert load(table, "buys", ignore=["job", "town"]).columns == ("age", "zone")


def test_the_label_of_several_columns_of_words_is_never_guessed(table):
    with pytest.raises(
        ValueError, match=r"several columns of text: column 'town', column 'job', column 'buys', expected"
    ):
        load(table)
    assert load(table, ignore=["town", "job"]).label == "buys"


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_it_is_learnt_as_well_as_by_the_same_steps_of_scikit_learn(run, table):
    """Accuracy on the same test samples, within 2 %."""
    compose, networks, pipeline = (pytest.importorskip(f"sklearn.{name}") for name in PIPELINE)
    facts = json.loads(run("train --json --label buys --category zone", table)[1])
    data = load(table, "buys", categories=["zone"])
    encode = prepare.OneHotEncoder(handle_unknown="ignore")
    steps = compose.ColumnTransformer([("numbers", prepare.StandardScaler(), [1]), ("words", encode, [0, 2, 3])])
    peer = networks.MLPClassifier((128,), max_iter=300, random_state=0)
    peer = pipeline.make_pipeline(steps, peer).fit(data.x_train, data.y_train)
    assert facts["network"] == [16, 128, 2]
    assert facts["test"]["accuracy"] >= peer.score(data.x_test, data.y_test) - 0.02


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_bundled_tables_are_learnt_as_well_as_by_scikit_learn(run, tmp_path, name):
    """Accuracy of StandardScaler and MLPClassifier on the same test samples, within 2 %, with labels of text."""
    bundled = getattr(pytest.importorskip("sklearn.datasets"), f"load_{name}")()
    networks, pipeline = (pytest.importorskip(f"sklearn.{name}") for name in PIPELINE[1:])
    columns = dict(zip(map(str, bundled.feature_names), bundled.data.T, strict=True))
    path = write(tmp_path / "x.csv", {"kind": bundled.target_names[bundled.target]} | columns)
    facts = json.loads(run("train --json --label kind", path)[1])
    data = load(path)
    peer = pipeline.make_pipeline(
        prepare.StandardScaler(), networks.MLPClassifier((128,), max_iter=300, random_state=0)
    )
    expected = peer.fit(data.x_train, data.y_train).score(data.x_test, data.y_test)
    assert facts["test"]["accuracy"] >= expected - 0.02


def test_raw_rows_are_predicted_by_the_names_of_their_columns(run, model, table, tmp_path):
    columns = first_rows(table)
    answers = []
    for chosen in (columns, dict(reversed(columns.items())), columns | {"id": [f"k{i}" for i in range(20)]}):
        _, printed, _ = run("predict --json", model, write(tmp_path / "new.csv", chosen))
        answers.append([one["probabilities"] for one in json.loads(printed)["predictions"]])
    assert answers[0] == answers[1] == answers[2]
    _, printed, _ = run("predict", model, table)  # with its labels
    assert printed.splitlines()[0].startswith(f"{table}[0]: ")
    pandas = pytest.importorskip("pandas")
    loaded = fastmlp.MLP.load(model)
    frame = pandas.read_csv(table)[list(loaded.features)][:20]
    assert_close(loaded.predict_proba(frame).T.astype(float), np.array(answers[0]), "product")


def test_a_new_category_is_a_warning(run, model, table, tmp_path):
    columns = first_rows(table) | {"town": ["Paris"] * 20}
    status, printed, error = run("predict", model, write(tmp_path / "new.csv", columns))
    assert (status, len(printed.splitlines())) == (0, 20)
    assert re.search("warning: .*new.csv, column 'town': 'Paris' did not occur in training: encoded as none of", error)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"age": ["old"] * 20}, "line 2, column 'age': got 'old', expected a number, as in the model's training"),
        ({"age": ["1", "", *["2"] * 18]}, r"line 3, column 'age': got no value \(''\), expected a value; fill it in"),
        ({"town": ["Bern", "NA", *["Oslo"] * 18]}, r"line 3, column 'town': got no value \('NA'\)"),
        ({"town": None}, "got no column 'town', expected the columns of the model's training: town, age, job, zone"),
        ({"age": ["inf"] * 20}, "line 2, column 'age': got 'inf', expected a finite number"),
    ],
)
def test_wrong_rows_are_refused(run, model, table, tmp_path, change, words):
    columns = {name: cells for name, cells in (first_rows(table) | change).items() if cells is not None}
    status, _, error = run("predict", model, write(tmp_path / "new.csv", columns))
    assert status == 2
    assert re.search(words, error), error


IDENTIFIERS = "".join(f"k{i},1,{'xy'[i % 2]}\n" for i in range(20))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,kind\nred,1,x\n7,1,y\n", "line 3, column 'a': got '7', expected a word, as in other lines; .*--category"),
        (
            "a,b,kind\n7,1,x\nred,1,y\n",
            "line 3, column 'a': got 'red', expected a number, as in other lines; .*--categ",
        ),
        ("a,b,kind\nred,1,x\n?,1,y\n", r"line 3, column 'a': got no value \('\?'\), expected a value"),
        (
            "a,b,kind\n" + "".join(f"k{i},1,{'xy'[i % 2]}\n" for i in range(20)),
            "'a': got 20 different values in 20 lines, .*--ign",
        ),
    ],
)
def test_columns_that_are_no_categories_are_refused(tmp_path, text, words):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        load(tmp_path / "x.csv", "kind")


def test_a_column_may_be_said_to_hold_categories(tmp_path):
    (tmp_path / "x.csv").write_text("a,kind\n" + "7,x\nred,y\n7.0,x\n07,y\n" * 3)
    data = load(tmp_path / "x.csv", "kind", categories=["a"])
    assert data.words == {0: ("7", "red")}
    with pytest.raises(ValueError, match="^category: got 'b' for .*, expected first, last or one of: a, kind"):
        load(tmp_path / "x.csv", "kind", categories=["b"])
    with pytest.raises(ValueError, match="^ignore: got 'b' for .*, expected first, last or one of: a, kind"):
        load(tmp_path / "x.csv", "kind", ignore=["b"])


def test_a_table_without_names_is_known_by_its_places(run, tmp_path):
    lines = [f"{'red' if i % 2 else 'blue'},{i % 5},{'yes' if i % 2 else 'no'}" for i in range(40)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    status, _, error = run("train --label last --epochs 20 --quiet --save", tmp_path / "m", tmp_path / "x.csv")
    assert status == 0, error
    (tmp_path / "y.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    answers = [run("predict", tmp_path / "m", tmp_path / name)[1] for name in ("x.csv", "y.csv")]
    assert answers[0].replace("x.csv", "y.csv") == answers[1]
    assert ": no, " in answers[1].splitlines()[0]
    assert ": yes, " in answers[1].splitlines()[1]
    (tmp_path / "z.csv").write_text("\n".join(f"{line},1" for line in lines))
    assert (
        "got 4 columns, expected 2, as in the model's training" in run("predict", tmp_path / "m", tmp_path / "z.csv")[2]
    )
    found = json.loads(run("evaluate --json", tmp_path / "m", tmp_path / "x.csv")[1])
    assert found["accuracy"] == 1


def test_only_the_training_part_is_encoded(run, tmp_path):
    """A category that occurs in the test part alone is new to the model."""
    lines = [f"{'rare' if i == 0 else 'red' if i % 2 else 'blue'},{i % 5},{i % 2}" for i in range(40)]
    (tmp_path / "x.csv").write_text("a,b,kind\n" + "\n".join(lines))
    _, _, error = run("train --label kind --epochs 1 --quiet --save", tmp_path / "m", tmp_path / "x.csv")
    assert "'rare' did not occur in training: encoded as none of its categories" in error
    assert json.loads(fastmlp.MLP.load(tmp_path / "m").notes["categories"]) == {"0": ["blue", "red"]}


def test_constant_columns_are_zero(rng):
    x = np.column_stack([np.full(20, 7.0), np.zeros(20), rng.normal(size=20)])
    encoder = encoding.fit(x, {1: ("only",)}, ("a", "b", "c"))
    assert (encoder.mean[0], encoder.scale[0], encoder.categories) == (7.0, 1.0, {1: ("only",)})
    assert_close(encoder.encode(x)[:, [0, 2]], np.column_stack([np.zeros(20), np.ones(20)]), "function")


def test_encoding_is_that_of_scikit_learn(rng):
    compose = pytest.importorskip("sklearn.compose")
    x = np.column_stack([rng.integers(0, 150, 400), rng.normal(size=400), rng.integers(0, 4, 400)]).astype(float)
    words = {0: tuple(f"{i:03}" for i in range(150)), 2: tuple("abcd")}
    encoder = encoding.fit(x[:300], words)
    onehot = prepare.OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=100)
    steps = [("n", prepare.StandardScaler(), [1]), ("c", onehot, [0, 2])]
    expected = compose.ColumnTransformer(steps, sparse_threshold=0).fit(x[:300]).transform(x)
    assert encoder.width == expected.shape[1] == 105
    assert_close(encoder.encode(encoder.places("x", x, words)), expected, "trajectory")


GOOD = {
    "inputs": "[2]",
    "max_value": "1.0",
    "classes": '["x", "y"]',
    "columns": "[[0.5, 0.0], [2.0, 1.0]]",
    "features": '["a", "b"]',
    "categories": '{"1": ["u", "v", null]}',
}


@pytest.mark.parametrize(
    "lie",
    [
        {"features": '["a"]'},
        {"features": "7"},
        {"columns": "[[0.5], [2.0]]"},
        {"columns": None},
        {"categories": '{"2": ["u", "v", null]}'},
        {"categories": '{"1": ["u", "v"]}'},
        {"categories": '{"1": ["u", "u", "v"]}'},
        {"categories": '{"1": ["u", null, "v"]}'},
        {"categories": '{"1": []}'},
        {"categories": '{"-1": ["u", "v", "w"]}'},
        {"categories": '{"x": ["u", "v", "w"]}'},
        {"categories": '[["u", "v", "w"]]'},
        {"categories": '{"1": ["u", "v", 3]}'},
        {"target": "[0.0, 1.0]"},
        {"first_index": "2"},
        {"first_index": "x"},
    ],
    ids=json.dumps,
)
def test_notes_that_lie_are_refused(lie):
    model = fastmlp.MLP((4, 2))
    model.notes = GOOD
    assert preprocessing.from_model(model).columns.categories == {1: ("u", "v", None)}
    model.notes = {name: note for name, note in (GOOD | lie).items() if note is not None}
    with pytest.raises(ValueError, match="notes that"):
        preprocessing.from_model(model)


@pytest.mark.parametrize("target", ["[0.0]", "[0.0, 0.0]", "[0.0, -1.0]", "[NaN, 1.0]", "[0.0, Infinity]", "7", None])
def test_units_that_lie_are_refused(target):
    model = fastmlp.MLP((4, 1), loss="squared_error")
    notes = GOOD | {"classes": "[]", "target": "[3.0, 2.0]"}
    model.notes = notes
    assert preprocessing.from_model(model).unit == (3.0, 2.0)
    model.notes = {name: note for name, note in (notes | {"target": target}).items() if note is not None}
    with pytest.raises(ValueError, match="notes that"):
        preprocessing.from_model(model)


def test_without_scikit_learn_numbers_are_learnt_and_the_extra_is_named_for_categories(run_python, table, tmp_path):
    (tmp_path / "numbers.csv").write_text("a,b,kind\n" + "1,2.5,x\n2,3.5,y\n" * 10)
    run_python(f"""
import contextlib, io, sys
from fastmlp import cli
sys.modules["sklearn"] = sys.modules["sklearn.preprocessing"] = None
with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(io.StringIO()):
    assert cli.main(["train", "--backend", "numpy", {str(tmp_path / "numbers.csv")!r}]) == 0
    assert cli.main(["train", "--label", "buys", {str(table)!r}]) == 2
assert "categories are encoded by scikit-learn" in error.getvalue() and ".[sklearn]" in error.getvalue()
""")


def test_a_model_is_applied_without_scikit_learn(run_python, model, table):
    run_python(f"""
import contextlib, io, sys
from fastmlp import cli
with contextlib.redirect_stdout(io.StringIO()) as out:
    assert cli.main(["predict", "--backend", "numpy", {str(model)!r}, {str(table)!r}]) == 0
assert len(out.getvalue().splitlines()) == 600 and "sklearn" not in sys.modules
""")


def test_a_model_that_learnt_from_frames_predicts_tables(run, tmp_path, rng):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rng.normal(size=(20, 2)), columns=["a", "b"])
    plain = fastmlp.MLP((2, 2))
    plain.fit(frame, np.arange(20) % 2, 5)
    encoded = fastmlp.MLP((4, 1), loss="squared_error")
    frame["c"] = ["u", "v"] * 10
    encoded.encoder = preprocessing.fit(frame)
    encoded.fit(frame, np.arange(20.0), 5, alpha=0.01)
    frame[["c", "b", "a"]].to_csv(tmp_path / "x.csv", index=False)
    for model, expected in ((plain, plain.predict_proba(frame[["a", "b"]]).T), (encoded, encoded.predict(frame))):
        model.save(tmp_path / "m")
        status, printed, error = run("predict --json", tmp_path / "m", tmp_path / "x.csv")
        assert status == 0, error
        found = [one.get("value", one.get("probabilities")) for one in json.loads(printed)["predictions"]]
        assert_close(np.array(found), expected, "product")
