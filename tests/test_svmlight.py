"""Files of SVMlight and LIBSVM: sparse samples on the command line and in `fastmlp.datasets.load`."""

import gzip
import json
import re

import numpy as np
import pytest
from compare import assert_close

import fastmlp
from fastmlp import preprocessing
from fastmlp.datasets import load

sparse = pytest.importorskip("scipy.sparse")
svmlight = pytest.importorskip("sklearn.datasets")


def samples(rng, m=300, n=400):
    """Return a CSR matrix (m, n) whose first features tell three classes apart, and the classes."""
    y = np.arange(m) % 3
    noise = sparse.random(m, n, 0.02, format="csr", random_state=0)
    return (noise + sparse.csr_array((np.full(m, 2.0), (np.arange(m), y)), shape=(m, n))).tocsr(), y


@pytest.fixture
def write(tmp_path):
    def call(name, x, y, *, zero_based=False):
        svmlight.dump_svmlight_file(x, y, str(tmp_path / name), zero_based=zero_based)
        return tmp_path / name

    return call


@pytest.mark.parametrize("zero_based", [True, False])
@pytest.mark.parametrize("name", ["x.svm", "x.svmlight", "x.libsvm", "X.SVM"])
def test_a_file_is_what_scikit_learn_reads(rng, write, name, zero_based):
    x, y = samples(rng, 40)
    path = write(name, x, y, zero_based=zero_based)
    data = load(path)
    expected, labels = svmlight.load_svmlight_file(str(path))
    assert data.first_index == (0 if zero_based else 1)
    assert data.names == ("0", "1", "2")
    assert sparse.issparse(data.x_train)
    found = sparse.vstack([data.x_train, data.x_test]).toarray()
    assert found.shape == expected.shape
    both = np.column_stack([found, np.append(data.y_train, data.y_test)]), np.column_stack([expected.toarray(), labels])
    ours, theirs = (rows[np.lexsort(rows.T)] for rows in both)
    np.testing.assert_array_equal(ours, theirs)
    assert data.remarks[0].startswith("label: the first number of each line; 400 features from index ")


def test_it_trains_as_the_dense_data_do(run, rng, write, tmp_path):
    """The same recipe on the same samples, with zeros: the same model, bit for bit."""
    x, y = samples(rng)
    path = write("x.svm", x, y)
    (tmp_path / "x.svm.gz").write_bytes(gzip.compress(path.read_bytes()))
    status, printed, error = run(
        "train --json --epochs 3 --validation 0.2 --save", tmp_path / "model", tmp_path / "x.svm.gz"
    )
    assert status == 0, error
    facts = json.loads(printed)
    assert facts["network"] == [400, 128, 3]
    data = load(path)
    aside = np.zeros(len(data.y_train), bool)
    aside[np.random.default_rng(0).permutation(len(aside))[: len(aside) // 5]] = True
    train, held = data.x_train[~aside].toarray(), data.x_train[aside].toarray()
    scale = np.abs(train).max(axis=0)
    scale[scale == 0] = 1
    model = fastmlp.MLP((400, 128, 3), "float32")
    adam = fastmlp.optimizers.Adam(fastmlp.schedules.one_cycle(8e-3), beta2=0.99)
    validation = (held / scale).T, data.y_train[aside]
    history = model.fit(
        (train / scale).T,
        data.y_train[~aside],
        3,
        validation=validation,
        optimizer=adam,
        batch_size=32,
        shuffle="batches",
    )
    assert_close(np.array(facts["history"]["loss"]), np.array(history.loss), "trajectory")
    assert_close(np.array(facts["history"]["validation_loss"]), np.array(history.validation_loss), "trajectory")
    assert_close(fastmlp.MLP.load(tmp_path / "model").parameters, model.parameters, "trajectory")


def test_answers_for_files_with_other_indices(run, rng, write, tmp_path):
    x, y = samples(rng)
    path = write("x.svm", x, y)
    facts = json.loads(run("train --json --save", tmp_path / "model", path)[1])
    assert facts["test"]["accuracy"] >= 0.8
    assert json.loads(run("evaluate --json", tmp_path / "model", path)[1])["accuracy"] == facts["test"]["accuracy"]
    whole = json.loads(run("evaluate --json --part all", tmp_path / "model", path)[1])
    assert (whole["samples"], whole["accuracy"] >= 0.9) == (300, True)
    answers = json.loads(run("predict --json", tmp_path / "model", path)[1])["predictions"]
    assert np.mean([one["class"] for one in answers] == y) == whole["accuracy"]
    # Fewer features, also without the first one: its index is that of the training data.
    few = write("few.svm", x[:, :200], y)
    few.write_text(re.sub(r" 1:\S+", "", few.read_text()))
    found = json.loads(run("predict --json", tmp_path / "model", few)[1])["predictions"]
    model = fastmlp.MLP.load(tmp_path / "model")
    without = x.toarray()
    without[:, 0] = without[:, 200:] = 0
    expected = preprocessing.outputs(model, preprocessing.pack_samples(without, preprocessing.from_model(model), model))
    assert_close(np.array([one["probabilities"] for one in found]).T, expected.astype(np.float64), "product")
    for more, words in (
        (
            write("more.svm", sparse.hstack([x, x]), y),
            "got the index [0-9]+, expected indices up to 400, as in the model's",
        ),
        (
            write("zero.svm", x, y, zero_based=True),
            "got the index 0, expected indices from 1, as in the model's training",
        ),
    ):
        status, _, error = run("predict", tmp_path / "model", more)
        assert status == 2
        assert re.search(words, error), error


def test_a_wide_file_has_one_scale_and_is_never_dense(run, rng, tmp_path):
    """A dense copy would take 24 GB."""
    lines = [f"{k} {k + 1}:4 {10**6 + 13 * i}:2" for i, k in enumerate([0, 1] * 1500)]
    (tmp_path / "wide.svm").write_text("\n".join(lines) + "\n")
    status, printed, error = run("train --json --epochs 1 --hidden 2 --save", tmp_path / "model", tmp_path / "wide.svm")
    assert status == 0
    assert "each feature is divided by one number; zeros stay zeros" in error
    assert json.loads(printed)["network"] == [10**6 + 13 * 2999, 2, 2]
    assert fastmlp.MLP.load(tmp_path / "model").notes["max_value"] == "4.0"


def test_a_regression(run, write, tmp_path):
    x, y = svmlight.load_diabetes(return_X_y=True)
    path = write("d.svm", x, y + 0.5)
    assert "got 151.5, expected integers, one for each class; predict numbers: --target first" in run("train", path)[2]
    facts = json.loads(run("train --json --target first --hidden 32 --l2 0.05 --save", tmp_path / "m", path)[1])
    assert facts["test"]["r2"] > 0.4
    values = [one["value"] for one in json.loads(run("predict --json", tmp_path / "m", path)[1])["predictions"]]
    assert np.corrcoef(values, y)[0, 1] > 0.6
    found = json.loads(run("evaluate --json", tmp_path / "m", path)[1])
    assert found["r2"] == facts["test"]["r2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no sample|cannot be read"),
        (b"1 1:0.5 x\n", "a line that cannot be read"),
        (b"a 1:0.5\n", "a line that cannot be read .*, expected lines such as 1 3:0.5 7:1"),
        (b"1 3:0.5 2:1\n", "a line that cannot be read .*sorted"),
        (b"1 1:nan\n0 1:1\n", "got the value nan of feature 1 in sample 0, expected finite numbers"),
        (b"1 1:1\n0 1:1 7:inf\n", "got the value inf of feature 7 in sample 1"),
        (b"nan 1:1\n0 1:1\n", "got label nan in sample 0, expected finite labels"),
        (b"1 3000000000:1\n0 1:1\n", "a line that cannot be read .*too large"),
        (b"1 1:1\n2 1:1\n3 1:1\n", "got 3 different values in 3 lines, expected labels that repeat; predict numbers"),
        (b"1 1:1\n", "samples, expected at least two|got 1 different values"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (gzip.compress(b"1 1:1\n" * 9)[:-6], "damaged content"),
        (gzip.compress(b"1 1:1\n" * 2**24), "bytes that expand to more"),
    ],
)
def test_a_damaged_file_gives_one_clear_error(run, tmp_path, content, words):
    (tmp_path / "x.svm").write_bytes(content)
    status, printed, error = run("train", tmp_path / "x.svm")
    assert (status, printed) == (2, "")
    assert re.search(words, error), error
    assert len(error.splitlines()) == 1


def test_roles_of_columns_are_for_tables(run, rng, write):
    path = write("x.svm", *samples(rng, 30))
    for words in ("--label last", "--category a", "--ignore a", "--target last"):
        _, _, error = run(f"train {words}", path)
        assert f"fastmlp: {words.split()[0]}: got " in error
        assert "whose first number is the label or target, expected a table" in error
    assert "bench measures the notebook's formulas" in run("bench", path)[2]


def test_without_scikit_learn_the_extra_is_named(run_python, rng, write):
    path = write("x.svm", *samples(rng, 30))
    run_python(f"""
import sys
from fastmlp import cli
sys.modules["sklearn"] = sys.modules["sklearn.datasets"] = None
import contextlib, io
with contextlib.redirect_stderr(io.StringIO()) as error:
    assert cli.main(["train", {str(path)!r}]) == 2
assert "svmlight files are read by scikit-learn" in error.getvalue() and ".[sklearn]" in error.getvalue()
""")


def test_sparse_data_are_not_for_models_that_subtract_a_mean(run, rng, write, tmp_path):
    (tmp_path / "x.csv").write_text("".join(f"{k},{k + 0.5},{i % 5}\n" for i, k in enumerate([0, 1] * 20)))
    assert run("train --epochs 1 --quiet --save", tmp_path / "model", tmp_path / "x.csv")[0] == 0
    path = write("x.svm", sparse.csr_array(np.eye(2)), np.arange(2))
    error = run("predict", tmp_path / "model", path)[2]
    assert "got a sparse matrix, expected a table (.csv, .tsv or .txt), as in the model's training" in error
