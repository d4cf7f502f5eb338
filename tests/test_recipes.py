"""Recipes: the choice of optimizer, batches and epochs for a number of samples and for options."""

import pytest

import fastmlp
from fastmlp import options, recipes
from fastmlp.datasets import digits
from fastmlp.optimizers import LBFGS, SGD, Adam, AdamW
from fastmlp.schedules import constant, cosine, linear, one_cycle


def chosen(words, m=60000):
    return recipes.chosen(options.parse(["train", *words.split()]), m)


@pytest.mark.parametrize(
    ("m", "batch_size", "epochs"),
    [
        (1, 1, 40), (10, 10, 40), (120, 32, 40), (1433, 32, 40), (4095, 32, 14), (4096, 64, 28), (5000, 64, 23),
        (16383, 64, 7), (16384, 128, 14), (60000, 128, 4), (10**7, 128, 4),
    ],
)  # fmt: skip
def test_the_recipe_for_a_number_of_samples(m, batch_size, epochs):
    found = recipes.recipe(m)
    assert found == recipes.Recipe("adam", epochs, "float32", batch_size, 0.008, "one-cycle")


def test_runs_have_as_many_updates_whatever_the_number_of_samples():
    for m in range(1409, 57600, 97):
        found = recipes.recipe(m)
        assert 1575 <= found.epochs * len(range(0, m, found.batch_size)) <= 2025


@pytest.mark.parametrize("seed", range(5))
def test_the_recipe_learns_the_digits(seed):
    pytest.importorskip("sklearn")
    (x, y), (x_test, y_test) = ((fastmlp.pack(x.reshape(len(x), -1).T, scale=1 / 16), y) for x, y in digits.load_data())
    found = recipes.recipe(len(y))
    model = fastmlp.MLP((64, 128, 10), found.dtype, seed)
    model.fit(x, y, **found.arguments())
    assert model.evaluate(x_test, y_test)["accuracy"] >= 0.97


BATCHES = {"batch_size": 128, "shuffle": "batches"}


@pytest.mark.parametrize(
    ("words", "dtype", "arguments"),
    [
        ("", "float32", {"epochs": 4, "l2": 0, **BATCHES, "optimizer": Adam(one_cycle(0.008, 0.1), 0.9, 0.99)}),
        (
            "mnist --epochs 7 --batch-size 50 --learning-rate 0.01 --schedule cosine --l2 0.5 --dtype float64",
            "float64",
            {"epochs": 7, "l2": 0.5, **BATCHES, "batch_size": 50, "optimizer": Adam(cosine(0.01), 0.9, 0.99)},
        ),
        (
            "--optimizer adamw --schedule constant",
            "float32",
            {"epochs": 4, "l2": 0, **BATCHES, "optimizer": AdamW(constant(0.008), 0.9, 0.99)},
        ),
        (
            "--optimizer sgd --schedule linear",
            "float32",
            {"epochs": 4, "l2": 0, **BATCHES, "optimizer": SGD(linear(0.1), 0.9, nesterov=True)},
        ),
        ("--optimizer lbfgs --l2 0.1", "float64", {"epochs": 100, "l2": 0.1, "optimizer": LBFGS()}),
        ("--optimizer gd", "float64", {"epochs": 500, "l2": 0, "alpha": 0.5}),
        ("--alpha 0.25", "float64", {"epochs": 500, "l2": 0, "alpha": 0.25}),
        ("mnist --alpha 0 --dtype float32", "float32", {"epochs": 100, "l2": 0, "alpha": 0}),
    ],
)
def test_options_replace_parts_of_the_recipe(words, dtype, arguments):
    found = chosen(words)
    assert (found.dtype, found.arguments()) == (dtype, arguments)


def test_a_batch_has_at_most_all_samples():
    assert chosen("--batch-size 50", m=20).batch_size == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "adam, batches of 128, one-cycle to 0.008, 4 epochs"),
        ("--optimizer sgd --schedule linear --epochs 1", "sgd, batches of 128, linear from 0.1, 1 epoch"),
        ("--schedule constant --l2 0.001", "adam, batches of 128, constant at 0.008, l2 0.001, 4 epochs"),
        ("--schedule cosine", "adam, batches of 128, cosine from 0.008, 4 epochs"),
        ("--optimizer lbfgs", "lbfgs, full batch, 100 epochs"),
        ("--optimizer gd", "gd, full batch, alpha 0.5, 500 epochs"),
    ],
)
def test_a_recipe_in_words(words, said):
    assert str(chosen(words)) == said


def test_facts_have_an_alpha_only_for_gradient_descent():
    common = {"optimizer", "batch_size", "learning_rate", "schedule", "l2"}
    assert set(chosen("").facts()) == common
    assert set(chosen("--optimizer gd").facts()) == common | {"alpha"}
