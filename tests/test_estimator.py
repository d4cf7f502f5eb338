"""`MLPClassifier` and `MLPRegressor` give the numbers, attributes and messages of scikit-learn's classes."""

import warnings

import numpy as np
import pytest
from compare import assert_close

neural_network = pytest.importorskip("sklearn.neural_network")
sparse = pytest.importorskip("scipy.sparse")
pytest.importorskip("sklearn", "1.7")

from sklearn.exceptions import ConvergenceWarning  # noqa: E402

from fastmlp import estimator  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(11)
M = 130  # in batches of 30 the last one has 10 samples
X = RNG.standard_normal((M, 6)) * (RNG.random((M, 6)) < 0.6)
W = RNG.random(M) * (RNG.random(M) < 0.9)
SUM = X.sum(axis=1)
TARGETS = {
    "multiclass": np.digitize(SUM, [-0.5, 0.5]),
    "binary": (SUM + RNG.standard_normal(M) > 0).astype(int),
    "multilabel": np.stack([X[:, 0] > 0, X[:, 1] > 0.2, SUM > 0], axis=1).astype(int),
    "regression": SUM + X[:, 0] ** 2,
    "multi-output": np.stack([SUM, X[:, 0] ** 2], axis=1),
    "poisson": RNG.poisson(np.exp(SUM / 4)).astype(float),
}
FORMS = {"dense": np.asarray, "CSR": sparse.csr_matrix}
COMMON = {"hidden_layer_sizes": (7,), "max_iter": 20, "batch_size": 30, "random_state": 3, "tol": 1e-9}
SOLVERS = {
    "adam": {"learning_rate_init": 0.01},
    "sgd": {"learning_rate_init": 0.05},
    "lbfgs": {},
}


def twins(target, **options):
    """Return an estimator of scikit-learn and one of ours with the same arguments."""
    kind = "MLPClassifier" if target in ("multiclass", "binary", "multilabel") else "MLPRegressor"
    options = {**COMMON, **SOLVERS[options.get("solver", "adam")], **options}
    if target == "poisson":
        options["loss"] = "poisson"
    return [getattr(module, kind)(**options) for module in (neural_network, estimator)]


def fit(model, x, y, weight=None):
    return model.fit(x, y, sample_weight=weight)


def fit_twice(model, x, y, weight=None):
    """Warm start: with less data and another rate the second time."""
    model.set_params(warm_start=True).fit(x, y, sample_weight=weight)
    rest = slice(0, 120)
    model.set_params(max_iter=model.max_iter * 3 // 4)
    return model.fit(x[rest], y[rest], sample_weight=None if weight is None else weight[rest])


def fit_partially(model, x, y, weight=None):
    labels = np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])
    classes = {"classes": labels} if hasattr(model, "predict_proba") else {}
    for first in [0, 50, 0, 50] * 5:
        part = slice(first, first + 80)
        model.partial_fit(x[part], y[part], sample_weight=None if weight is None else weight[part], **classes)
        classes = {}
    return model


def fit_then_partially(model, x, y, weight=None):
    return fit_partially(fit(model, x, y, weight), x, y, weight)


def assert_twins(theirs, ours, kind="trajectory"):
    """Compare the coefficients, all attributes that end in an underscore, and the loss curves."""
    for name in ("coefs_", "intercepts_"):
        for one, other in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert_close(one, other, kind, other.dtype)
    extra = {"validation_loss_curve_"}
    public = {name for name in vars(theirs) if name.endswith("_")}
    assert {name for name in vars(ours) if name.endswith("_")} - extra == public
    for name in public - {"coefs_", "intercepts_"}:
        one, other = getattr(ours, name), getattr(theirs, name)
        if isinstance(other, (str, int, type(None))):
            assert one == other, name
        elif np.asarray(other).dtype.kind == "f":
            assert_close(np.asarray(one, float), np.asarray(other, float), kind, "float64")
        else:
            np.testing.assert_array_equal(one, other)


def assert_same_fit(target, form="dense", how=fit, weight=None, **options):
    theirs, ours = (how(one, FORMS[form](X), TARGETS[target], weight) for one in twins(target, **options))
    kind = "minimization" if options.get("solver") == "lbfgs" else "trajectory"
    assert_twins(theirs, ours, kind)
    for name in ("predict", "predict_proba"):
        if hasattr(theirs, name):
            one, other = (getattr(model, name)(FORMS[form](X)) for model in (ours, theirs))
            assert one.dtype == other.dtype
            if other.dtype.kind == "f":
                assert_close(one, other, kind, other.dtype)
            else:
                np.testing.assert_array_equal(one, other)
    return theirs, ours


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_coefficients_and_losses_are_those_of_sklearn(solver, target, activation):
    assert_same_fit(target, solver=solver, activation=activation)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_so_they_are_for_every_form_and_backend(backend, solver, target, form):
    assert_same_fit(target, form, solver=solver)


WAYS = {
    "early stopping": {"early_stopping": True, "validation_fraction": 0.2},
    "weights": {"weight": W},
    "early stopping, weights": {"early_stopping": True, "weight": W},
    "warm start": {"how": fit_twice},
    "warm start, early stopping": {"how": fit_twice, "early_stopping": True},
    "partial fit": {"how": fit_partially},
    "partial fit, weights": {"how": fit_partially, "weight": W},
    "partial fit after fit": {"how": fit_then_partially},
    "patience": {"n_iter_no_change": 2, "tol": 1e-2},
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("way", WAYS)
def test_so_they_are_in_every_way_to_fit(way, target):
    assert_same_fit(target, solver="adam", **WAYS[way])


@pytest.mark.parametrize("target", ["multiclass", "regression"])
@pytest.mark.parametrize("way", WAYS)
def test_so_they_are_for_descent_and_sparse_samples(way, target):
    assert_same_fit(target, "CSR", solver="sgd", **WAYS[way])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("how", "iterations"), [(fit, 20), (fit_twice, 10)])  # rounding errors grow with each
def test_so_they_are_for_lbfgs_with_weights_and_warm_start(how, iterations, target):
    assert_same_fit(target, how=how, weight=W, solver="lbfgs", max_iter=iterations)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": "invscaling"},
        {"learning_rate": "invscaling", "nesterovs_momentum": False},
        {"learning_rate": "adaptive", "n_iter_no_change": 1, "tol": 0.1, "max_iter": 60},
        {"momentum": 0.0},
        {"momentum": 0.0, "learning_rate": "invscaling"},
        {"momentum": 1.0, "learning_rate_init": 1e-3},
        {"alpha": 2.0},
        {"alpha": 0.0},
        {"shuffle": False},
        {"batch_size": "auto"},
        {"batch_size": 1, "max_iter": 3, "learning_rate_init": 1e-3},
        {"hidden_layer_sizes": ()},
        {"hidden_layer_sizes": 3},
        {"hidden_layer_sizes": [5, 4, 3]},
    ],
    ids=str,
)
@pytest.mark.parametrize("target", ["multiclass", "regression"])
def test_so_they_are_with_every_option_of_descent(target, options):
    assert_same_fit(target, solver="sgd", **options)


@pytest.mark.parametrize("options", [{"beta_1": 0.0, "beta_2": 0.5}, {"epsilon": 0.1}, {"alpha": 2.0}], ids=str)
def test_so_they_are_with_every_option_of_adam(options):
    assert_same_fit("multiclass", solver="adam", **options)


def test_so_they_are_for_several_counts():
    y = np.stack([TARGETS["poisson"], TARGETS["poisson"][::-1]], axis=1)
    assert_twins(*(one.fit(X, y) for one in twins("poisson")))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("y", [TARGETS["multiclass"], np.ones((M, 2), int)], ids=["classes", "labels"])
def test_so_they_are_where_wrong_answers_are_near_certain(solver, y):
    """scikit-learn takes no probability for less than the machine epsilon, which changes the steps of L-BFGS."""
    theirs, ours = (one.fit(200 * X, y) for one in twins("multilabel", solver=solver, max_iter=5))
    assert_twins(theirs, ours, "minimization" if solver == "lbfgs" else "trajectory")


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("target", ["multiclass", "poisson"])
def test_float32_trains_in_float32(solver, target):
    models = twins(target, solver=solver, max_iter=5)
    theirs, ours = (one.fit(X.astype(np.float32), TARGETS[target]) for one in models)
    for one, other in zip(ours.coefs_, theirs.coefs_, strict=True):
        assert one.dtype == other.dtype  # that of SciPy's minimizer is float64
        assert_close(one.astype(np.float32), other.astype(np.float32), "trajectory")
    assert solver == "lbfgs" or one.dtype == np.float32
    curves = (np.atleast_1d(getattr(one, "loss_curve_", one.loss_)).astype(np.float32) for one in (ours, theirs))
    assert_close(*curves, "trajectory")


@pytest.mark.parametrize("target", ["multiclass", "binary", "multilabel", "regression"])
def test_early_stopping_restores_the_best_weights_also_in_a_second_fit(target):
    """A quirk of scikit-learn's second fit, whose best weights change while no score exceeds that of the first."""
    theirs, ours = twins(target, early_stopping=True, warm_start=True, learning_rate_init=0.05)
    for _ in range(3):
        assert_twins(*(one.fit(X, TARGETS[target]) for one in (theirs, ours)))


def message(function, *args, **kwargs):
    """Return the type and the text of what a call raises, and of its warnings."""
    raised = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function(*args, **kwargs)
        except Exception as error:
            raised = type(error), str(error)
    return raised, [(one.category, str(one.message)) for one in caught]


def one_bad_value(value):
    bad = X.copy()
    bad[3, 2] = value
    return bad


Y = np.array(["a", "b", "c"])[TARGETS["multiclass"]]
REFUSED = {
    "NaN": lambda one: one.fit(one_bad_value(np.nan), Y),
    "infinity": lambda one: one.fit(one_bad_value(np.inf), Y),
    "sparse NaN": lambda one: one.fit(sparse.csr_matrix(one_bad_value(np.nan)), Y),
    "a column of text": lambda one: one.fit(np.array([["a", "1"]] * 4, object), Y[:4]),
    "other lengths": lambda one: one.fit(X, Y[:-1]),
    "one dimension": lambda one: one.fit(X[0], Y),
    "no samples": lambda one: one.fit(X[:0], Y[:0]),
    "continuous labels": lambda one: one.fit(X, SUM),
    "weights of other lengths": lambda one: one.fit(X, Y, W[:-1]),
    "NaN in a weight": lambda one: one.fit(X, Y, np.where(W > 0.5, np.nan, W)),
    "a negative alpha": lambda one: one.set_params(alpha=-1).fit(X, Y),
    "an unknown solver": lambda one: one.set_params(solver="newton").fit(X, Y),
    "a width of 0": lambda one: one.set_params(hidden_layer_sizes=(4, 0)).fit(X, Y),
    "a batch that is too large": lambda one: one.set_params(batch_size=1000).fit(X, Y),
    "too few iterations": lambda one: one.set_params(max_iter=2).fit(X, Y),
    "too few iterations of lbfgs": lambda one: one.set_params(solver="lbfgs", max_iter=2).fit(X, Y),
    "not fitted": lambda one: one.predict(X),
    "other features": lambda one: one.fit(X, Y).predict(X[:, :4]),
    "other features later": lambda one: one.fit(X, Y).partial_fit(X[:, :4], Y),
    "NaN to predict": lambda one: one.fit(X, Y).predict_proba(one_bad_value(np.nan)),
    "no classes": lambda one: one.partial_fit(X, Y),
    "more classes later": lambda one: one.partial_fit(X, Y, classes=["a", "b", "c"]).partial_fit(X, ["d"] * M),
    "partial fit of lbfgs": lambda one: one.set_params(solver="lbfgs").partial_fit(X, Y),
    "partial fit, early stopping": lambda one: one.set_params(early_stopping=True).partial_fit(
        X, Y, classes=list("abc")
    ),
    "other classes in a warm start": lambda one: one.set_params(warm_start=True).fit(X, Y).fit(X, TARGETS["binary"]),
    "too few samples to validate on": lambda one: one.set_params(early_stopping=True).fit(X[:6], list("ababab")),
    "too few labels to validate on": lambda one: one.set_params(early_stopping=True).fit(
        X[:6], TARGETS["multilabel"][:6]
    ),
    "one sample of a class": lambda one: one.set_params(early_stopping=True).fit(X[:4], [0, 0, 0, 1]),
    "one class only": lambda one: one.fit(X, np.zeros(M)),
    "a column of labels": lambda one: one.fit(X, Y[:, None]),
    "numbers that overflow": lambda one: one.set_params(max_iter=3).fit(X * 1e308, Y),
}


@pytest.mark.parametrize("case", REFUSED)
def test_messages_and_warnings_are_those_of_sklearn(case):
    theirs, ours = (message(REFUSED[case], one) for one in twins("multiclass"))
    theirs, ours = ((raised, [one for one in said if one[0] is not RuntimeWarning]) for raised, said in (theirs, ours))
    assert ours == theirs
    assert ours[0] or ours[1] or case == "one class only"


def test_it_says_what_sklearn_says(capsys):
    said = []
    for one in twins("multiclass", verbose=True, early_stopping=True, max_iter=4):
        one.fit(X, TARGETS["multiclass"])
        said.append(capsys.readouterr().out)
    for one in twins("regression", verbose=1, solver="sgd", learning_rate="adaptive", tol=10.0, n_iter_no_change=1):
        one.fit(X, SUM)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert said[2] == said[3]
    assert "Iteration 3, loss" in said[0]
    assert "Setting learning rate to" in said[2]


def test_what_is_refused_beyond_sklearn():
    classifier, regressor = (one[1] for one in (twins("multiclass"), twins("poisson")))
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        classifier.fit(X, Y, W - 0.5)
    with pytest.raises(ValueError, match="at least one non-zero number"):
        classifier.fit(X, Y, 0 * W)
    with pytest.raises(ValueError, match="loss='poisson' requires non-negative y"):
        regressor.fit(X, SUM)
    with pytest.raises(ValueError, match="y must be numbers, got an array of dtype <U"):
        regressor.fit(X, TARGETS["poisson"].astype(str))


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_fit_that_diverges_ends_at_once(early_stopping):
    """scikit-learn makes all iterations with NaN, and ends with the same error, or with the same best weights."""
    options = {"solver": "sgd", "learning_rate_init": 1e3, "early_stopping": early_stopping, "activation": "identity"}
    theirs, ours = twins("regression", **options)
    if not early_stopping:
        with np.errstate(all="ignore"):
            (expected, _), (found, _) = message(theirs.fit, X, SUM), message(ours.fit, X, SUM)
        assert expected == found
        return
    with np.errstate(all="ignore"):
        theirs.fit(X, SUM)
    with np.errstate(all="ignore"), pytest.warns(ConvergenceWarning, match="stopped being finite in iteration"):
        ours.fit(X, SUM)
    assert ours.n_iter_ < theirs.n_iter_
    assert np.isnan(ours.loss_)
    assert np.isnan(ours.validation_scores_[-1])
    for one, other in zip(ours.coefs_, theirs.coefs_, strict=True):
        assert_close(one, other, "trajectory")
