"""Models of scikit-learn: its multilayer perceptrons, fitted."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np

from fastmlp import checks, losses
from fastmlp.interchange import layers, preparation
from fastmlp.interchange.layers import Layers, Model
from fastmlp.kernels.nets import ACTIVATIONS, LOSSES

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Made = TypeVar("Made")

_THEIR_ACTIVATIONS = {"identity", "logistic", "tanh", "relu"}
_THEIR_LOSSES = {"squared_error", "poisson"}  # of a regression


def read(make: Callable[..., Made], estimator: Any) -> Made:
    """Return a fitted estimator as the model that ``make`` makes, as `MLP.from_sklearn`."""
    classifier, regressor = _classes()
    if not isinstance(estimator, (classifier, regressor)):
        got, expected = type(estimator).__name__, "a fitted MLPClassifier or MLPRegressor"
        raise TypeError(checks.message("estimator", got, expected, "of a Pipeline, pass the last step"))
    if not hasattr(estimator, "coefs_"):
        expected = "a fitted one"
        raise ValueError(checks.message("estimator", "an estimator without coefficients", expected, "call its fit"))
    weights, biases = (
        [np.asarray(one).T for one in estimator.coefs_],
        [np.asarray(one) for one in estimator.intercepts_],
    )
    layers.check("estimator", [f"coefs_[{i}]" for i in range(len(weights))], weights, biases)
    given = estimator.activation
    names = [given] * (len(weights) - 1) if isinstance(given, str) else list(given)
    legal = {name: name for name in ACTIVATIONS}
    names = [layers.check_activation("estimator", one, f"coefs_[{i}]", legal) for i, one in enumerate(names)]
    model: Any = layers.build(make, Layers(weights, biases, layers.short(names), _loss(estimator)))
    features = tuple(map(str, getattr(estimator, "feature_names_in_", ())))
    model.notes = preparation.notes(model.layer_sizes[0], _class_names(estimator, model), features)
    made: Made = model
    return made


def estimator(model: Model) -> Any:
    """Return a model as a fitted estimator, as `MLP.to_sklearn`."""
    net = layers.of(model)
    of_notes = preparation.of(model)
    is_regression = losses.is_regression(model.loss)
    theirs = set(net.activations) <= _THEIR_ACTIVATIONS and len(set(net.activations)) <= 1
    theirs = theirs and (not is_regression or model.loss in _THEIR_LOSSES)
    classifier, regressor = _classes(ours=not theirs)
    settings: dict[str, Any] = {"hidden_layer_sizes": model.layer_sizes[1:-1], "activation": model.activation}
    fitted = regressor(model.loss, **settings) if is_regression else classifier(**settings)
    if is_regression:
        fitted.out_activation_ = "exp" if model.loss == "poisson" else "identity"
        scale = np.asarray(of_notes.unit.scale, model.dtype)
        net = _with_last(
            net, net.weights[-1] * scale, net.biases[-1] * scale + np.asarray(of_notes.unit.mean, model.dtype)
        )
    else:
        net = _set_classes(fitted, model, net, of_notes.names)
    fitted.coefs_ = [np.array(weight.T, order="C") for weight in net.weights]
    fitted.intercepts_ = [bias.copy() for bias in net.biases]
    fitted.n_layers_, fitted.n_outputs_ = len(net.weights) + 1, len(net.biases[-1])
    fitted.n_features_in_ = model.layer_sizes[0]
    if model.features and of_notes.encoder is None:
        fitted.feature_names_in_ = np.array(model.features, object)
    # What `fit` with warm_start continues from.
    fitted.n_iter_, fitted.t_, fitted._no_improvement_count = 0, 0, 0
    fitted.loss_curve_, fitted.best_loss_ = [], np.inf
    fitted.validation_scores_ = fitted.best_validation_score_ = None
    return fitted


def _classes(*, ours: bool = False) -> tuple[Any, Any]:
    """Return the classes of classifier and regressor: scikit-learn's, or ours, which are derived from them."""
    try:
        import sklearn.neural_network as library
    except ImportError as error:
        raise checks.extra("the estimators are scikit-learn's", error, "sklearn") from error
    if not ours:
        return library.MLPClassifier, library.MLPRegressor
    from fastmlp.estimator import MLPClassifier, MLPRegressor

    return MLPClassifier, MLPRegressor


def _loss(estimator: Any) -> str:
    if hasattr(estimator, "classes_"):
        return "cross_entropy" if estimator.out_activation_ == "softmax" else "logistic"
    loss: str = checks.choice("estimator.loss", estimator.loss, [one for one in LOSSES if losses.is_regression(one)])
    return loss


def _class_names(estimator: Any, model: Model) -> tuple[str, ...]:
    """Return the names of the classes; none if they are numbers from 0, independent labels, or a regression's."""
    count = preparation.classes(model)
    if not count or np.array_equal(estimator.classes_, np.arange(count)):
        return ()
    return tuple(map(str, np.asarray(estimator.classes_).tolist()))


def _set_classes(fitted: Any, model: Model, net: Layers, names: tuple[str, ...]) -> Layers:
    """Set the classes of a classifier; return the net with the outputs that scikit-learn has for them, in its order."""
    from sklearn.preprocessing import LabelBinarizer

    count = preparation.classes(model)
    fitted._label_binarizer = LabelBinarizer()
    if not count:
        fitted._label_binarizer.fit(np.repeat([[0], [1]], model.layer_sizes[-1], axis=1))
        fitted.classes_, fitted.out_activation_ = fitted._label_binarizer.classes_, "logistic"
        return net
    if count == 1:
        remedy = "give the model two outputs, or one with loss='logistic'"
        raise ValueError(checks.message("model", "a model of one class", "at least two classes", remedy))
    labels = preparation.labels(names, count)
    labels = np.array(labels.tolist()) if labels.dtype == object else labels
    classes, order = np.unique(labels, return_index=True)
    if len(classes) < count:
        got, expected = f"{count} classes with {len(classes)} names", "a different name for each class"
        raise ValueError(checks.message("notes", got, expected, "rename classes in model.notes"))
    fitted._label_binarizer.fit(classes)
    fitted.classes_, fitted.out_activation_ = fitted._label_binarizer.classes_, "softmax" if count > 2 else "logistic"
    weight, bias = net.weights[-1], net.biases[-1]
    if len(bias) > 1:
        weight, bias = weight[order], bias[order]
    if count > 2:
        return _with_last(net, weight, bias)
    # Two classes: scikit-learn has one output, the logit of the second one. Softmax depends on the difference alone.
    if len(bias) == 2:
        return _with_last(net, weight[1:] - weight[:1], bias[1:] - bias[:1])
    sign = np.asarray(1 if order[0] == 0 else -1, bias.dtype)
    return _with_last(net, weight * sign, bias * sign)


def _with_last(net: Layers, weight: Array, bias: Array) -> Layers:
    return net._replace(weights=[*net.weights[:-1], weight], biases=[*net.biases[:-1], bias])
