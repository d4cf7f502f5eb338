"""Regressions on the command line: ``fastmlp train houses.csv --target price``."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from compare import assert_close, assert_same_bits

import fastmlp
from fastmlp.datasets import load

pytest.importorskip("sklearn")


def houses(rng, m=300):
    """Return columns of numbers and categories, and prices that depend on all of them."""
    town, area, rooms = rng.choice(["Bern", "Oslo", "Rome"], m), rng.uniform(20, 200, m), rng.integers(1, 6, m)
    price = 2000 * area * (1 + 0.3 * (town == "Rome")) + 15000 * rooms + rng.normal(0, 5000, m)
    return {"area": area.round(1), "town": town, "rooms": rooms, "price": price.round()}


def write(path, columns):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True))
    return path


@pytest.fixture
def table(rng, tmp_path):
    return write(tmp_path / "houses.csv", houses(rng))


@pytest.fixture
def trained(run, table, tmp_path):
    """Return the facts of a run, and its model file."""
    status, printed, error = run("train --target price --json --validation 0.1 --save", tmp_path / "model", table)
    assert status == 0, error
    return json.loads(printed), tmp_path / "model"


def test_a_regression_is_trained_and_says_so(run, table, tmp_path):
    status, printed, _ = run("train --target price --validation 0.1 --save", tmp_path / "model", table)
    assert status == 0
    assert printed.startswith(
        "target: column 'price'\ncategories: column 'town' (3)\neach column of numbers is standardised by the mean and "
        "standard deviation of the training samples, and so is the target\n"
    )
    assert "216 training, 24 validation and 60 test samples (set aside: every fifth)" in printed
    assert "network 5-128-1, float32, init glorot, loss squared_error" in printed
    lines = [line for line in printed.splitlines() if line.startswith("epoch")]
    assert all("  R2 " in line and "  validation " in line and "%" not in line for line in lines)
    assert "test R2 0.99" in printed
    assert "typical error " in printed


def test_predictions_are_in_the_unit_of_the_target(run, trained, table, rng, tmp_path):
    facts, model = trained
    assert facts["test"]["r2"] > 0.99
    assert 4000 < facts["test"]["rmse"] < 8000  # the noise is 5000
    new = houses(rng, 20)
    price = new.pop("price")
    for columns in (new, dict(reversed(new.items())), new | {"id": np.array([f"k{i}" for i in range(20)])}):
        _, printed, _ = run("predict --json", model, write(tmp_path / "new.csv", columns))
        values = np.array([one["value"] for one in json.loads(printed)["predictions"]])
        assert np.abs(values - price).max() < 30_000
    _, printed, _ = run(
        "predict", model, write(tmp_path / "new.csv", new | {"price": price})
    )  # the target may be there
    assert printed.splitlines()[3].endswith(f"new.csv[3]: {values[3]:.6g}")
    _, printed, _ = run("evaluate --json", model, table)
    found = json.loads(printed)
    assert [found[name] for name in ("loss", "r2", "rmse")] == [facts["test"][name] for name in ("loss", "r2", "rmse")]
    assert found["classes"] == []


def test_the_model_returns_the_unit_in_python_as_well(trained, table):
    pandas = pytest.importorskip("pandas")
    facts, path = trained
    model = fastmlp.MLP.load(path)
    frame = pandas.read_csv(table)
    assert model.features == ("area", "town", "rooms")
    every_fifth = frame[::5]
    scores = model.evaluate(every_fifth[list(model.features)], every_fifth["price"])
    assert scores["r2"] == pytest.approx(facts["test"]["r2"], rel=1e-4)


def test_targets_are_standardised_for_training(trained):
    """So that the cost and the learning rate do not depend on the unit."""
    facts, _ = trained
    assert facts["history"]["loss"][0] < 1
    assert facts["history"]["r2"][-1] > 0.99
    assert facts["history"]["validation_r2"][-1] > 0.99


def test_the_unit_of_the_target_does_not_change_what_is_learnt(run, rng, tmp_path):
    """A power of two times the target gives a power of two times the predictions."""
    columns = houses(rng)
    answers = []
    for scale in (1, 2**20):
        write(tmp_path / "x.csv", columns | {"price": columns["price"] * scale})
        assert run("train --target price --epochs 3 --quiet --save", tmp_path / "m", tmp_path / "x.csv")[0] == 0
        answers.append(np.float64(fastmlp.MLP.load(tmp_path / "m").weights[-1]) / scale)
    assert_close(answers[1], answers[0], "product")


def test_a_resumed_regression_ends_with_the_same_bits(run, table, tmp_path):
    words = "train --target price --quiet --backend numpy --save"
    assert run(f"{words} {tmp_path}/whole --epochs 4", table)[0] == 0
    # A schedule extends over the epochs: only a constant rate is the same in both runs.
    constant = f"{words} {tmp_path}/parts --checkpoint {tmp_path}/c --schedule constant"
    assert run(f"{constant} --epochs 2", table)[0] == 0
    half = run("evaluate --json", tmp_path / "c", table)  # a checkpoint holds standardised targets
    assert json.loads(half[1])["rmse"] == json.loads(run("evaluate --json", tmp_path / "parts", table)[1])["rmse"]
    assert run(f"{constant} --epochs 4 --resume", table)[0] == 0
    assert run(f"{words} {tmp_path}/whole --epochs 4 --schedule constant", table)[0] == 0
    whole, parts = (fastmlp.MLP.load(tmp_path / name) for name in ("whole", "parts"))
    assert_same_bits(parts.parameters, whole.parameters)


LOSSES = {
    "squared_error": lambda p, y: (p - y) ** 2 / 2,
    "absolute_error": lambda p, y: np.abs(p - y),
    "huber": lambda p, y: np.where(np.abs(p - y) <= 1, (p - y) ** 2 / 2, np.abs(p - y) - 0.5),
    "poisson": lambda p, y: np.where(y > 0, y * np.log(np.where(y > 0, y, 1) / p), 0) - y + p,
}


def test_counts_have_a_loss_of_their_own(run, rng, tmp_path):
    """They are divided by their mean, also in a checkpoint; 2^10 times the counts give 2^10 times the predictions."""
    warmth = rng.uniform(-5, 30, 300).round(2)
    counts = rng.poisson(np.exp(1 + warmth / 12))
    answers = []
    for scale in (1, 2**10):
        table = write(tmp_path / f"{scale}.csv", {"warmth": warmth, "bicycles": counts * scale})
        files = [tmp_path / f"{scale}{name}" for name in ("m", "c")]
        words = "train --target bicycles --loss poisson --epochs 8 --quiet"
        status, printed, error = run(words, "--save", files[0], "--checkpoint", files[1], table)
        assert status == 0, error
        assert "; the target is divided by its mean\n" in printed
        for file in files:
            found = [one["value"] for one in json.loads(run("predict --json", file, table)[1])["predictions"]]
            answers.append(np.array(found, np.float32) / np.float32(scale))
    for one in answers[1:]:
        assert_close(one, answers[0], "trajectory")
    assert answers[0].min() > 0
    assert 1 - np.var(answers[0] - counts) / np.var(counts) > 0.8


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_a_regression(run, table, tmp_path, loss):
    status, printed, error = run(f"train --target price --json --epochs 4 --loss {loss} --save", tmp_path / "m", table)
    assert status == 0, error
    _, answers, _ = run("predict --json", tmp_path / "m", table)
    p = np.array([one["value"] for one in json.loads(answers)["predictions"]])[::5]
    price = load(table, target="price").y_test
    assert json.loads(printed)["test"]["loss"] == pytest.approx(LOSSES[loss](p, price).mean(), rel=1e-3)
    status, _, error = run("train --target price --epochs 4 --checkpoint", tmp_path / "c", "--loss", loss, table)
    assert status == 0, error
    other = "huber" if loss == "poisson" else "poisson"
    status, _, error = run(f"train --target price --loss {other} --resume --checkpoint", tmp_path / "c", table)
    assert status == 2
    assert f"got loss {loss} in the file but {other} here" in error


def test_losses_that_do_not_fit_are_refused(run, rng, tmp_path):
    table = write(tmp_path / "x.csv", {"a": np.arange(10.0), "y": [-2.0, *range(9)]})  # the first is a test sample
    status, _, error = run("train --target y --loss poisson", table)
    assert status == 2
    assert "x.csv: got the target -2, expected counts, at least 0, for poisson; choose another --loss" in error
    status, _, error = run("train --label y --loss huber", table)
    assert status == 2
    assert "--loss: got huber without --target, expected --target COLUMN as well" in error


def test_the_figures_of_a_regression(run, table, tmp_path):
    pytest.importorskip("matplotlib")
    words = "train --target price --epochs 2 --json --save"
    _, printed, _ = run(f"{words} {tmp_path}/m --plot {tmp_path}/pictures", table)
    names = {Path(one).name for one in json.loads(printed)["pictures"]}
    assert names == {"learning-curves.png", "predicted-against-true.png"}
    _, printed, _ = run(f"evaluate --json --plot {tmp_path}/more", tmp_path / "m", table)
    assert [Path(one).name for one in json.loads(printed)["pictures"]] == ["predicted-against-true.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--target town",
            "column 'town': got words, such as '.*', expected numbers, because it is the target; .*--label",
        ),
        ("--target size", "--target: got 'size' for .*, expected first, last or one of: area, town, rooms, price"),
        ("--target price --label town", "--target: got 'price' beside a label, expected one of both"),
        ("--target price --category price", "column 'price': got categories, expected numbers"),
        (
            "--target price --ignore area --category area",
            "--category: got 'area' for .*, expected first, last or one of: town, rooms",
        ),
    ],
)
def test_a_column_that_is_no_target_is_refused(run, table, words, message):
    status, _, error = run(f"train {words}", table)
    assert status == 2
    assert re.search(message, error), error


def test_targets_that_cannot_be_learnt_are_refused(run, tmp_path):
    def refused(column, words=""):
        write(tmp_path / "x.csv", {"a": np.arange(10.0), "y": column})
        status, _, error = run(f"train --target y {words}", tmp_path / "x.csv")
        assert status == 2
        assert "warning" not in error
        return error

    assert "got only the target 3 in 8 training samples, expected at least two different targets" in refused([3.0] * 10)
    large = [1e300 * i for i in range(10)]
    assert "got the target 9e+300, expected targets that are finite in float32; give them in" in refused(large)
    assert "line 4, column 'y': got no value ('')" in refused([1, 2, "", *range(7)])
    assert "line 5, column 'y': got 'x', expected a number, as in other lines" in refused([1, 2, 3, "x", *range(6)])
    status, _, error = run("train digits --target first")
    assert status == 2
    assert "--target: got 'first' for digits, expected a table" in error


def test_a_model_of_classes_has_no_target(run, table, trained, tmp_path):
    assert run("train --label town --epochs 1 --quiet --save", tmp_path / "classes", table)[0] == 0
    _, _, error = run("evaluate --target price", tmp_path / "classes", table)
    assert "--target: got 'price', expected the label of classes; name it by --label, or choose another" in error
    _, _, error = run("evaluate --label town", trained[1], table)
    assert "--label: got 'town', expected the target of a regression; name it by --target" in error


def test_diabetes_is_predicted_as_well_as_by_scikit_learn(run, tmp_path):
    """R^2 of a net in a pipeline that standardises, on the same samples, within 0.05."""
    bundled, networks, prepare = (pytest.importorskip(f"sklearn.{name}") for name in DIABETES)
    found = bundled.load_diabetes(as_frame=False, scaled=False)
    columns = dict(zip(found.feature_names, found.data.T, strict=True)) | {"progression": found.target}
    words = "train --json --target progression --hidden 32 --l2 0.05"
    _, printed, _ = run(words, write(tmp_path / "diabetes.csv", columns))
    data = load(tmp_path / "diabetes.csv", target="progression")
    scaler = prepare.StandardScaler().fit(data.x_train)
    mean, scale = data.y_train.mean(), data.y_train.std()
    peer = networks.MLPRegressor(hidden_layer_sizes=(32,), alpha=10, max_iter=40, batch_size=32, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        peer.fit(scaler.transform(data.x_train), (data.y_train - mean) / scale)
    expected = peer.score(scaler.transform(data.x_test), (data.y_test - mean) / scale)
    assert json.loads(printed)["test"]["r2"] >= expected - 0.05


DIABETES = "datasets", "neural_network", "preprocessing"
