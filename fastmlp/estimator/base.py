"""What classifier and regressor share: training and predictions by kernels, in the place of scikit-learn's."""

import contextlib
import math
import warnings
from numbers import Integral, Real
from typing import Any, Self, TypeAlias

import numpy as np
from sklearn.base import _fit_context, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.utils import _safe_indexing, shuffle
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, validate_data

from fastmlp import activations, arrays, backend, interrupts, threads
from fastmlp.estimator import solvers
from fastmlp.estimator.run import Run
from fastmlp.estimator.samples import (
    HeldOut,
    Samples,
    Validation,
    check_count,
    check_depth,
    check_width,
    checked_weight,
    logits,
    validated,
)
from fastmlp.estimator.views import Views, joined
from fastmlp.estimator.watching import CallbackSupportMixin, Watch
from fastmlp.kernels.nets import ACTIVATIONS, Net

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Multiply-adds of a forward pass up to which L-BFGS evaluates the loss on one thread: other threads fall asleep while
# SciPy computes between two evaluations, and waking them takes longer than all work.
_ONE_THREAD_WORK = 1 << 21

CONSTRAINTS: dict[str, list[Any]] = {
    "activation": [StrOptions(set(ACTIVATIONS)), "array-like"],
    "callback": [callable, list, tuple, None],
    "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
    "n_threads": [Interval(Integral, 1, None, closed="left"), None],
}


class Trained(CallbackSupportMixin, BaseMultilayerPerceptron):  # type: ignore[misc]
    """A multilayer perceptron of scikit-learn that is trained by kernels.

    It comes before scikit-learn's class among the bases, and replaces its private methods that train and predict. These
    have had the same names and arguments since scikit-learn 1.7, the oldest version that the extra ``sklearn`` allows.
    """

    coefs_: list[Array]
    intercepts_: list[Array]
    validation_loss_curve_: list[float] | None
    _no_improvement_count: int
    _given: tuple[Any, Any, Any] = (None, None, None)  # samples to validate on, during `fit`

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Fit the model to data matrix X and target(s) y.

        Parameters
        ----------
        X : array-like or sparse matrix, shape (n_samples, n_features)
            Samples in rows; float32 trains in float32, everything else in float64.
        y : array-like, shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or numbers of a regression.
        sample_weight : array-like, shape (n_samples,), optional
            Weights, at least 0.
        X_val, y_val, sample_weight_val : array-like, optional
            Samples to validate on after each epoch. With ``early_stopping``, no part of X is then set aside.

        Returns
        -------
        self
            The fitted model.
        """
        if X_val is None and not (y_val is None and sample_weight_val is None):
            raise ValueError("X_val is required with y_val and sample_weight_val.")
        self._given = X_val, y_val, sample_weight_val
        try:
            return self._fit(X, y, sample_weight=sample_weight, incremental=False)
        finally:
            del self._given

    fit = _fit_context(prefer_skip_nested_validation=True)(fit)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_views", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "coefs_" in state:
            self._link()

    def _link(self) -> Views:
        """Make ``coefs_`` and ``intercepts_`` views of one vector, unless they are; return the views."""
        views: Views | None = getattr(self, "_views", None)
        if views is None or not views.are(self.coefs_, self.intercepts_):
            were_best = getattr(self, "_best_coefs", None) is self.coefs_
            self._views = views = joined(self.coefs_, self.intercepts_)
            self.coefs_, self.intercepts_ = list(views.coefs), list(views.intercepts)
            if were_best:
                self._best_coefs, self._best_intercepts = self.coefs_, self.intercepts_
        return views

    def _net(self, sizes: tuple[int, ...], dtype: Any = np.float64) -> Net:
        """Return the net of these widths, whose losses scikit-learn would compute in ``dtype``."""
        activation = self.activation if isinstance(self.activation, str) else tuple(self.activation)
        net = activations.net(sizes, activations.check("activation", activation, len(sizes) - 2), self._loss_name())
        # For scikit-learn, no probability is below the machine epsilon. Losses decide on the steps of L-BFGS, and when
        # training ends.
        return net._replace(most=-math.log(np.finfo(dtype).eps))

    def _loss_name(self) -> str:
        """Return the name of the loss as the kernels have it."""
        raise NotImplementedError

    def _weights(self, y: Array, sample_weight: Array | None) -> Array | None:
        """Return the weights of samples with targets y (m, K), as `_validate_input` returns them; None if all are 1."""
        return checked_weight("sample_weight", sample_weight)

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Self:
        with self._threads():
            fitted: Self = super()._fit(X, y, sample_weight=sample_weight, incremental=incremental)
        return fitted

    def _threads(self, *, few: bool = False) -> contextlib.AbstractContextManager[None]:
        """Return the context of the threads that the user asked for, else of one if ``few`` are worth it."""
        count = self.n_threads
        if count is None and few and backend.get_backend() == "numba":
            count = 1
        if count is None:
            return contextlib.nullcontext()
        return backend.use_threads(backend.launchable("n_threads", count))

    def _initialize(self, y: Array, layer_units: list[int], dtype: Any) -> None:
        super()._initialize(y, layer_units, dtype)
        if not self.early_stopping:
            del self._best_coefs, self._best_intercepts  # nothing reads these copies
        self.validation_loss_curve_ = None

    def _fit_lbfgs(self, X: Any, y: Array, sample_weight: Array | None, *rest: Any) -> None:
        if self._given[0] is not None:
            raise ValueError("X_val is only available for stochastic optimizers. lbfgs is not stochastic.")
        weight = self._weights(y, sample_weight)
        minimized = self._minimized(X, y, weight)
        few = len(y) * minimized[1].vector.size < _ONE_THREAD_WORK
        # SciPy's vectors are short, and BLAS's idle threads would take the cores of the kernels between two evaluations
        # of the loss. The NumPy backend computes in BLAS, and keeps its threads.
        alone = backend.get_backend() == "numba"
        minimize = super()._fit_lbfgs

        def run(caller: interrupts.Caller) -> None:
            self._problem = *minimized, caller
            try:
                with self._threads(few=few), threads.limited_blas(1) if alone else contextlib.nullcontext():
                    minimize(X, y, weight, *rest)
            finally:
                del self._problem

        _, struck = interrupts.converse(run)
        if struck is not None:
            raise struck
        self._link()

    def _minimized(self, X: Any, y: Array, weight: Array | None) -> tuple[Samples, Views, Views]:
        """Return the samples of L-BFGS, and views of parameters and of a gradient, in the dtype of the computation."""
        given = joined(self.coefs_, self.intercepts_)
        dtype = arrays.result_dtype(given.vector, X.dtype)
        parameters, gradient = (Views(given.sizes, given.vector.astype(dtype)) for _ in range(2))
        return Samples(self._net(given.sizes), X, y, weight, dtype), parameters, gradient

    def _loss_grad_lbfgs(
        self, packed: Array, X: Any, y: Array, sample_weight: Array | None, *rest: Any
    ) -> tuple[float, Array]:
        """Return the loss with its penalty and the gradient, for parameters in scikit-learn's order, as its `_pack`."""
        problem = getattr(self, "_problem", None) or (*self._minimized(X, y, sample_weight), interrupts.Caller())
        samples, parameters, slope, caller = problem
        if caller.leaving:
            raise KeyboardInterrupt
        parameters.unpack(packed)
        loss = samples.loss_and_grad(slope.vector, parameters.vector)
        gradient = np.concatenate([one.ravel() for one in (*slope.coefs, *slope.intercepts)])
        decayed = slice(sum(one.size for one in slope.coefs))
        gradient[decayed] += self.alpha / samples.total * packed[decayed]
        squares = float(np.dot(packed[decayed], packed[decayed]))
        return loss + 0.5 * self.alpha * squares / samples.total, gradient

    def _fit_stochastic(self, X: Any, y: Array, sample_weight: Array | None, *rest: Any) -> None:
        incremental = rest[-1]
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = solvers.solver(self)
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        check_depth(rest[-2], self.coefs_)
        check_count(X)
        weight, views = self._weights(y, sample_weight), self._link()
        chosen, validation = self._split(X, y, weight)
        size, net = self._samples_of_batch(len(chosen)), self._net(views.sizes, views.vector.dtype)
        watch = Watch(self, X, lambda: self._decoded(y), self._loss_name(), incremental)
        samples = Samples(net, X, y, weight, views.vector.dtype, minibatches=True)
        run = Run(views, samples, self._optimizer, size, self.alpha, self.clip_norm or 0.0)

        def train(caller: interrupts.Caller) -> str:
            try:
                stopped = self._train(run, chosen, validation, incremental, watch, caller)
            except KeyboardInterrupt:
                stopped = "interrupt"
            finally:
                run.settle()
            if self.early_stopping:
                self.coefs_, self.intercepts_ = self._best_coefs, self._best_intercepts
                self._link()
            return stopped

        with watch.running():
            stopped, struck = interrupts.converse(train)
            if struck is not None and not isinstance(struck, KeyboardInterrupt):
                raise struck
            watch.history.stopped = stopped if struck is None else "interrupt"
            if watch.history.stopped == "interrupt":
                warnings.warn("Training interrupted by user.", stacklevel=2)

    def _split(self, X: Any, y: Array, weight: Array | None) -> tuple[Array, Validation | None]:
        """Return the samples to train on, and those to validate on."""
        everything = np.arange(len(y))
        if self._given[0] is not None:
            return everything, self._validation(*self._check_given(*self._given))
        if not self.early_stopping:
            return everything, None
        # The indices are those of a split of X itself: they depend on the number of samples and on the classes alone.
        stratify = y if is_classifier(self) and self.n_outputs_ == 1 else None
        chosen, others = train_test_split(
            everything, random_state=self._random_state, test_size=self.validation_fraction, stratify=stratify
        )
        if len(others) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        return chosen, self._validation(
            _safe_indexing(X, others), y[others], None if weight is None else weight[others]
        )

    def _check_given(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Array, Array | None]:
        """Return samples to validate on, targets (m, K) as of `_validate_input`, and weights."""
        if y is None:
            raise ValueError("y_val is required with X_val.")
        is_class = is_classifier(self)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=not is_class,
            dtype=(np.float64, np.float32),
            reset=False,
        )
        if sample_weight is not None:
            sample_weight = checked_weight("sample_weight_val", _check_sample_weight(sample_weight, X))
        y = self._encoded(y)
        return X, y.reshape(len(y), -1), sample_weight

    def _encoded(self, y: Array) -> Array:
        """Return targets as of `_validate_input`."""
        return y

    def _decoded(self, y: Array) -> Array:
        """Return targets as scores take them."""
        return y

    def _validation(self, X: Any, y: Array, weight: Array | None) -> Validation:
        views = self._link()
        held_out = HeldOut(self._net(views.sizes), X, y, weight, views.vector.dtype)
        return Validation(X, self._decoded(y), weight, held_out)

    def _samples_of_batch(self, m: int) -> int:
        if self.batch_size == "auto":
            return min(200, m)
        if self.batch_size > m:
            text = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
            warnings.warn(text, stacklevel=2)
        return int(min(self.batch_size, m))

    def _train(
        self,
        run: Run,
        chosen: Array,
        validation: Validation | None,
        incremental: bool,
        watch: Watch,
        caller: interrupts.Caller,
    ) -> str:
        """Train epoch by epoch, as scikit-learn's `_fit_stochastic`; return why it ended."""
        order = np.arange(len(chosen))
        self.n_iter_ = 0
        for _ in range(self.max_iter):
            if self.shuffle:
                order = shuffle(order, random_state=self._random_state)
            watch.begin(caller)
            loss = run.epoch(chosen[order], caller)
            self._record(loss, len(chosen))
            if validation is not None or not watch.is_idle or run.diverged:
                run.settle()
            self._validate(validation)
            watch.record()
            if run.diverged:
                self._warn_of_divergence()
                return "diverged"
            self._optimizer.iteration_ends(self.t_)
            is_done, is_told = self._is_done(), watch.ask(caller)
            if not watch.is_idle:
                self.coefs_, self.intercepts_ = run.taken_up(self.coefs_, self.intercepts_)
            if is_done or is_told or incremental:
                return "patience" if is_done else "callback" if is_told else "epochs"
            if self.n_iter_ == self.max_iter:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization hasn't "
                    "converged yet.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
        return "epochs"

    def _record(self, loss: float, samples: int) -> None:
        """Record an epoch."""
        self.n_iter_ += 1
        self.loss_ = loss
        self.t_ += samples
        self.loss_curve_.append(loss)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {loss:.8f}")  # noqa: T201  # as scikit-learn

    def _validate(self, validation: Validation | None) -> None:
        """Validate, and count epochs without an improvement."""
        if validation is None:
            self._update_no_improvement_count(False, None, None, None)
            return
        loss = validation.held_out.loss(self._views.vector)
        self.validation_loss_curve_ = [*(self.validation_loss_curve_ or ()), loss]
        self._update_no_improvement_count(self.early_stopping, validation.X, validation.y, validation.weight)

    def _is_done(self) -> bool:
        """Return whether training ends because there was no improvement; the learning rate may be reduced instead."""
        if self._no_improvement_count <= self.n_iter_no_change:
            return False
        what = "Validation score" if self.early_stopping else "Training loss"
        text = f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
        if self._optimizer.trigger_stopping(text, self.verbose):
            return True
        self._no_improvement_count = 0
        return False

    def _warn_of_divergence(self) -> None:
        # Without early stopping, scikit-learn's `_fit` raises its error, because the parameters are NaN.
        if self.early_stopping:
            text = (
                f"Stochastic Optimizer: the loss or the weights stopped being finite in iteration {self.n_iter_}; the "
                "model has the weights of the best validation score. Reduce learning_rate_init or scale the data."
            )
            warnings.warn(text, ConvergenceWarning, stacklevel=2)

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> Array:
        """Return the outputs (m, K) of samples X (m, n)."""
        with self._threads():
            return self._outputs(self._logits(X, check_input))

    def _logits(self, X: Any, check_input: bool) -> Array:
        """Return the logits (K, m) of samples X (m, n)."""
        if check_input:
            X = validated(self, X)
        views: Views | None = getattr(self, "_views", None)
        if views is None or not views.are(self.coefs_, self.intercepts_):
            views = joined(self.coefs_, self.intercepts_)  # not linked: the arrays are the user's
        check_width(views.sizes, X)
        parameters = views.vector.astype(arrays.result_dtype(views.vector, X.dtype), copy=False)
        return logits(parameters, self._net(views.sizes), X)

    def _outputs(self, z: Array) -> Array:
        """Return the outputs (m, K) for logits z (K, m)."""
        raise NotImplementedError
