"""`MLPClassifier` and `MLPRegressor` in scikit-learn's company, and what they offer beyond scikit-learn's classes."""

import _thread
import contextlib
import copy
import csv
import gc
import pickle
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from compare import assert_close, assert_same_bits

import fastmlp

pytest.importorskip("sklearn", "1.7")

import joblib
import scipy.optimize
import sklearn.neural_network
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fastmlp.callbacks import CSVLog, TimeBudget
from fastmlp.estimator import MLPClassifier, MLPRegressor, samples
from fastmlp.threads import blas

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)


def classifier(**options):
    return MLPClassifier(**{"hidden_layer_sizes": (8,), "max_iter": 20, "learning_rate_init": 0.02, **options})


def regressor(**options):
    return MLPRegressor(**{"hidden_layer_sizes": (8,), "max_iter": 20, "learning_rate_init": 0.02, **options})


def are_linked(model):
    """Return whether all coefficients and intercepts are views of the same vector."""
    arrays = [*model.coefs_, *model.intercepts_]
    return all(one.base is arrays[0].base is not None for one in arrays)


# ---- With scikit-learn


@pytest.mark.parametrize("workers", ["loky", "threading"])
def test_grid_search_with_two_jobs(workers):
    grid = {"alpha": [1e-4, 10.0], "activation": ["tanh", ("gelu",)]}
    with joblib.parallel_backend(workers, n_jobs=2):
        search = GridSearchCV(classifier(random_state=0), grid, cv=3).fit(X, Y)
    alone = GridSearchCV(classifier(random_state=0), grid, cv=3).fit(X, Y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert search.best_params_ == alone.best_params_


def test_fits_at_the_same_time_give_the_same_bits():
    alone = [classifier(random_state=seed).fit(X, Y).coefs_[0] for seed in range(6)]
    together = joblib.Parallel(3, "threading")(
        joblib.delayed(classifier(random_state=seed).fit)(X, Y) for seed in range(6)
    )
    for one, other in zip(alone, together, strict=True):
        assert_same_bits(other.coefs_[0], one)


def test_pipelines_scores_and_calibration():
    pipeline = make_pipeline(StandardScaler(), classifier(random_state=0))
    assert cross_val_score(pipeline, X, Y, cv=3).mean() > 0.8
    calibrated = CalibratedClassifierCV(classifier(random_state=0), cv=3).fit(X, Y)
    assert calibrated.predict_proba(X).shape == (150, 3)
    assert calibrated.score(X, Y) > 0.8
    assert make_pipeline(StandardScaler(), regressor(random_state=0, max_iter=100)).fit(X, Y).score(X, Y) > 0.5


def test_a_frame_with_text():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd")).assign(kind=np.where(X[:, 0] > 0, "large", "small"))
    columns = ColumnTransformer([("text", OneHotEncoder(), ["kind"]), ("numbers", StandardScaler(), list("abcd"))])
    model = make_pipeline(columns, classifier(random_state=0, max_iter=50)).fit(frame, Y)
    assert model.score(frame, Y) > 0.8
    named = classifier().fit(frame[list("abcd")], Y)
    np.testing.assert_array_equal(named.feature_names_in_, list("abcd"))
    with pytest.raises(ValueError, match="feature names should match"):
        named.predict(frame[list("abdc")])


def test_parameters_are_those_of_the_constructor():
    options = {"class_weight": {0: 2.0}, "clip_norm": 1.0, "n_threads": 1, "activation": ("gelu", "tanh")}
    model = classifier(hidden_layer_sizes=(3, 3), **options)
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert copied.get_params() | options == copied.get_params()
    assert copied.set_params(alpha=0.5).alpha == 0.5
    assert "clip_norm=1.0" in repr(model)


COPIES = {
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "joblib": lambda model, folder: joblib.load(joblib.dump(model, folder / "model")[0]),
    "memory map": lambda model, folder: joblib.load(joblib.dump(model, folder / "model")[0], mmap_mode="r"),
    "deep copy": lambda model, folder: copy.deepcopy(model),
    "copy": lambda model, folder: copy.copy(model),
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_are_linked_and_continue_alike(tmp_path, way):
    model = classifier(random_state=0, early_stopping=False).fit(X, Y)
    copied = COPIES[way](model, tmp_path)
    assert are_linked(model)
    assert are_linked(copied)
    np.testing.assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
    if way != "copy":
        for one in (model, copied):
            one.partial_fit(X, Y)
    for one, other in zip(copied.coefs_, model.coefs_, strict=True):
        assert_same_bits(one, other)


def test_the_vector_is_that_of_an_mlp():
    model, mlp = classifier(random_state=0).fit(X, Y), fastmlp.MLP((4, 8, 3))
    mlp.parameters = model.coefs_[0].base
    assert_close(mlp.predict_proba(X.T).T, model.predict_proba(X), "function")


def test_assigned_coefficients_are_those_of_predictions():
    model = regressor(random_state=0).fit(X, Y)
    expected = model.predict(X)
    model.coefs_[-1][...] *= 2  # in place
    model.intercepts_[-1] = 2 * model.intercepts_[-1]  # an entry of the list
    assert_close(model.predict(X), 2 * expected, "function")
    kept = [2 * model.coefs_[-1]]
    model.coefs_ = model.coefs_[:-1] + kept
    model.intercepts_[-1] = 2 * model.intercepts_[-1]
    assert_close(model.predict(X), 4 * expected, "function")
    kept[0][...] /= 4
    model.intercepts_[-1] = model.intercepts_[-1] / 4
    assert_close(model.predict(X), expected, "function")
    assert model.partial_fit(X, Y).coefs_[-1] is not kept[0]
    assert are_linked(model)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (3, 2), (2, 3), (2, 1)])
def test_other_numbers_of_outputs_are_refused(solver, before, after):
    """Of an array of targets that is too narrow, kernels would read what lies beyond it."""
    model = regressor(solver=solver, warm_start=True).fit(X, X[:, :before].squeeze())
    with pytest.raises(ValueError, match=f"y has {after} outputs, but the model was fitted to {before}"):
        model.fit(X, X[:, :after].squeeze())
    model = regressor().fit(X, X[:, :before].squeeze())
    with pytest.raises(ValueError, match=f"y has {after} outputs, but the model was fitted to {before}"):
        model.partial_fit(X, X[:, :after].squeeze())


def test_assigned_coefficients_of_other_features_are_refused():
    model = regressor().fit(X, Y)
    model.coefs_[0] = np.ones((3, 8))
    for use in (lambda: model.predict(X), lambda: model.partial_fit(X, Y)):
        with pytest.raises(ValueError, match=r"X has 4 features, but coefs_\[0\] has 3 rows"):
            use()


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, np.int64])
def test_many_samples_are_predicted_and_refused_as_by_sklearn(kind, backend):
    theirs = sklearn.neural_network.MLPClassifier((8,), max_iter=20, random_state=0).fit(X, Y)
    ours = classifier(learning_rate_init=0.001, random_state=0).fit(X, Y)
    many = np.tile(np.round(20 * X), (500, 1)).astype(kind)
    assert many.size > samples._MANY_NUMBERS
    for some in (many, many[::-1], np.asfortranarray(many)):
        np.testing.assert_array_equal(ours.predict(some), theirs.predict(some))
    if kind != np.int64:
        for bad in (np.nan, np.inf):
            many[-1, -1] = bad
            with pytest.raises(ValueError, match="contains") as expected:
                theirs.predict(many)
            with pytest.raises(ValueError, match="contains") as found:
                ours.predict(many)
            assert str(found.value).replace("MLPClassifier", "") == str(expected.value).replace("MLPClassifier", "")
            with sklearn.config_context(assume_finite=True):
                np.testing.assert_array_equal(ours.predict(many)[:-1], theirs.predict(many)[:-1])


# ---- Beyond scikit-learn


def test_class_weights_are_weights_of_their_samples():
    weights = {0: 1.0, 1: 5.0, 2: 0.5}
    by_class = classifier(random_state=0, class_weight=weights).fit(X, Y)
    by_sample = classifier(random_state=0).fit(X, Y, [weights[one] for one in Y])
    assert_same_bits(by_class.coefs_[0], by_sample.coefs_[0])
    both = classifier(random_state=0, class_weight=weights).fit(X, Y, np.arange(1.0, 151))
    product = classifier(random_state=0).fit(X, Y, np.arange(1.0, 151) * [weights[one] for one in Y])
    assert_same_bits(both.coefs_[0], product.coefs_[0])


def test_a_batch_without_weight_is_passed_over():
    kept, options = np.r_[0:30, 60:150], {"solver": "sgd", "batch_size": 30, "shuffle": False, "random_state": 0}
    weighted = classifier(**options).fit(X, Y, np.isin(np.arange(150), kept).astype(float))
    rest = classifier(**options).fit(X[kept], Y[kept])
    assert_close(weighted.coefs_[0], rest.coefs_[0], "trajectory")


def test_balanced_classes_and_lists_for_labels():
    rare = np.where(np.arange(150) % 10 == 0, Y, 1)
    balanced = classifier(random_state=0, class_weight="balanced").fit(X, rare)
    counts = np.bincount(rare)
    explicit = classifier(random_state=0, class_weight=dict(enumerate(150 / 3 / counts))).fit(X, rare)
    assert_close(balanced.coefs_[0], explicit.coefs_[0], "trajectory")
    labels = np.stack([Y == 0, Y == 1], axis=1).astype(int)
    several = classifier(random_state=0, class_weight=[{0: 1, 1: 3}, {0: 2, 1: 1}]).fit(X, labels)
    weights = np.where(labels[:, 0] == 1, 3, 1) * np.where(labels[:, 1] == 1, 1, 2)
    assert_close(several.coefs_[0], classifier(random_state=0).fit(X, labels, weights).coefs_[0], "trajectory")
    with pytest.raises(ValueError, match="class_weight 'balanced' is not supported for partial_fit"):
        classifier(class_weight="balanced").partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="'class_weight' parameter of MLPClassifier must be"):
        classifier(class_weight=3).fit(X, Y)


def test_validation_samples_give_a_curve():
    seen = []
    model = regressor(random_state=0, alpha=0.0, callback=lambda one: seen.append(one.predict(X[::3])))
    model.fit(X, Y, X_val=X[::3], y_val=Y[::3])
    losses = [np.mean((one - Y[::3]) ** 2) / 2 for one in seen]
    assert_close(np.array(model.validation_loss_curve_), np.array(losses), "function")
    assert model.validation_scores_ is None
    assert regressor().fit(X, Y).validation_loss_curve_ is None


@pytest.mark.parametrize("target", ["classes", "labels"])
def test_the_curve_of_classes_is_their_log_loss(target):
    y = Y if target == "classes" else np.stack([Y == 0, Y == 1], axis=1).astype(int)
    model = classifier(random_state=0).fit(X, y, X_val=X[::3], y_val=y[::3], sample_weight_val=np.arange(50.0))
    p = model.predict_proba(X[::3])
    each = -np.log(p[np.arange(50), y[::3]]) if target == "classes" else -np.log(np.where(y[::3] == 1, p, 1 - p)).sum(1)
    assert_close(model.validation_loss_curve_[-1], np.average(each, weights=np.arange(50)), "sum", "float64")


def test_early_stopping_with_validation_samples_sets_nothing_aside():
    model = classifier(random_state=0, early_stopping=True).fit(X, Y, X_val=X[::3], y_val=Y[::3])
    plain = classifier(random_state=0, max_iter=model.n_iter_).fit(X, Y)
    assert_same_bits(np.array(model.loss_curve_), np.array(plain.loss_curve_))
    assert model.best_validation_score_ == max(model.validation_scores_) == model.score(X[::3], Y[::3])


def test_validation_samples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="y_val is required"):
        classifier().fit(X, Y, X_val=X)
    with pytest.raises(ValueError, match="X has 3 features, but MLPClassifier is expecting 4"):
        classifier().fit(X, Y, X_val=X[:, :3], y_val=Y)
    with pytest.raises(ValueError, match="`y_val` has classes not in"):
        classifier().fit(X, Y, X_val=X, y_val=Y + 1)
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight_val`"):
        classifier().fit(X, Y, X_val=X, y_val=Y, sample_weight_val=[-1] + [1] * 149)
    with pytest.raises(ValueError, match="X_val is required with y_val"):
        classifier().fit(X, Y, y_val=Y)
    with pytest.raises(ValueError, match="lbfgs is not stochastic"):
        classifier(solver="lbfgs").fit(X, Y, X_val=X, y_val=Y)


@pytest.mark.parametrize("activation", ["leaky_relu", "gelu", ("tanh", "gelu"), ["relu", "logistic"]])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_activations_of_our_own(solver, activation):
    model = classifier(hidden_layer_sizes=(6, 5), activation=activation, solver=solver, random_state=0, max_iter=50)
    mlp = fastmlp.MLP((4, 6, 5, 3), activation=activation if isinstance(activation, str) else tuple(activation))
    assert model.fit(X, Y).score(X, Y) > 0.8
    mlp.parameters = model.coefs_[0].base
    assert_close(mlp.predict_proba(X.T).T, model.predict_proba(X), "function")


def test_activations_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="activation: got 2 names, expected one for each of 1 hidden layers"):
        classifier(activation=("tanh", "relu")).fit(X, Y)
    with pytest.raises(ValueError, match="The 'activation' parameter of MLPClassifier must be"):
        classifier(activation="swish").fit(X, Y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("loss", ["absolute_error", "huber"])
def test_robust_losses_are_not_moved_by_an_outlier(solver, loss):
    y = X[:, 0].copy()
    y[::15] += 100
    options = {"hidden_layer_sizes": (), "solver": solver, "random_state": 0, "max_iter": 300, "tol": 1e-9}
    robust, squared = (regressor(loss=one, **options).fit(X, y) for one in (loss, "squared_error"))
    missed, blurred = (np.median(np.abs(one.predict(X) - X[:, 0])) for one in (robust, squared))
    assert missed < 0.5 < blurred
    residual = np.abs(robust.predict(X) - y)
    each = residual if loss == "absolute_error" else np.where(residual <= 1, residual**2 / 2, residual - 0.5)
    if solver == "lbfgs":
        assert_close(
            robust.loss_, each.mean() + 1e-4 / 2 / 150 * np.sum(robust.coefs_[0] ** 2), "trajectory", "float64"
        )


def test_a_callback_ends_training():
    seen = []

    def callback(model):
        seen.append((model.n_iter_, model.loss_, model.score(X, Y)))
        return model.n_iter_ == 3

    model = classifier(random_state=0, callback=callback).fit(X, Y)
    assert [one[0] for one in seen] == [1, 2, 3]
    assert [one[1] for one in seen] == model.loss_curve_
    assert seen[-1][2] == model.score(X, Y)


def test_clipping_bounds_the_step():
    start = regressor(random_state=0, hidden_layer_sizes=(), solver="sgd", momentum=0, max_iter=1, batch_size=150)
    first = clone(start).set_params(learning_rate_init=1e-12).fit(X, 100 * Y).coefs_[0]
    moved = clone(start).set_params(clip_norm=0.01, learning_rate_init=1.0).fit(X, 100 * Y)
    plain = clone(start).set_params(learning_rate_init=1.0).fit(X, 100 * Y)
    assert np.linalg.norm(plain.coefs_[0] - first) > 10
    assert 0.001 < np.linalg.norm(moved.coefs_[0] - first) <= 0.010001


def test_threads(monkeypatch):
    seen, use_threads = [], fastmlp.backend.use_threads
    monkeypatch.setattr(fastmlp.backend, "use_threads", lambda n: (seen.append(n), use_threads(n))[1])
    one = classifier(random_state=0, n_threads=1).fit(X, Y)
    assert_same_bits(one.predict_proba(X), classifier(random_state=0).fit(X, Y).predict_proba(X))
    assert seen == [1, 1]
    monkeypatch.undo()
    with pytest.raises(ValueError, match="^n_threads: got 99999, expected at most"):
        classifier(n_threads=99999).fit(X, Y)


# ---- Ctrl-C


def test_ctrl_c_leaves_the_model_so_far():
    classifier().fit(X, Y)  # compiled
    model = classifier(random_state=0, max_iter=10**6, n_iter_no_change=np.inf)
    gc.collect()  # what other tests left: Python drops an interrupt that strikes while it clears up a weak reference
    threading.Timer(1.0, _thread.interrupt_main).start()
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(X, Y)
    assert 0 < model.n_iter_ == len(model.loss_curve_) < 10**6
    assert are_linked(model)
    assert np.isfinite(model.coefs_[0]).all()
    assert model.score(X, Y) > 0.9


def test_ctrl_c_ends_lbfgs_after_an_evaluation_and_blas_has_its_threads_again():
    class Regressor(MLPRegressor):
        evaluations = 0

        def _loss_grad_lbfgs(self, *args):
            self.evaluations += 1
            if self.evaluations == 3:
                _thread.interrupt_main()
                time.sleep(1)
            return super()._loss_grad_lbfgs(*args)

    model = Regressor(hidden_layer_sizes=(8,), solver="lbfgs", max_iter=20)
    before = [library["num_threads"] for library in blas().info()]
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, X[:, 0])
    assert model.evaluations == 3
    assert [library["num_threads"] for library in blas().info()] == before
    assert model.fit(X, X[:, 0]).n_iter_ == 20


def test_lbfgs_leaves_one_thread_to_blas_beside_compiled_kernels(monkeypatch):
    seen, minimize = [], scipy.optimize.minimize

    def spy(*args, **kwargs):
        seen.append({library["num_threads"] for library in blas().info()})
        return minimize(*args, **kwargs)

    monkeypatch.setattr(scipy.optimize, "minimize", spy)
    for name in ("numba", "numpy"):
        with fastmlp.use_backend(name):
            regressor(solver="lbfgs", max_iter=1).fit(X, Y)
    assert seen[0] == {1}
    assert seen[1] == {library["num_threads"] for library in blas().info()}


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="POSIX signals")
@pytest.mark.filterwarnings("ignore:Training interrupted by user")
def test_a_signal_in_a_call_of_the_kernel_leaves_the_count_of_updates_with_the_weights():
    x, y = np.random.default_rng(0).standard_normal((200_000, 20)), np.arange(200_000) % 2
    options = {"shuffle": False, "alpha": 0.0, "batch_size": 10, "random_state": 0, "max_iter": 1}
    for _ in range(2):  # with and without the time to compile
        start = time.perf_counter()
        whole = MLPClassifier((60,), **options).fit(x, y)
    seconds, counts = time.perf_counter() - start, set()
    for share in (0.5, 0.6, 0.7, 0.8):
        model = MLPClassifier((60,), **options)
        main = threading.main_thread().ident
        timer = threading.Timer(seconds * share, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        with contextlib.suppress(KeyboardInterrupt):  # before the first update, or after the last one
            model.fit(x, y)
            timer.join()
        made = getattr(getattr(model, "_optimizer", None), "t", 0)
        if 0 < made < whole._optimizer.t:
            counts.add(made)
            part = MLPClassifier((60,), **options).fit(x[: 10 * made], y[: 10 * made])
            assert_same_bits(model.coefs_[0], part.coefs_[0])
            model.partial_fit(x[:500], y[:500])
            assert_same_bits(model.coefs_[0], part.partial_fit(x[:500], y[:500]).coefs_[0])
    if not counts:
        pytest.skip("no signal came while the kernel ran")


@pytest.mark.parametrize("early_stopping", [False, True])
def test_training_goes_on_with_coefficients_that_a_callback_has_changed(early_stopping):
    options = {"random_state": 0, "max_iter": 30, "early_stopping": early_stopping}

    def copied(model):
        model.coefs_ = [one.copy() for one in model.coefs_]

    def clipped(model):
        for one in model.coefs_:
            np.clip(one, -0.1, 0.1, out=one)
        lasts.append(max(np.abs(one).max() for one in model.coefs_))

    def wrong(model):
        model.coefs_ = [one[:1] for one in model.coefs_]

    lasts = []
    alone = classifier(**options).fit(X, Y)
    same = classifier(**options, callback=copied).fit(X, Y)
    for one, other in zip(same.coefs_, alone.coefs_, strict=True):
        assert_same_bits(one, other)
    assert are_linked(same)
    assert same.loss_curve_ == alone.loss_curve_
    small = classifier(**options, callback=clipped).fit(X, Y)
    assert small.loss_curve_[5:] != alone.loss_curve_[5:]
    if not early_stopping:
        assert max(np.abs(one).max() for one in small.coefs_) <= 0.1
    with pytest.raises(ValueError, match="coefs_ and intercepts_ do not fit one another|coefs_ have the widths"):
        classifier(**options, callback=wrong).fit(X, Y)


def test_assigned_coefficients_are_not_stretched():
    model = classifier(random_state=0).fit(X, Y)
    model.coefs_[1] = model.coefs_[1][:1]
    for call in (model.predict, lambda x: model.partial_fit(x, Y)):
        with pytest.raises(ValueError, match=r"got shape \(1, 3\), expected \(8, 3\)"):
            call(X)


@pytest.mark.parametrize("layers", [(8, 8), ()])
def test_a_warm_start_with_other_layers_is_refused(layers):
    model = classifier(random_state=0, warm_start=True, max_iter=2).fit(X, Y)
    with pytest.raises(
        ValueError, match=f"hidden_layer_sizes has {len(layers)} layers, but the model was fitted with 1"
    ):
        model.set_params(hidden_layer_sizes=layers).fit(X, Y)


def test_an_error_of_a_callback_leaves_the_model_so_far():
    def callback(model):
        if model.n_iter_ == 15:
            raise RuntimeError("enough")

    model = classifier(random_state=0, callback=callback)
    with pytest.raises(RuntimeError, match="enough"):
        model.fit(X, Y)
    assert_same_bits(model.coefs_[0], classifier(random_state=0, max_iter=15).fit(X, Y).coefs_[0])


# ---- Without scikit-learn


def test_without_sklearn_the_import_names_the_extra(run_python):
    run_python("""
import sys
sys.modules["sklearn"] = None
import fastmlp
assert not any(name.startswith("sklearn.") for name in sys.modules)
try:
    import fastmlp.estimator
except ImportError as error:
    assert "the estimators are scikit-learn's" in str(error) and ".[sklearn]" in str(error), error
else:
    raise AssertionError
""")


def test_no_warning_is_hidden():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = classifier(random_state=0, max_iter=1000, tol=0.1).fit(X, Y)
    assert model.n_iter_ < 1000


# ---- The benchmark


def test_the_benchmark_prints_ratios_and_differences(capsys, monkeypatch):
    benchmark = pytest.importorskip("benchmarks.estimator")
    some = list(benchmark.cases())[::150]
    monkeypatch.setattr(benchmark, "cases", lambda: some)
    assert benchmark.equality(quick=False)
    assert benchmark.main(["--quick", "--only", "one row"]) == 0
    printed = capsys.readouterr().out
    assert "adam, multiclass, dense, plain" in printed
    assert "predict, one row" in printed
    monkeypatch.setattr(benchmark, "DIFFERENCE", 1e-30)
    assert not benchmark.equality(quick=False)


# ---- Ready callbacks, and those of scikit-learn


def test_ready_callbacks_see_a_history_and_functions_the_estimator(tmp_path):
    seen = []
    log = CSVLog(tmp_path / "log.csv")
    model = classifier(random_state=0, early_stopping=True, callback=[log, lambda one: seen.append(one.n_iter_)])
    model.fit(X, Y)
    assert seen == list(range(1, 1 + model.n_iter_))
    with open(tmp_path / "log.csv", newline="", encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "validation_loss", "validation_accuracy", "seconds"]
    assert [float(row["loss"]) for row in rows] == model.loss_curve_
    assert [float(row["validation_loss"]) for row in rows] == model.validation_loss_curve_
    assert [float(row["validation_accuracy"]) for row in rows] == model.validation_scores_


def test_a_time_budget_ends_the_fit_of_an_estimator():
    model = classifier(random_state=0, max_iter=10**6, n_iter_no_change=np.inf, callback=TimeBudget(0.05)).fit(X, Y)
    assert 1 <= model.n_iter_ < 10**6
    assert clone(model).fit(X, Y).n_iter_ < 10**6


def test_callbacks_of_sklearn_are_told_of_each_iteration():
    pytest.importorskip("sklearn.callback")
    seen = []

    class Hooks:
        def setup(self, estimator, context):
            seen.append(("setup", context.max_subtasks))

        def teardown(self, estimator, context):
            seen.append(("teardown",))

        def on_fit_task_begin(self, estimator, context):
            seen.append(("begin", context.task_name))

        def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
            score = fitted_estimator.score(X, y)
            seen.append(("end", context.task_name, score))
            return context.task_name == "iteration" and context.task_id == 2

    model = classifier(random_state=0).set_callbacks(Hooks()).fit(X, Y)
    assert model.n_iter_ == 3
    names = [one[:2] for one in seen]
    iteration = [("begin", "iteration"), ("end", "iteration")]
    assert names == [("setup", 20), ("begin", "fit"), *3 * iteration, ("end", "fit"), ("teardown",)]
    assert seen[-2][2] == model.score(X, Y) == seen[-3][2]
    del seen[:]
    model.partial_fit(X, Y)
    assert seen == []
    three = classifier(random_state=0, max_iter=3).fit(X, Y)
    assert_same_bits(model.coefs_[0], three.partial_fit(X, Y).coefs_[0])


def test_the_scoring_monitor_of_sklearn_scores_each_iteration():
    callback = pytest.importorskip("sklearn.callback")
    pytest.importorskip("pandas")
    monitor = callback.ScoringMonitor(scoring="accuracy")
    scores = []
    model = classifier(random_state=0, max_iter=4, callback=lambda one: scores.append(one.score(X, Y)))
    model.set_callbacks(monitor).fit(X, Y)
    logged = monitor.get_logs().data_as_pandas["accuracy"].tolist()
    assert logged == [scores[-1], *scores]  # the whole fit first
