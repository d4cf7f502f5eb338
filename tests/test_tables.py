"""Tables: their formats, the label's column and its values, and models that learn from tables."""

import json
import os
import sys

import numpy as np
import pytest
from compare import assert_close

import fastmlp
from fastmlp.datasets import load, tables

FEATURES = [[0.5, 3], [1.5, -2], [2.5, 0], [-3.5, 1], [4.5, 7], [5.5, 0]]
KINDS = ["setosa", "virginica", "setosa", "virginica", "versicolor", "versicolor"]


@pytest.fixture
def read(tmp_path):
    """Return a function that reads text as a table."""

    def call(text, label=None, name="x.csv"):
        (tmp_path / name).write_text(text)
        return load(tmp_path / name, label)

    return call


def samples(data):
    """Return the features and class names of both parts, sorted."""
    x, y = np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    return sorted((row, data.names[label]) for row, label in zip(x.tolist(), y, strict=True))


def text(header=True, separator=",", kinds=KINDS, at=2, quoted="{}", index=False):
    """Return the table of FEATURES and KINDS as programs write it, with the label in column ``at``."""
    rows = [[*map(str, row)] for row in FEATURES]
    for row, kind in zip(rows, kinds, strict=True):
        row.insert(at, kind)
    names = ["length", "width"]
    names.insert(at, "species")
    rows = ([names] if header else []) + rows
    if index:
        rows = [["" if header and not i else str(i - header), *row] for i, row in enumerate(rows)]
    return "\n".join(separator.join(quoted.format(cell) for cell in row) for row in rows) + "\n"


EXPECTED = sorted(zip(FEATURES, KINDS, strict=True))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("quoted", ["{}", '"{}"', " {} "])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("header", [True, False])
def test_tables_as_programs_write_them(read, separator, quoted, at, header):
    data = read(text(header, separator, at=at, quoted=quoted))
    assert samples(data) == EXPECTED
    assert data.names == ("setosa", "versicolor", "virginica")
    assert data.label == ("species" if header else ("first", "", "last")[at])
    column = "'species'" if header else at + 1
    assert data.remarks == (
        f"label: column {column} (the only column of text), 3 classes: setosa, versicolor, virginica",
    )


@pytest.mark.parametrize("name", ["x.tsv", "x.TXT", "x.csv"])
def test_the_separator_is_found_whatever_the_name(read, name):
    assert samples(read(text(separator="\t"), name=name)) == EXPECTED
    assert samples(read(text(separator=","), name=name)) == EXPECTED


@pytest.mark.parametrize("quoted", ["{}", '"{}"'])
@pytest.mark.parametrize("label", [None, "last", "species"])
def test_the_index_of_a_data_frame_is_no_feature(read, quoted, label):
    data = read(text(index=True, quoted=quoted), label)
    assert samples(data) == EXPECTED
    assert "the first column has no name: treated as an index and ignored" in data.remarks
    numbers = text(kinds=list("120120"), at=0, index=True, quoted=quoted)
    assert read(numbers, "first").names == ("0", "1", "2")


def test_the_index_of_a_data_frame_may_be_text(read):
    lines = text(index=True).splitlines()
    named = "\n".join([lines[0], *(f"row {line}" for line in lines[1:])])
    assert samples(read(named)) == EXPECTED


def test_column_numbers_in_the_first_line_are_no_sample(read):
    """pandas writes an array with numbers as column names."""
    rows = [f"{i},{i + 1},{i % 5},0,0.5,{i % 2}" for i in range(10)]
    for first in ("0,1,2,3,4,5", "1,2,3,4,5,6", "0,1,2,3,4,target"):
        data = read("\n".join([first, *rows]), "last")
        assert len(data.y_train) + len(data.y_test) == 10
        assert data.names == ("0", "1")
        assert "the first line numbers the columns: treated as their names" in data.remarks
    data = read("\n".join(rows), "last")
    assert len(data.y_train) + len(data.y_test) == 10


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, 10, 9, 100, 100], ("9", "10", "100")),
        ([-1, 1, -1, 1, -1, 1], ("-1", "1")),
        ([1.0, 3.0, 2.0, 1.0, 3.0, 2.0], ("1", "2", "3")),
        ([2**53 - 1, -5, 2**53 - 1, -5, -5, -5], ("-5", str(2**53 - 1))),
        (["10", "9", "10", "9", "b", "b"], ("10", "9", "b")),
        (["ä b", "z", "ä b", "z", "Z", "Z"], ("Z", "z", "ä b")),
    ],
)
def test_labels_of_any_integers_and_texts_are_encoded_in_their_order(read, labels, names):
    data = read(text(kinds=[*map(str, labels)]), "species")
    assert data.names == names
    assert data.classes == len(names)
    written = [str(int(label)) if isinstance(label, float) else str(label) for label in labels]
    assert samples(data) == sorted(zip(FEATURES, written, strict=True))


def test_labels_of_arrays_are_encoded_as_well(tmp_path):
    """EMNIST numbers its letters from 1; a part may lack some classes."""
    x = np.arange(24).reshape(6, 4)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=[1, 26, 1, 26, 3, -3], x_test=x[:2], y_test=[7, 3])
    data = load(tmp_path / "x.npz")
    assert data.names == ("-3", "1", "3", "7", "26")
    np.testing.assert_array_equal(data.y_train, [1, 4, 1, 4, 2, 0])
    np.testing.assert_array_equal(data.y_test, [3, 2])


BITS = [f"{i % 2}" for i in range(12)]
REAL = [f"{i}.5" for i in range(12)]
COUNT = [f"{i}" for i in range(12)]


def columns(*several):
    return "\n".join(map(",".join, zip(*several, strict=True)))


@pytest.mark.parametrize(
    ("table", "label", "remark"),
    [
        (columns(BITS, REAL, REAL), "first", "(the first column), 2"),
        (columns(BITS, REAL, BITS), "first", "(the first column; the last looks like labels too: --label last), 2"),
        ("target,a,b\n" + columns(BITS, REAL, BITS), "target", "'target' (by its name), 2"),
        ("a,Class,b\n" + columns(BITS, BITS, BITS), "Class", "'Class' (by its name), 2"),
    ],
)
def test_the_label_is_found_and_said(read, table, label, remark):
    data = read(table)
    assert data.label == label
    assert f"{remark} classes: 0, 1" in data.remarks[0]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (columns(REAL, REAL, BITS), r"column 1: got 0\.5, expected labels in the first .*the last .*: --label last"),
        (columns(REAL, BITS, REAL), r"column 1: got 0\.5, .*; name the label's column: --label first, last or NAME"),
        (columns(COUNT, REAL, REAL), "column 1: got 12 different values in 12 lines, expected labels"),
        (columns(["0"] * 12, BITS, BITS), r"column 1: got only 0, .*: --label last"),
        (columns(["0"] * 12, BITS, REAL), "column 1: got only 0, .*; name the label's column"),
        (columns([f"k{i}" for i in range(12)], REAL), "column 1: got 12 different values in 12 lines, .*repeat"),
        ("id,label\n" + columns(BITS, REAL), r"'label': got label 0\.5 in sample 0, expected 64-bit integers"),
    ],
)
def test_a_label_is_never_guessed(read, table, words):
    with pytest.raises(ValueError, match=words):
        read(table)


@pytest.mark.parametrize("header", ["a,a,label", "a, a ,label", "a,label,label", "a,,,label"])
def test_columns_of_one_name_are_refused(read, header):
    parts = [COUNT] * (header.count(",")) + [BITS]
    with pytest.raises(ValueError, match="got two columns '(a|label|)', expected different names; rename one of them"):
        read(f"{header}\n" + columns(*parts))


def test_a_second_column_without_a_name_is_not_the_index(tmp_path):
    (tmp_path / "x.csv").write_text(",,label\n" + columns(COUNT, BITS, BITS))
    table = tables.read(tmp_path / "x.csv")
    again = tables.read(tmp_path / "x.csv", known=tables.Known(table.columns, 1, frozenset(), "label"))
    assert table.features.tolist() == again.features.tolist() == [[int(bit)] for bit in BITS]


def test_whole_numbers_that_floats_merge_are_no_labels(read):
    big = [str(2**53 + one) for one in (0, 1)] * 6
    with pytest.raises(ValueError, match=r"got label 9007199254740992\.0 in sample 0, expected integers below 2\*\*53"):
        read("a,label\n" + columns(REAL, big))
    assert read("a,label\n" + columns(REAL, ["9007199254740991", "7"] * 6)).names == ("7", "9007199254740991")


@pytest.mark.parametrize(("label", "at"), [("first", 0), ("last", 2), ("b", 1), ("c", 2)])
def test_the_label_can_be_named(read, label, at):
    table = [["0", "1", "4"], ["7", "1", "5"], ["0", "2", "4"], ["7", "2", "5"]]
    data = read("a,b,c\n" + "\n".join(map(",".join, table)), label)
    rows = [([float(cell) for i, cell in enumerate(row) if i != at], row[at]) for row in table]
    assert samples(data) == sorted(rows)


def test_a_label_that_is_not_there_is_refused(read, tmp_path):
    for name in ("B", "1", ""):
        words = f"^label: got '{name}' for .*x.csv, expected first, last or one of: a, b; check"
        with pytest.raises(ValueError, match=words):
            read("a,b\n0,1\n0,1\n", name)
    with pytest.raises(ValueError, match="expected first, last: no line names columns;"):
        read("1,0\n0,1\n", "b")
    with pytest.raises(ValueError, match="^label: got 'last' for .*, expected a table"):
        load(tmp_path, "last")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("a,b,kind\n1,2,x\n3,,x\n", r"x\.csv, line 3, column 'b': got no value \(''\), expected a value; fill it in"),
        ("a,b,kind\n1,2,x\n\n3,N/A,x\n", r"line 4, column 'b': got no value \('N/A'\)"),
        ("a;b;kind\n1,5;2;x\n", r"line 2, column 'a': got '1,5', expected a decimal point"),
        (
            "a,b,kind\n1,2,x\n1,red,y\n",
            "line 3, column 'b': got 'red', expected a number, as .*: --category NAME",
        ),
        ("1,2\n1,2\n3,4x\n", "line 3, column 2: got '4x', expected a number, as in other lines; correct it"),
        ("a b kind\n1 2 x\n", "a line without a comma, semicolon or tab, .*; separate the columns by commas"),
        ("kind\nx\n", "a line without a comma, semicolon or tab"),
        ("kind,a\nx,1,2\n", "line 2: got 3 cells, expected 2, as in the first line"),
        ("a,b,kind\n1,x\n2,y\n", "line 2: got 2 cells, expected 3"),
        (",kind\n0,x\n1,x\n2,y\n3,y\n", "got only labels"),
    ],
)
def test_a_fault_is_named_by_line_and_column(read, table, words):
    with pytest.raises(ValueError, match=words):
        read(table)


def test_a_fault_in_a_later_block_is_named_by_its_line(read):
    whole = "a,b,kind\n" + "0.5,1.25,x\n0.5,1.25,y\n" * 100_000
    assert len(whole) > 2 * 2**20
    with pytest.raises(ValueError, match=r"line 200002, column 'b': got no value"):
        read(whole + "1,,x\n")
    assert read(whole + "1,2,z\n").names == ("x", "y", "z")


def bundled(name):
    """Return a data set of scikit-learn as a table with the label last, and its parts as `load` splits them."""
    datasets = pytest.importorskip("sklearn.datasets")
    return getattr(datasets, f"load_{name}")(return_X_y=True)


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_columns_of_other_scales_are_learnt_as_well_as_by_scikit_learn(run, tmp_path, name):
    """With one scale for all columns, wine is hard to learn: proline goes up to 1680, hue up to 1.7."""
    x, y = bundled(name)
    lines = [f"{','.join(map(repr, row))},{label}" for row, label in zip(x.tolist(), y, strict=True)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    words = "train --json --label last --hidden 100 --epochs 200 --save"
    status, printed, _ = run(words, tmp_path / "m", tmp_path / "x.csv")
    found = json.loads(printed)
    assert status == 0
    assert found["test"]["accuracy"] >= 0.97  # about the accuracy of StandardScaler and MLPClassifier
    _, printed, _ = run("evaluate --json", tmp_path / "m", tmp_path / "x.csv")  # the model knows the label's column
    assert json.loads(printed)["accuracy"] == found["test"]["accuracy"]
    data = load(tmp_path / "x.csv", "last")
    model = fastmlp.MLP.load(tmp_path / "m")
    mean, scale = (np.array(column) for column in json.loads(model.notes["columns"]))
    assert max(map(len, run("info", tmp_path / "m")[1].splitlines())) < 200  # its numbers are shortened
    assert json.loads(run("info --json", tmp_path / "m")[1])["model columns"] == model.notes["columns"]
    assert_close(mean, data.x_train.mean(axis=0), "trajectory")
    assert_close(scale, data.x_train.std(axis=0), "trajectory")
    assert model.evaluate(((data.x_test - mean) / scale).T, data.y_test)["accuracy"] == found["test"]["accuracy"]


@pytest.fixture
def iris(tmp_path):
    """Return the file of a table with a header and text labels in the last column."""
    x, y = bundled("iris")
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    lines = [f"{','.join(map(repr, row))},{label}" for row, label in zip(x.tolist(), names, strict=True)]
    (tmp_path / "iris.csv").write_text("a,b,c,d,species\n" + "\n".join(lines))
    return tmp_path / "iris.csv"


def test_answers_are_in_the_words_of_the_table(run, iris, tmp_path):
    status, printed, _ = run("train --epochs 300 --save", tmp_path / "model", iris)
    assert status == 0
    assert "label: column 'species' (the only column of text), 3 classes: setosa, versicolor, virginica\n" in printed
    assert "each column is standardised" in printed
    assert "(set aside: every fifth of each class)" in printed
    notes = fastmlp.MLP.load(tmp_path / "model").notes
    assert json.loads(notes["classes"]) == ["setosa", "versicolor", "virginica"]
    assert notes["label"] == "species"
    _, printed, _ = run("evaluate --json --part all", tmp_path / "model", iris)
    found = json.loads(printed)
    assert [one["name"] for one in found["classes"]] == ["setosa", "versicolor", "virginica"]
    assert found["accuracy"] >= 0.95


def test_a_part_of_the_classes_is_evaluated_by_name_and_an_unknown_one_refused(run, iris, tmp_path):
    assert run("train --epochs 300 --quiet --save", tmp_path / "model", iris)[0] == 0
    header, *lines = iris.read_text().splitlines()
    two = [line for line in lines if not line.endswith("setosa")]
    (tmp_path / "two.csv").write_text("\n".join([header, *two]))
    _, printed, _ = run("evaluate --json --part all", tmp_path / "model", tmp_path / "two.csv")
    found = json.loads(printed)
    assert [one["name"] for one in found["classes"]] == ["versicolor", "virginica"]
    assert found["accuracy"] >= 0.9
    (tmp_path / "other.csv").write_text("\n".join([header, *lines]).replace("setosa", "tulip"))
    status, _, error = run("evaluate", tmp_path / "model", tmp_path / "other.csv")
    assert status == 2
    assert "got class tulip, expected the model's classes setosa, versicolor, virginica; leave" in error


def test_classes_are_counted_by_what_they_are(run, tmp_path, monkeypatch):
    """Rows of the confusion matrix are labels, not predictions."""
    rows = "".join(f"{label},{'7' if label == 'a' else '-7'},1\n" * 6 for label in "ab") + "b,7,1\n" * 3
    (tmp_path / "x.csv").write_text(rows)
    model = fastmlp.MLP((2, 2))
    model.parameters = [1, 0, -1, 0, 0, 0]  # predicts a if the first feature is positive
    model.notes = {"inputs": "[2]", "max_value": "1.0", "classes": '["a", "b"]', "data": "x"}
    model.save(tmp_path / "model")
    _, printed, _ = run("evaluate --json --part all", tmp_path / "model", tmp_path / "x.csv")
    assert json.loads(printed)["classes"] == [
        {"name": "a", "samples": 6, "right": 6, "taken_for": {}},
        {"name": "b", "samples": 9, "right": 6, "taken_for": {"a": 3}},
    ]


@pytest.mark.parametrize("words", ["train", "train --label first"])
def test_one_class_is_nothing_to_learn(run, tmp_path, words):
    (tmp_path / "x.csv").write_text("3,0.5\n" * 10)
    status, printed, error = run(words, tmp_path / "x.csv")
    assert (status, printed) == (2, "")
    assert "--label" in error
    assert ("only 3" if words == "train" else "only class 3 in 8 training samples") in error
    np.savez(tmp_path / "x.npz", x_train=np.eye(6), y_train=np.full(6, 4))
    assert "only class 4" in run("train", tmp_path / "x.npz")[2]


def test_bench_takes_the_label_as_well(run, iris):
    status, printed, _ = run("bench --hidden 4 --seconds 0.01 --backend numpy --label species", iris)
    assert status == 0
    assert "4-4-3, float64, 120 samples" in printed


def test_a_label_is_for_tables_only(run, iris):
    status, _, error = run("train digits --label last")
    assert status == 2
    assert error.startswith("fastmlp: --label: got 'last' for digits, expected a table")
    status, _, error = run("train --label kind", iris)
    assert status == 2
    assert error.startswith("fastmlp: --label: got 'kind' for ")


def test_standardising_does_not_look_at_samples_set_aside(run, iris, tmp_path):
    """Neither the test part nor the validation part is used."""
    words = "train --epochs 1 --validation 0.5 --seed 3 --backend numpy --save"
    assert run(words, tmp_path / "model", iris)[0] == 0
    data = load(iris)
    aside = np.zeros(len(data.y_train), bool)
    aside[np.random.default_rng(3).permutation(len(aside))[: len(aside) // 2]] = True
    mean, _ = json.loads(fastmlp.MLP.load(tmp_path / "model").notes["columns"])
    assert_close(np.array(mean), data.x_train[~aside].mean(axis=0), "trajectory")


def test_the_seed_chooses_the_validation_part(run, iris):
    """Each seed has its own validation part; with alpha 0, the loss on it is that of the initial weights."""
    words = "train --epochs 1 --alpha 0 --hidden --validation 0.5 --json --backend numpy --seed"
    costs = []
    for seed in (0, 1):
        found = json.loads(run(f"{words} {seed}", iris)[1])
        data = load(iris)
        aside = np.zeros(len(data.y_train), bool)
        aside[np.random.default_rng(seed).permutation(len(aside))[: len(aside) // 2]] = True
        x = data.x_train[~aside]
        model = fastmlp.MLP((4, 3), seed=seed)
        held = (data.x_train[aside] - x.mean(axis=0)) / x.std(axis=0)
        assert_close(
            np.array(found["history"]["validation_loss"]),
            np.array([model.evaluate(held.T, data.y_train[aside])["loss"]]),
            "trajectory",
        )
        costs.append(found["history"]["validation_loss"])
    assert costs[0] != costs[1]


def test_a_model_of_a_table_says_that_it_takes_no_pictures(run, iris, tmp_path):
    assert run("train --epochs 1 --quiet --backend numpy --save", tmp_path / "model", iris)[0] == 0
    (tmp_path / "x.png").write_bytes(b"")
    status, _, error = run("predict", tmp_path / "model", tmp_path / "x.png")
    assert status == 2
    assert "MODEL: got a model for a table with 4 values per sample, expected a model for square pictures" in error


@pytest.mark.skipif(sys.platform != "linux", reason="file names may contain any bytes")
def test_a_file_name_of_any_bytes_loses_no_run(run, iris, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/iris\xff.csv")
    iris.rename(path)
    status, printed, _ = run("train --epochs 1 --backend numpy --save", tmp_path / "model", path)
    assert status == 0
    assert r"iris\udcff.csv" in printed
    assert r"iris\udcff.csv" in fastmlp.MLP.load(tmp_path / "model").notes["data"]
