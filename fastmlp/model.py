"""The multilayer perceptron: one flat parameter vector, its views, loss, gradient and predictions."""

from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import backend, checks, training
from fastmlp.training import Callback, History

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class MLP:
    """A multilayer perceptron with ReLU hidden layers, softmax output and cross-entropy loss.

    All weights and biases live in one contiguous vector, in the order W1, b1, W2, b2, ...; `weights` and `biases` are
    views of it, and a gradient is a vector of the same form. So an update is one pass, and
    ``scipy.optimize.minimize(jac=True)`` works as it is.

    Parameters
    ----------
    layer_sizes : sequence of int
        Widths from input to output, at least two: ``(784, 128, 10)`` is the notebook's net. Without a hidden layer
        it is multinomial logistic regression.
    dtype : {"float64", "float32"}
        What it computes in.
    seed : int or None
        Weights are uniform in [-0.5, 0.5) and biases zero. They are what the notebook draws after
        ``np.random.seed(seed)`` with ``np.random.rand(n_out, n_in) - 0.5``, layer by layer. None draws afresh.

    Raises
    ------
    ValueError
        If there are fewer than two widths, one is below 1, or the dtype or the seed is another.
    TypeError
        If a width or the seed is not an integer.

    Examples
    --------
    >>> import fastmlp
    >>> model = fastmlp.MLP((784, 128, 10), seed=0)
    >>> model.parameters.shape, model.weights[1].shape, model.biases[1].shape
    ((101770,), (10, 128), (10, 1))
    """

    def __init__(self, layer_sizes: Sequence[int], dtype: str = "float64", seed: int | None = 0) -> None:
        self._layer_sizes = checks.layer_sizes("layer_sizes", layer_sizes)
        size = sum(n_out * (n_in + 1) for n_in, n_out in pairwise(self._layer_sizes))
        self._parameters = np.zeros(size, checks.float_dtype("dtype", dtype))
        # The legacy generator: its stream is frozen for ever, and it is the one that the notebook draws from.
        generator = np.random.RandomState(checks.seed("seed", seed))
        for weight in self.weights:
            weight[...] = generator.random_sample(weight.shape) - 0.5

    def __repr__(self) -> str:
        return f"MLP({self._layer_sizes}, dtype='{self.dtype}')"

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """The widths from input to output."""
        return self._layer_sizes

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters, gradients and probabilities."""
        return self._parameters.dtype

    @property
    def parameters(self) -> Array:
        """The flat vector of all weights and biases; assignment copies into it."""
        return self._parameters

    @parameters.setter
    def parameters(self, value: ArrayLike) -> None:
        given = checks.array("parameters", value, shape=self._parameters.shape, axes="(n_parameters,)")
        self._parameters[...] = given

    # Views are made when asked for and never stored: so they follow the vector of a copy, an unpickled model or a
    # model in another process.
    @property
    def weights(self) -> tuple[Array, ...]:
        """Views of the weights, (n_out, n_in) for each layer."""
        return _weights(self._parameters, self._layer_sizes)

    @property
    def biases(self) -> tuple[Array, ...]:
        """Views of the biases, (n_out, 1) for each layer."""
        return _biases(self._parameters, self._layer_sizes)

    def loss_and_grad(
        self, X: ArrayLike, Y: ArrayLike, sample_weight: ArrayLike | None = None, out: Array | None = None
    ) -> tuple[float, Array]:
        """Compute the weighted mean cross-entropy and its gradient by all parameters.

        loss = sum_i w_i sum_k Y_ki (logsumexp(Z_i) - Z_ki) / sum_i w_i, from the logits Z, so it is exact also where
        a probability underflows.

        Parameters
        ----------
        X : array_like of float, shape (n_features, m)
            Samples as columns.
        Y : array_like, shape (m,) or (n_classes, m)
            Integer labels, or one-hot or soft targets.
        sample_weight : array_like of float, shape (m,), optional
            Weights w >= 0 with a positive sum; 1 if not given. Weight 2 counts a sample twice, weight 0 not at all.
        out : ndarray, shape (n_parameters,), optional
            Takes the gradient; must have the model's dtype and memory of its own.

        Returns
        -------
        loss : float
            The mean loss.
        grad : ndarray, shape (n_parameters,)
            Its gradient, laid out like `parameters`; ``out`` if that was given.

        Raises
        ------
        ValueError
            If shapes do not fit, an array is empty, labels or weights are out of range, or ``out`` cannot be written.
        TypeError
            If an array does not hold real numbers.

        Examples
        --------
        >>> import fastmlp
        >>> model = fastmlp.MLP((1, 2))
        >>> model.parameters = [0.0, 0.0, 0.0, 0.0]
        >>> loss, grad = model.loss_and_grad([[2.0]], [1])
        >>> round(loss, 4), grad
        (0.6931, array([ 1. , -1. ,  0.5, -0.5]))
        """
        x, y, w = self._samples(X, Y, sample_weight)
        grad = np.empty_like(self._parameters)
        if out is not None:
            grad = checks.gradient_buffer("out", out, self._parameters)
        loss, _ = self._step(grad, x, y, w)
        return loss, grad

    def fit(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        epochs: int = 100,
        alpha: float = 0.1,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        sample_weight: ArrayLike | None = None,
        callback: Callback | None = None,
    ) -> History:
        """Train by full-batch gradient descent, the notebook's loop exactly.

        Starts from the current parameters, so a second call goes on from the first. Ctrl-C ends the training within
        an epoch and leaves the model usable.

        Parameters
        ----------
        X : array_like of float, shape (n_features, m)
            Samples as columns.
        Y : array_like, shape (m,) or (n_classes, m)
            Integer labels, or one-hot or soft targets.
        epochs : int
            Number of steps, at least 1.
        alpha : float
            Step size >= 0.
        validation : tuple of array_like, optional
            ``(X, Y)`` to evaluate after each epoch.
        sample_weight : array_like of float, shape (m,), optional
            As in `loss_and_grad`.
        callback : callable, optional
            Called as ``callback(epoch, history)`` after each epoch; a true answer ends the training.

        Returns
        -------
        History
            Loss, accuracy and seconds of each epoch.

        Raises
        ------
        ValueError
            As `loss_and_grad`; if epochs is below 1 or alpha negative or not finite.
        TypeError
            If an array does not hold real numbers or epochs is not an integer.
        FloatingPointError
            If the loss or the parameters stop being finite; the model then holds the last finite parameters.

        Examples
        --------
        >>> import fastmlp
        >>> model = fastmlp.MLP((2, 4, 2), seed=0)
        >>> history = model.fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], epochs=200, alpha=0.5)
        >>> model.predict([[0.0, 1.0], [1.0, 0.0]])
        array([0, 1])
        """
        epochs = checks.epochs("epochs", epochs)
        alpha = float(checks.learning_rate("alpha", alpha, negative=False))
        x, y, w = self._samples(X, Y, sample_weight)
        validate = None
        if validation is not None:
            xv, yv, wv = self._samples(*validation, names=("validation X", "validation Y"))

            def validate() -> dict[str, float]:
                return self._evaluate(xv, yv, wv)

        return training.descend(
            self._parameters,
            lambda grad: self._step(grad, x, y, w),
            epochs=epochs,
            alpha=alpha,
            validate=validate,
            callback=callback,
        )

    def predict(self, X: ArrayLike) -> Array:
        """Predict the label of each sample: the row of its largest logit.

        Parameters
        ----------
        X : array_like of float, shape (n_features, m)
            Samples as columns.

        Returns
        -------
        ndarray of int64, shape (m,)
            Labels from 0 to n_classes - 1.

        Raises
        ------
        ValueError
            If X does not fit the input width or is empty.
        TypeError
            If X does not hold real numbers.

        Examples
        --------
        >>> import fastmlp
        >>> fastmlp.MLP((1, 2), seed=0).predict([[1.0, -1.0]])
        array([1, 0])
        """
        with backend.Session() as kernels:
            logits, _, _ = self._forward(kernels, self._input("X", X))
        labels: Array = np.argmax(logits, axis=0).astype(np.int64)
        return labels

    def predict_proba(self, X: ArrayLike) -> Array:
        """Predict the probability of each class for each sample.

        Parameters
        ----------
        X : array_like of float, shape (n_features, m)
            Samples as columns.

        Returns
        -------
        ndarray of the model's dtype, shape (n_classes, m)
            Probabilities; each column sums to 1.

        Raises
        ------
        ValueError
            If X does not fit the input width or is empty.
        TypeError
            If X does not hold real numbers.

        Examples
        --------
        >>> import fastmlp
        >>> fastmlp.MLP((1, 2), seed=0).predict_proba([[0.0]])
        array([[0.5],
               [0.5]])
        """
        with backend.Session() as kernels:
            z, _, _ = self._forward(kernels, self._input("X", X))
            probabilities = np.empty_like(z)
            kernels.softmax_columns(probabilities, z)
            return probabilities

    def evaluate(self, X: ArrayLike, Y: ArrayLike) -> dict[str, float]:
        """Compute mean loss and accuracy.

        Parameters
        ----------
        X : array_like of float, shape (n_features, m)
            Samples as columns.
        Y : array_like, shape (m,) or (n_classes, m)
            Integer labels, or one-hot or soft targets; a prediction is right where it stands on a largest target.

        Returns
        -------
        dict of str to float
            ``{"loss": ..., "accuracy": ...}``.

        Raises
        ------
        ValueError
            As `loss_and_grad`.
        TypeError
            If an array does not hold real numbers.

        Examples
        --------
        >>> import fastmlp
        >>> fastmlp.MLP((1, 2), seed=0).evaluate([[1.0, -1.0]], [1, 1])["accuracy"]
        0.5
        """
        return self._evaluate(*self._samples(X, Y))

    def _input(self, name: str, X: ArrayLike) -> Array:
        x = checks.array(name, X, shape=(self._layer_sizes[0], None), axes="(n_features, m)")
        return checks.multipliable(self.dtype, x)

    def _samples(
        self, X: ArrayLike, Y: ArrayLike, weight: ArrayLike | None = None, names: tuple[str, str] = ("X", "Y")
    ) -> tuple[Array, Array, Array]:
        """Check, and return X (n, m), targets (C, m) and weights (m,) in the model's dtype."""
        x = self._input(names[0], X)
        classes, m = self._layer_sizes[-1], x.shape[1]
        y = checks.targets(names[1], Y, classes, m)
        if y.ndim == 1:
            encoded = np.empty((classes, m), self.dtype)
            with backend.Session() as kernels:
                kernels.one_hot(encoded, y)
            y = encoded
        w = np.ones(m) if weight is None else checks.sample_weight("sample_weight", weight, m)
        y, w = checks.contiguous(self.dtype, y, w)
        return x, y, w

    def _forward(self, kernels: ModuleType, x: Array) -> tuple[Array, list[Array], list[Array]]:
        """Return the logits (C, m), and of each hidden layer the activations (h, m) and the mask of its ReLU."""
        activations: list[Array] = []
        masks: list[Array] = []
        a = x
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            z = np.empty((len(weight), x.shape[1]), self.dtype)
            mask = np.empty(z.shape, np.bool_)
            kernels.product(z, weight, a)
            kernels.relu_mask(z, z, mask, bias)
            a = z
            activations.append(a)
            masks.append(mask)
        logits = np.empty((self._layer_sizes[-1], x.shape[1]), self.dtype)
        kernels.product(logits, self.weights[-1], a)
        kernels.bias_add(logits, self.biases[-1])
        return logits, activations, masks

    def _step(self, grad: Array, x: Array, y: Array, w: Array) -> tuple[float, float]:
        """Write the gradient; return loss and accuracy. Each is a weighted sum divided by the sum of the weights."""
        total = float(np.sum(w, dtype=np.float64))
        with backend.Session() as kernels:
            logits, activations, masks = self._forward(kernels, x)
            dz, loss, hit = np.empty_like(logits), np.empty_like(w), np.empty_like(w)
            kernels.softmax_cross_entropy_grad(dz, loss, hit, logits, y, w)
            dweights, dbiases = _weights(grad, self._layer_sizes), _biases(grad, self._layer_sizes)
            inputs = [x, *activations]
            for layer in reversed(range(len(inputs))):
                kernels.product(dweights[layer], dz, inputs[layer].T)
                kernels.bias_sum(dbiases[layer], dz)
                if layer > 0:
                    da = np.empty_like(inputs[layer])
                    kernels.product(da, self.weights[layer].T, dz)
                    kernels.relu_backward(da, masks[layer - 1])
                    dz = da
            np.divide(grad, total, out=grad)
            return _mean(loss, total), _mean(hit, total)

    def _evaluate(self, x: Array, y: Array, w: Array) -> dict[str, float]:
        total = float(np.sum(w, dtype=np.float64))
        with backend.Session() as kernels:
            logits, _, _ = self._forward(kernels, x)
            loss, hit = np.empty_like(w), np.empty_like(w)
            kernels.softmax_cross_entropy_grad(np.empty_like(logits), loss, hit, logits, y, w)
            return {"loss": _mean(loss, total), "accuracy": _mean(hit, total)}


def _weights(vector: Array, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(vector[at : at + n_out * n_in].reshape(n_out, n_in) for at, n_in, n_out in _layers(sizes))


def _biases(vector: Array, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(
        vector[at + n_out * n_in : at + n_out * (n_in + 1)].reshape(n_out, 1) for at, n_in, n_out in _layers(sizes)
    )


def _layers(sizes: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Return (offset into the flat vector, n_in, n_out) of each layer."""
    layers, at = [], 0
    for n_in, n_out in pairwise(sizes):
        layers.append((at, n_in, n_out))
        at += n_out * (n_in + 1)
    return layers


def _mean(values: Array, total: float) -> float:
    return float(np.sum(values, dtype=np.float64)) / total
