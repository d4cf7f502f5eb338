"""scikit-learn's MLPRegressor, trained by kernels."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from sklearn.neural_network import MLPRegressor as _SklearnRegressor
from sklearn.utils._param_validation import StrOptions

from fastmlp.estimator.base import CONSTRAINTS, Trained
from fastmlp.quiet import quietly

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_LOSSES = {"squared_error", "poisson", "absolute_error", "huber"}


class MLPRegressor(Trained, _SklearnRegressor):  # type: ignore[misc]
    """Multilayer perceptron for regression: scikit-learn's `MLPRegressor`, trained by the kernels of fastmlp.

    The same arguments give the same coefficients, up to rounding.

    Parameters
    ----------
    loss, hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, \
    max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As in scikit-learn. ``loss`` may also be "absolute_error" or "huber", which is half the squared error up to a
        residual of 1 and grows linearly from there; ``activation`` may also be "leaky_relu" or "gelu", or a sequence of
        one name for each hidden layer.
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
    All other attributes are scikit-learn's. With several outputs, the loss that is reported is the mean over them, but
    the gradient is that of the sum, as in scikit-learn. A fit that diverges ends at once, sample weights must not be
    negative, and neither must targets of the Poisson loss.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.estimator import MLPRegressor
    >>> X = np.linspace(-1, 1, 200).reshape(-1, 1)
    >>> model = MLPRegressor(loss="huber", activation="tanh", solver="lbfgs", random_state=0).fit(X, X[:, 0] ** 2)
    >>> bool(model.score(X, X[:, 0] ** 2) > 0.99)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **_SklearnRegressor._parameter_constraints,
        **CONSTRAINTS,
        "loss": [StrOptions(_LOSSES)],
    }

    def __init__(
        self,
        loss: str = "squared_error",
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
        clip_norm: float | None = None,
        callback: Callable[..., bool | None] | Sequence[Callable[..., bool | None]] | None = None,
        n_threads: int | None = None,
    ) -> None:
        super().__init__(
            loss,
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
        self.clip_norm = clip_norm
        self.callback = callback
        self.n_threads = n_threads

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array]:
        X, y = super()._validate_input(X, y, incremental, reset)
        return X, self._encoded(y)

    def _loss_name(self) -> str:
        return str(self.loss)

    def _encoded(self, y: Array) -> Array:
        if y.dtype.kind not in "fiub":
            raise ValueError(f"y must be numbers, got an array of dtype {y.dtype}. Convert it, as by y.astype(float).")
        if self.loss == "poisson" and (y < 0).any():
            raise ValueError("loss='poisson' requires non-negative y.")
        return y

    def _outputs(self, z: Array) -> Array:
        outputs = np.ascontiguousarray(z.T)
        return quietly(np.exp, outputs, out=outputs) if self.out_activation_ == "exp" else outputs
