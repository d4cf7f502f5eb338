"""scikit-learn's MLPClassifier, trained by kernels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from sklearn.neural_network import MLPClassifier as _SklearnClassifier
from sklearn.neural_network._base import ACTIVATIONS
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import unique_labels

from fastmlp import backend, losses
from fastmlp.estimator.base import CONSTRAINTS, Trained

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class MLPClassifier(Trained, _SklearnClassifier):  # type: ignore[misc]
    """Multilayer perceptron for classification: scikit-learn's `MLPClassifier`, trained by the kernels of fastmlp.

    The same arguments give the same coefficients, up to rounding.

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
    shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As in scikit-learn. ``activation`` may also be "leaky_relu" or "gelu", or a sequence of one name for each
        hidden layer.
    class_weight : dict, list of dict or "balanced", optional
        Weights of the classes, which multiply those of their samples; "balanced" weights each class by the inverse of
        its frequency. A list has a dict for each output of a multilabel problem.
    clip_norm : float, optional
        Scale a gradient whose norm is larger down to this norm. Only used when solver="sgd" or "adam".
    callback : callable or list or tuple of callable, optional
        Called as ``callback(estimator)`` after each iteration, or those of `fastmlp.callbacks` as
        ``callback(epoch, history)``; training ends if any returns a true value. Only used when solver="sgd" or "adam",
        and so are the callbacks of scikit-learn, from its version 1.9 on: ``estimator.set_callbacks(ProgressBar())``.
    n_threads : int, optional
        Threads of fit and of predictions; by default those of `fastmlp.set_num_threads`.

    Attributes
    ----------
    validation_loss_curve_ : list of float or None
        The loss, without the penalty, of the validation samples after each iteration, if there are any.
    coefs_, intercepts_ : list of ndarray
        As in scikit-learn: (n_in, n_out) and (n_out,) for each layer. They are views of one vector, in the order that
        `fastmlp.MLP.parameters` has.

    Notes
    -----
    All other attributes are scikit-learn's. What differs:

    - The loss is computed from the logits, and not from rounded probabilities. As in scikit-learn, no probability
      counts as less than the machine epsilon.
    - A batch of samples whose weights are all 0 is passed over; scikit-learn divides by 0.
    - A fit that diverges ends at once, and not after ``max_iter`` iterations, with scikit-learn's error or, with early
      stopping, a warning.
    - Sample weights must not be negative.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastmlp.estimator import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> MLPClassifier(max_iter=500, random_state=0, class_weight="balanced").fit(X, y).predict(X[::50])
    array([0, 1, 2])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_SklearnClassifier._parameter_constraints,
        **CONSTRAINTS,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        class_weight: Mapping[Any, float] | Sequence[Mapping[Any, float]] | str | None = None,
        clip_norm: float | None = None,
        callback: Callable[..., bool | None] | Sequence[Callable[..., bool | None]] | None = None,
        n_threads: int | None = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            power_t=power_t,
            max_iter=max_iter,
            shuffle=shuffle,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
            max_fun=max_fun,
        )
        self.class_weight = class_weight
        self.clip_norm = clip_norm
        self.callback = callback
        self.n_threads = n_threads

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Self:
        if incremental and isinstance(self.class_weight, str):
            # As scikit-learn's linear classifiers: the frequencies of a batch are not those of all samples.
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit. In order to use 'balanced' weights, use "
                "compute_class_weight('balanced', classes=classes, y=y). Pass the resulting weights as the "
                "class_weight parameter."
            )
        return super()._fit(X, y, sample_weight, incremental)

    def _loss_name(self) -> str:
        return "cross_entropy" if self.out_activation_ == "softmax" else "logistic"

    def _weights(self, y: Array, sample_weight: Array | None) -> Array | None:
        weight = super()._weights(y, sample_weight)
        if self.class_weight is None:
            return weight
        of_classes: Array = compute_sample_weight(self.class_weight, self._decoded(y))
        return super()._weights(y, of_classes if weight is None else weight * of_classes)

    def _encoded(self, y: Array) -> Array:
        unseen = np.setdiff1d(unique_labels(y), self.classes_)
        if len(unseen):
            raise ValueError(f"`y_val` has classes not in `self.classes_`. `self.classes_` has {self.classes_}.")
        encoded: Array = self._label_binarizer.transform(y)
        return encoded

    def _decoded(self, y: Array) -> Array:
        labels: Array = self._label_binarizer.inverse_transform(y)
        return labels

    def _predict(self, X: Any, check_input: bool = True) -> Array:
        if self.out_activation_ != "softmax":
            predicted: Array = super()._predict(X, check_input)
            return predicted
        # The largest logit has the largest probability. Of a few samples, scikit-learn's way from probabilities to
        # labels takes longer than all products.
        with self._threads():
            labels: Array = self.classes_[losses.labels(self._logits(X, check_input))]
        return labels

    def _outputs(self, z: Array) -> Array:
        if self.out_activation_ == "logistic":
            outputs = np.ascontiguousarray(z.T)
            ACTIVATIONS["logistic"](outputs)
            return outputs
        probabilities, kernels = np.empty_like(z), backend.kernels()
        kernels.softmax_columns(probabilities, z)
        return np.ascontiguousarray(probabilities.T)
