"""The multilayer perceptron: one flat parameter vector, its views, loss, gradient and predictions."""

from __future__ import annotations

import functools
import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import (
    activations,
    advice,
    arrays,
    backend,
    callbacks,
    checks,
    companion,
    distributed,
    encoding,
    evaluation,
    frames,
    losses,
    methods,
    parameters,
    storage,
    summary,
    targets,
    training,
)  # fmt: skip
from fastmlp.callbacks import Together, Watcher
from fastmlp.checkpoint import Checkpoint
from fastmlp.encoding import Encoder
from fastmlp.history import History, TrainingWarning
from fastmlp.interchange.methods import Interchange
from fastmlp.kernels.nets import Net
from fastmlp.kernels.scores import of_sums
from fastmlp.methods import Optimizer, Schedule
from fastmlp.packing import Input, PackedMatrix
from fastmlp.samples import Samples, check_input, check_weight
from fastmlp.stopping import EarlyStopping
from fastmlp.summary import Layers
from fastmlp.teams import Team

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_DEFAULT_INIT = "glorot"


class MLP(Interchange):
    """A multilayer perceptron; by default with ReLUs, and with softmax output and cross-entropy loss for classes.

    All weights and biases are stored in one contiguous vector, in the order W1, b1, W2, b2, ...; `weights` and `biases`
    are views of it, and a gradient is a vector of the same form. An update is therefore one pass, and
    ``scipy.optimize.minimize(jac=True)`` can be used directly.

    Parameters
    ----------
    layer_sizes : sequence of int
        Widths from input to output, at least two: ``(784, 128, 10)`` is the notebook's net. A net without hidden
        layers is multinomial logistic regression.
    dtype : {"float64", "float32"}
        The dtype of parameters, gradients and probabilities.
    seed : int or None
        Seed of the initial weights; None draws different ones each time.
    init : {"glorot", "he", "notebook", "sklearn"}
        How weights are drawn, layer by layer: from U[-a, a) with

        - ``"glorot"``: a = sqrt(6 / (n_in + n_out)) [1]_;
        - ``"he"``: a = sqrt(6 / n_in), a variance of 2 / n_in, for deep ReLU nets [2]_;
        - ``"notebook"``: a = 0.5, the numbers of ``np.random.rand(n_out, n_in) - 0.5`` after ``np.random.seed(seed)``.
          These weights kill the ReLUs of nets with more than one wide hidden layer;
        - ``"sklearn"``: a as for ``"glorot"``, the numbers of scikit-learn's MLPs of the same widths and dtype with
          ``random_state=seed``, bit for bit on the same machine [3]_.

        Biases are zero, or with ``"sklearn"`` drawn from the same U[-a, a), as scikit-learn does. There, a is
        sqrt(2 / (n_in + n_out)) if all hidden layers are logistic.
    activation : str or sequence of str
        One activation g for all hidden layers, or one for each:

        - ``"identity"``: z;
        - ``"logistic"``: 1 / (1 + exp(-z));
        - ``"tanh"``: tanh(z);
        - ``"relu"``: max(0, z);
        - ``"leaky_relu"``: z if z > 0, else 0.01 z, as torch has it;
        - ``"gelu"``: z Phi(z), with Phi the distribution function of the standard normal distribution [4]_.
    loss : str
        The loss of a sample with outputs z and targets y, from which follows what `predict` returns; a sum over the
        outputs k. The first two are for classes:

        - ``"cross_entropy"``: one class of several, logsumexp(z) - z_k with k the class; softmax probabilities;
        - ``"logistic"``: independent labels 0 and 1, log(1 + exp(z_k)) - y_k z_k; one output is a binary
          classification, several are labels of which any number may be 1; probabilities 1 / (1 + exp(-z_k));
        - ``"squared_error"``: r_k^2 / 2 with r = z - y;
        - ``"absolute_error"``: abs(r_k);
        - ``"huber"``: r_k^2 / 2 if abs(r_k) <= 1, else abs(r_k) - 1 / 2, as torch has it;
        - ``"poisson"``: counts y >= 0 with mean exp(z_k), exp(z_k) - y_k - y_k (z_k - log y_k), half the deviance.

    Raises
    ------
    ValueError
        If there are fewer than 2 or more than 10001 widths, if a width is not from 1 to 2**31 - 1, if the dtype, the
        seed, the initialisation, an activation or the loss is not one of those above, or if there are not as many
        activations as hidden layers.
    TypeError
        If a width or the seed is not an integer, or the activation neither a name nor a sequence.

    References
    ----------
    .. [1] X. Glorot and Y. Bengio, Understanding the difficulty of training deep feedforward neural networks, AISTATS
       2010, equation 16.
    .. [2] K. He, X. Zhang, S. Ren and J. Sun, Delving deep into rectifiers, ICCV 2015, equation 10; uniform instead of
       normal, with the same variance, for the same bits on all machines.
    .. [3] scikit-learn, sklearn/neural_network/_multilayer_perceptron.py, ``_init_coef``.
    .. [4] D. Hendrycks and K. Gimpel, Gaussian error linear units (GELUs), arXiv 1606.08415, section 2.

    Examples
    --------
    >>> import fastmlp
    >>> fastmlp.MLP((784, 128, 64, 10), activation=("tanh", "gelu"))
    MLP((784, 128, 64, 10), dtype='float64', activation=('tanh', 'gelu'))
    >>> regression = fastmlp.MLP((1, 1), loss="squared_error")
    >>> history = regression.fit([[0.0, 1.0, 2.0]], [1.0, 3.0, 5.0], epochs=200, alpha=0.5)
    >>> regression.predict([[3.0]]).round(6)
    array([7.])
    >>> model = fastmlp.MLP((784, 128, 10), seed=0)
    >>> model.parameters.shape, model.weights[1].shape, model.biases[1].shape
    ((101770,), (10, 128), (10, 1))
    """

    # Of models that were pickled before there was a choice.
    _activation: activations.Activation = activations.DEFAULT
    _loss: str = losses.DEFAULT

    def __init__(
        self,
        layer_sizes: Sequence[int],
        dtype: str = "float64",
        seed: int | None = 0,
        init: str = _DEFAULT_INIT,
        activation: str | Sequence[str] = activations.DEFAULT,
        loss: str = losses.DEFAULT,
    ) -> None:
        self._layer_sizes = checks.layer_sizes("layer_sizes", layer_sizes)
        kind = checks.float_dtype("dtype", dtype)
        companion.expect(kind.name)
        self._seed = checks.seed("seed", seed)
        self._init = checks.choice("init", init, parameters.INITIALISATIONS)
        self._activation = activations.check("activation", activation, len(self._layer_sizes) - 2)
        self._loss = losses.check("loss", loss)
        of_all = activations.written(self._activation)
        self._parameters = parameters.draw(self._layer_sizes, kind, self._seed, self._init, of_all)
        self._notes: dict[str, str] = {}

    def __repr__(self) -> str:
        init = "" if self._init == _DEFAULT_INIT else f", init='{self._init}'"
        activation = "" if self._activation == activations.DEFAULT else f", activation={self._activation!r}"
        loss = "" if self._loss == losses.DEFAULT else f", loss='{self._loss}'"
        return f"MLP({self._layer_sizes}, dtype='{self.dtype}'{init}{activation}{loss})"

    def _repr_html_(self) -> str:
        return summary.as_html(self._described())

    def summary(self) -> str:
        """Return the layers as a text table: shapes, parameters, activations and memory.

        Returns
        -------
        str
            A line for the model, the table, and the sums. The activation of the last layer is the one of `predict` or
            `predict_proba`. The memory is that of the parameters; training with gradients and optimizer takes more.

        Examples
        --------
        >>> import fastmlp
        >>> print(fastmlp.MLP((784, 128, 10)).summary())
        MLP((784, 128, 10), dtype='float64')
        layer      weight      bias  parameters  activation     memory
            1  (128, 784)  (128, 1)     100,480        relu  785.0 KiB
            2   (10, 128)   (10, 1)       1,290     softmax   10.1 KiB
        101,770 parameters, 795.1 KiB; loss: cross-entropy
        """
        return summary.text(self._described())

    def _described(self) -> Layers:
        return Layers(self._layer_sizes, self.dtype.itemsize, self._activation, self._loss, repr(self))

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
        """The flat vector of all weights and biases; an assignment copies into it."""
        return self._parameters

    @parameters.setter
    def parameters(self, value: ArrayLike) -> None:
        given = checks.array(
            "parameters",
            value,
            shape=self._parameters.shape,
            axes="(n_parameters,)",
            remedy="pass a vector as long as model.parameters",
        )
        (self._parameters[...],) = arrays.contiguous(self.dtype, given)

    @property
    def seed(self) -> int | None:
        """The seed of the initial weights."""
        return self._seed

    @property
    def init(self) -> str:
        """How the initial weights were drawn."""
        return self._init

    @property
    def activation(self) -> str | tuple[str, ...]:
        """The activation of all hidden layers, or a tuple of one for each if they differ."""
        return self._activation

    @property
    def loss(self) -> str:
        """The name of the loss."""
        return self._loss

    @property
    def notes(self) -> dict[str, str]:
        """Texts that are saved with the model, such as how to scale inputs; assign a mapping of str to str."""
        return dict(self._notes)

    @notes.setter
    def notes(self, value: Mapping[str, str]) -> None:
        self._notes = checks.notes("notes", value)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the columns of the frame that the model learnt from; saved with it, none without a frame."""
        return encoding.names(self._notes)

    @property
    def encoder(self) -> Encoder | None:
        """What encodes the rows of frames, saved with the model: see `fastmlp.preprocessing.fit`; None if nothing does.

        A frame then holds raw rows, wherever X may be a frame. Arrays are taken as they are; a packed frame is refused.
        """
        return encoding.of_model(self._notes, self._layer_sizes[0])

    @encoder.setter
    def encoder(self, value: Encoder) -> None:
        if not isinstance(value, Encoder):
            expected, remedy = "an encoder", "pass what fastmlp.preprocessing.fit(frame) returns"
            raise TypeError(checks.message("encoder", type(value).__name__, expected, remedy))
        if value.width != self._layer_sizes[0]:
            got, remedy = f"{value.width} inputs", "make the model with layer_sizes=(encoder.width, ...)"
            raise ValueError(checks.message("encoder", got, f"{self._layer_sizes[0]}, as the model", remedy))
        others = {name: note for name, note in self._notes.items() if name not in encoding.NOTES}
        self.notes = others | value.notes()

    # Views are made at each access and never stored, so that they follow the vector of a copy, of an unpickled model or
    # of a model in another process.
    @property
    def weights(self) -> tuple[Array, ...]:
        """Views of the weights, (n_out, n_in) for each layer."""
        return tuple(weight for weight, _ in parameters.layers(self._parameters, self._layer_sizes))

    @property
    def biases(self) -> tuple[Array, ...]:
        """Views of the biases, (n_out, 1) for each layer."""
        return tuple(bias.reshape(-1, 1) for _, bias in parameters.layers(self._parameters, self._layer_sizes))

    def loss_and_grad(
        self,
        X: Input,
        Y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        out: Array | None = None,
    ) -> tuple[float, Array]:
        """Compute the weighted mean loss and its gradient with respect to all parameters.

        Of the cross-entropy, loss = sum_i w_i sum_k Y_ki (logsumexp(Z_i) - Z_ki) / sum_i w_i; computed from the logits
        Z, it is exact even if a probability underflows, and so are the other losses. Values of X and Y other than
        labels are not checked: NaN, infinity and negative targets reach the result as they do in NumPy, whereas `fit`
        and `evaluate` refuse them.

        Parameters
        ----------
        X : array_like of float, sparse matrix of SciPy or PackedMatrix, shape (n_features, m)
            Samples as columns; or a data frame of pandas or polars, with samples as rows.
        Y : array_like, shape (m,) or (n_outputs, m)
            For the cross-entropy integer labels, or one-hot or soft targets; for the other losses a target for each
            output, also as (m,) if there is one. A frame has a column for each output instead.
        sample_weight : array_like of float, shape (m,), optional
            Weights w >= 0 with a positive sum; 1 if not given. A sample of weight 2 counts twice, of weight 0 not at
            all.
        out : ndarray, shape (n_parameters,), optional
            Array for the gradient; must have the model's dtype and its own memory.

        Returns
        -------
        loss : float
            The mean loss.
        grad : ndarray, shape (n_parameters,)
            Its gradient, laid out like `parameters`; ``out`` if given.

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
        samples = self._samples(X, Y, sample_weight, finite=False)
        grad = np.empty_like(self._parameters) if out is None else checks.gradient_buffer("out", out, self._parameters)
        loss, _ = self._step(grad, samples)
        return loss, grad

    def fit(
        self,
        X: Input,
        Y: ArrayLike,
        epochs: int = 100,
        alpha: float | Schedule | None = None,
        validation: tuple[Input, ArrayLike] | None = None,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | ArrayLike | None = None,
        patience: int | None = None,
        min_delta: float = 0.0,
        callback: Watcher | Sequence[Watcher] | None = None,
        checkpoint: storage.PathName | None = None,
        checkpoint_every: float = 10.0,
        resume: bool = False,
        progress: bool | None = None,
        optimizer: Optimizer | None = None,
        batch_size: int | None = None,
        shuffle: str | bool | None = None,
        l2: float = 0.0,
        clip_norm: float | None = None,
        comm: Any = None,
    ) -> History:
        """Train; by default by full-batch gradient descent, the notebook's loop exactly.

        Training starts from the current parameters, so a second call continues the first, but with a fresh state of the
        optimizer and the batches of the first epochs. Ctrl-C ends it after the current epoch, or with minibatches after
        a few updates. The model then holds the parameters after the last update, and the history of the complete epochs
        is returned as always.

        Parameters
        ----------
        X : array_like of float, sparse matrix of SciPy or PackedMatrix, shape (n_features, m)
            Samples as columns, also in a packed file; or a data frame of pandas or polars, with samples as rows.
        Y : array_like, shape (m,) or (n_outputs, m)
            As in `loss_and_grad`, and finite. Targets of ``"logistic"`` are from 0 to 1, those of ``"poisson"`` >= 0.
        epochs : int
            Number of passes over the samples, at least 1, including those before a resumption.
        alpha : float or callable, optional
            Step size >= 0 of gradient descent, or a function that returns it for the epoch, from 1; 0.1 by default. An
            optimizer has its own.
        validation : tuple of array_like, optional
            ``(X, Y)`` to evaluate after each epoch.
        sample_weight : array_like of float, shape (m,), optional
            As in `loss_and_grad`.
        class_weight : mapping of int to float, or array_like of float, shape (n_classes,), optional
            Weight of each label, 1 if the mapping lacks it; multiplies ``sample_weight``. A soft target gets the mean
            of its classes' weights. One logistic output has the classes 0 and 1; a regression has none.
        patience : int, optional
            Number of epochs in a row without a fall of the validation loss by more than ``min_delta``, after which
            training ends. However it ends, the model then holds the parameters of the lowest validation loss.
        min_delta : float
            See ``patience``.
        callback : callable or sequence of callable, optional
            Called as ``callback(epoch, history)`` after each epoch; training ends if it returns a true value. Those of
            a list or tuple are called in turn. See `fastmlp.callbacks`, also for ready ones.
        checkpoint : str or path-like, optional
            File for the state of the run, written at the end and every ``checkpoint_every`` seconds, with minibatches
            also within an epoch. It is replaced atomically: a kill or a power cut leaves the old or the new file.
            `load` reads it.
        checkpoint_every : float
            Seconds from one write to the next; 0 writes after each epoch.
        resume : bool
            Continue from the checkpoint, and end with the bits of an uninterrupted run on the same backend and kind of
            processor. The file must match the model's layer sizes, dtype, seed, initialisation, activation and loss,
            the optimizer and its constants (but for the learning rate), ``batch_size``, ``shuffle``, ``l2``,
            ``clip_norm`` and, by digests, all data and weights. Plain, sparse and packed data match each other; uint8
            and floating-point data do not. If there is no file yet, training starts from the current parameters.
        progress : bool, optional
            Whether to show a bar; by default it is shown if standard output is a terminal or a notebook and tqdm is
            installed.
        optimizer : SGD, Adam, AdamW or LBFGS, optional
            An object of `fastmlp.optimizers`; by default gradient descent with ``alpha``. With LBFGS, an epoch is an
            iteration. A schedule of the learning rate extends over ``epochs`` times the updates of an epoch.
        batch_size : int, optional
            Number of samples of an update, at least 1. The last batch of an epoch may be smaller. By default an update
            takes all samples.
        shuffle : {"samples", "batches", "blocks", False}, optional
            Of minibatches: take the samples in a new order in each epoch; or draw the batches once, and take them in a
            new order in each epoch; or take blocks of samples, of up to 24 MiB, in a new order in each epoch, and
            shuffle the samples of up to 8 blocks together; or take the samples as they are. By default ``"blocks"``
            for a packed file, which is then read a block at a time, and ``"samples"`` for other X; the same seed gives
            a packed file and the same matrix in memory the same bits. A packed file of more than 8 blocks allows no
            other order than ``"blocks"`` and False. The order of an epoch depends on its number and on the model's seed
            alone; if that is None, each run draws one. Batches that are the same in each epoch, by ``"batches"`` and
            False, are faster from the second epoch on; up to 256 MiB hold lists of them, which a packed X keeps.
        l2 : float
            Adds l2 / 2 times the sum of the squares of all weights, without biases, to the loss that is minimized. The
            history shows the loss without it.
        clip_norm : float, optional
            Scale a gradient whose norm is larger down to this norm.
        comm : mpi4py.MPI.Intracomm, optional
            The processes that train together, each of which calls this with its own samples, in the order of their
            ranks, also with none, and with the same other arguments. If all pass the same packed file, with the targets
            and weights of all samples, each takes its share; for minibatches from a large file each reads all of it. X
            of a validation is divided likewise. All end with the same parameters and history: those of one process with
            all samples, bit for bit. They begin with the parameters of rank 0, which alone writes the checkpoint. If
            one fails, all do. With minibatches, all make the same updates, on samples that they exchange: this takes
            longer than on one process, but no process keeps all samples.

        Returns
        -------
        History
            Loss, score (accuracy, or R^2 of a regression) and seconds of each epoch, including those before a
            resumption. With minibatches, loss and score are means over the batches, each at the parameters before its
            update.

        Raises
        ------
        ValueError
            As `loss_and_grad`; if X, or X of the validation, is not finite, or a target not in the range of the loss;
            if class weights come with a regression or with several logistic outputs; if a number is out of range; if
            patience comes without validation, resume without checkpoint, or alpha beside an optimizer; if LBFGS gets
            batches or a norm to clip to; if the checkpoint to resume from is damaged or does not fit.
        TypeError
            If an array does not hold real numbers or a count is not an integer.
        FloatingPointError
            If the loss or the parameters stop being finite; the model then holds the last finite parameters, and so
            does the checkpoint. The message names the epoch, the update and its step size.
        OSError
            If the checkpoint's folder is not writeable. If a later write fails, one warning says so and training
            continues.
        ImportError
            If progress is True and tqdm, part of the extra ``cli``, is not installed.

        Warns
        -----
        TrainingWarning
            If the run does not learn (the loss rose or is that of guessing, all hidden units are dead, inputs look
            unscaled); the text names the remedy. If a checkpoint cannot be written. If ``batch_size`` is larger than
            the number of samples, which are then one batch.

        Examples
        --------
        >>> import fastmlp
        >>> model = fastmlp.MLP((2, 4, 2), seed=0)
        >>> history = model.fit([[0.0, 1.0], [1.0, 0.0]], [0, 1], epochs=200, alpha=0.5)
        >>> model.predict([[0.0, 1.0], [1.0, 0.0]])
        array([0, 1])
        """
        with distributed.team(comm) as team:
            epochs = checks.epochs("epochs", epochs)
            watchers = callbacks.listed("callback", callback)
            choice = methods.choose(alpha, optimizer, batch_size, shuffle, l2, clip_norm)
            team.agree(
                self._agreed(choice, epochs, (patience, min_delta, validation is None, checkpoint is None, resume))
            )
            np.copyto(self._parameters, team.from_first(lambda: self._parameters))
            stopping = self._early_stopping(patience, min_delta, validation)
            samples = self._samples(X, Y, sample_weight, batch_size=choice.batch_size, team=team)
            if class_weight is not None:
                name, outputs = "class_weight", self._layer_sizes[-1]
                weights = targets.class_weights(name, class_weight, self._loss, outputs, samples.y)
                samples = samples.times_weight(name, weights)
            if frames.is_frame(X) and not self.features:
                self._notes |= encoding.named(frames.names(X))
            validate = held_out = None
            if validation is not None:
                names = "validation X", "validation Y"
                held_out = self._samples(*checks.pair("validation", validation), names=names, team=team)
                validate = functools.partial(self._evaluate, held_out)
            step = functools.partial(self._step, samples=samples)
            problem = methods.Problem(self._parameters, self._net, samples, step, team.least)
            seed = team.from_first(lambda: secrets.randbits(32) if self._seed is None else self._seed)
            method = choice.method(problem, epochs, seed)
            run = training.Run(
                method,
                epochs=epochs,
                validate=validate,
                callbacks=Together(watchers),
                stopping=stopping,
                checkpoint=self._checkpoint(
                    checkpoint, checkpoint_every, resume, lambda: _facts(samples, held_out, method)
                ),
                resume=resume,
                loss=self._loss,
                team=team,
            )
            text = choice.warning(samples.w.size)
            if text and team.rank == 0:
                warnings.warn(text, TrainingWarning, stacklevel=2)
            history = training.train(run, progress if team.rank == 0 else False)
            text = self._advice(history, samples, choice.rate)
            if text and team.rank == 0:
                warnings.warn(text, TrainingWarning, stacklevel=2)
            return history

    def save(self, path: storage.PathName) -> None:
        """Write parameters, what else makes the model, and notes to a safetensors file, atomically and durably.

        The tensors are named and shaped as in torch: ``layers.0.weight`` (n_out, n_in), ``layers.0.bias`` (n_out,).

        Parameters
        ----------
        path : str or path-like
            The file to write or replace. A symbolic link is followed.

        Raises
        ------
        OSError
            If it cannot be written; an existing file is then unchanged.
        ValueError
            If the path is a folder or a device.

        Examples
        --------
        >>> import tempfile, fastmlp
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fastmlp.MLP((2, 3), seed=7).save(f"{folder}/model.safetensors")
        ...     fastmlp.MLP.load(f"{folder}/model.safetensors")
        MLP((2, 3), dtype='float64')
        """
        storage.save(path, self._record())

    @classmethod
    def load(cls, path: storage.PathName) -> Self:
        """Read a model from a file that `save` wrote, or from a checkpoint of `fit`.

        Parameters
        ----------
        path : str or path-like
            The file. Nothing in it is executed or unpickled.

        Returns
        -------
        MLP
            The model that was saved, bit for bit.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is damaged or not a file of fastmlp.

        Examples
        --------
        See `save`.
        """
        record = storage.load(path)
        model = cls.__new__(cls)
        model._layer_sizes, model._parameters = record.layer_sizes, record.parameters
        model._seed, model._init, model._notes = record.seed, record.init, record.notes
        model._activation, model._loss = activations.read(record.activation), record.loss
        return model

    def predict(self, X: Input) -> Array:
        """Predict the label, or the targets of a regression, for each sample.

        Parameters
        ----------
        X : array_like of float, sparse matrix of SciPy or PackedMatrix, shape (n_features, m)
            Samples as columns; or a data frame of pandas or polars, with samples as rows.

        Returns
        -------
        ndarray, shape (m,) or (n_outputs, m)
            With ``loss="cross_entropy"`` int64 labels (m,) from 0 to n_classes - 1: the row of the largest logit. With
            the others a row for each output, or (m,) if there is one: int64 labels, 1 where a logit is above 0, of
            ``"logistic"``; numbers of the model's dtype of a regression, exp(z) for ``"poisson"``.

        Raises
        ------
        ValueError
            If X does not fit the input width, is empty or is not finite.
        TypeError
            If X does not hold real numbers.

        Examples
        --------
        >>> import fastmlp
        >>> fastmlp.MLP((1, 2), seed=0).predict([[1.0, -1.0]])
        array([1, 0])
        >>> model = fastmlp.MLP((1, 1), loss="poisson")
        >>> model.parameters = [1.0, 0.0]
        >>> model.predict([[0.0, 1.0]]).round(3)
        array([1.   , 2.718])
        """
        return losses.predictions(self._loss, self._logits(self._input(X)))

    def predict_proba(self, X: Input) -> Array:
        """Predict the probability of each class, or that the label of an output is 1, for each sample.

        Parameters
        ----------
        X : array_like of float, sparse matrix of SciPy or PackedMatrix, shape (n_features, m)
            Samples as columns; or a data frame of pandas or polars, with samples as rows.

        Returns
        -------
        ndarray of the model's dtype, shape (n_classes, m), or of "logistic" (m,) or (n_outputs, m)
            Probabilities. With ``loss="cross_entropy"`` each column sums to 1. With ``"logistic"`` they are those of
            label 1, a row for each output, or (m,) if there is one.

        Raises
        ------
        ValueError
            If the model is a regression, or X does not fit the input width, is empty or is not finite.
        TypeError
            If X does not hold real numbers.

        Examples
        --------
        >>> import fastmlp
        >>> fastmlp.MLP((1, 2), seed=0).predict_proba([[0.0]])
        array([[0.5],
               [0.5]])
        >>> fastmlp.MLP((1, 1), loss="logistic").predict_proba([[0.0]])
        array([0.5])
        """
        if losses.is_regression(self._loss):
            got, expected = f"a model with loss {self._loss!r}", "one that predicts classes"
            raise ValueError(checks.message("predict_proba", got, expected, "call predict for its numbers"))
        z = self._logits(self._input(X))
        if self._loss == "logistic":
            return losses.chances(z)
        probabilities = np.empty_like(z)
        kernels = backend.kernels()
        kernels.softmax_columns(probabilities, z)
        return probabilities

    def evaluate(self, X: Input, Y: ArrayLike) -> dict[str, float]:
        """Compute mean loss, and accuracy or R^2.

        Parameters
        ----------
        X : array_like of float, sparse matrix of SciPy or PackedMatrix, shape (n_features, m)
            Samples as columns; or a data frame of pandas or polars, with samples as rows.
        Y : array_like, shape (m,) or (n_outputs, m)
            As in `fit`. A prediction is right if its class has the largest target, or for ``"logistic"`` if each output
            is above 0 where its target is above 1/2, and only there.

        Returns
        -------
        dict of str to float
            ``{"loss": ..., "accuracy": ...}``, or for a regression ``{"loss": ..., "r2": ...}``: the coefficient of
            determination, 1 - sum (y - prediction)^2 / sum (y - mean y)^2, the mean over the outputs. As in
            scikit-learn, an output with constant targets counts 1 if all of its predictions are right, else 0.

        Raises
        ------
        ValueError
            As `loss_and_grad`; if X or a target is not finite, or a target is out of the range of the loss.
        TypeError
            If an array does not hold real numbers.

        Examples
        --------
        >>> import fastmlp
        >>> fastmlp.MLP((1, 2), seed=0).evaluate([[1.0, -1.0]], [1, 1])["accuracy"]
        0.5
        """
        loss, score = self._evaluate(self._samples(X, Y))
        return {"loss": loss, losses.score_name(self._loss): score}

    def _input(self, X: Input) -> PackedMatrix:
        return check_input("X", self._columns_of("X", X), self._layer_sizes[0], self.dtype)

    def _columns_of(self, name: str, X: Input) -> Input:
        """Return the rows of a frame as columns, encoded if the model has an encoder; anything else as it is."""
        if getattr(X, "is_frame", False) and self.encoder is not None:
            got, expected = "a packed data frame, whose values are not encoded", "the frame, which the model encodes"
            raise ValueError(checks.message(name, got, expected, f"pass the frame as {name}"))
        return encoding.columns(name, X, self._notes, self._layer_sizes[0]) if frames.is_frame(X, name) else X

    def _samples(
        self,
        X: Input,
        Y: ArrayLike,
        weight: ArrayLike | None = None,
        names: tuple[str, str] = ("X", "Y"),
        *,
        batch_size: int | None = None,
        finite: bool = True,
        team: Team | None = None,
    ) -> Samples:
        """Check samples, also that X and Y are ``finite``, and return them ready for kernels."""
        X = self._columns_of(names[0], X)
        team = team or Team()
        x = team.matrix(names[0], X, self._layer_sizes[0], self.dtype, batch_size, finite=finite)
        y = targets.check(
            names[1],
            team.joined(names[1], frames.targets(names[1], Y)),
            self._loss,
            self._layer_sizes[-1],
            x.shape[1],
            self.dtype,
            finite=finite,
        )
        return Samples(
            x, y, check_weight("sample_weight", team.joined("sample_weight", weight), x.shape[1], self.dtype)
        )

    def _agreed(self, choice: methods.Choice, epochs: int, others: tuple[Any, ...]) -> dict[str, object]:
        """Return what all processes of a run must have in common, by name."""
        return {
            "model": (self._layer_sizes, self.dtype.name, self._activation, self._loss),
            "optimizer": None if choice.optimizer is None else choice.optimizer.describe(),
            "l2, clip_norm, batch_size, shuffle": (choice.l2, choice.clip_norm, choice.batch_size, choice.shuffle),
            "epochs": epochs,
            "patience, min_delta, no validation, no checkpoint, resume": others,
        }

    def _advice(self, history: History, samples: Samples, rate: str) -> str:
        x, classes = samples.x, self._layer_sizes[-1]
        findings = advice.Findings(
            chance=functools.partial(targets.loss_of_guessing, self._loss, classes, samples.y, samples.w),
            dead=functools.partial(self._is_dead, samples),
            unscaled=x.largest if x.looks_unscaled() else None,
            lone_class=classes == 1 and self._loss == "cross_entropy",
            rate=rate,
        )
        return advice.advise(history, findings)

    def _is_dead(self, samples: Samples) -> bool:
        """Return whether no sample activates any ReLU of some hidden layer: no gradient reaches the first layer."""
        # Other units are never quite dead, and a gradient of 0 does not say which layer stopped it.
        if set(self._net.activations) != {"relu"}:
            return False
        gradient = np.empty_like(self._parameters)
        self._step(gradient, samples)
        return not gradient[: self._layer_sizes[0] * self._layer_sizes[1]].any()

    def _early_stopping(self, patience: int | None, min_delta: float, validation: object) -> EarlyStopping | None:
        min_delta = checks.nonnegative("min_delta", min_delta, "pass a fall of the loss such as 1e-4, or 0")
        if patience is None:
            return None
        if validation is None:
            got, expected = f"{patience} without validation", "validation=(X, Y) with it"
            raise ValueError(checks.message("patience", got, expected, "patience waits for the validation loss"))
        return EarlyStopping(checks.count_or_none("patience", patience), min_delta, self._parameters)

    def _checkpoint(
        self, path: storage.PathName | None, every: float, resume: bool, facts: Callable[[], dict[str, str]]
    ) -> Checkpoint | None:
        every = checks.nonnegative("checkpoint_every", every, "pass seconds such as 60, or 0 for each epoch")
        if path is None:
            if resume:
                remedy = "name the file to resume from"
                raise ValueError(checks.message("resume", "True without checkpoint", "checkpoint=PATH with it", remedy))
            return None
        return Checkpoint(path, every, self._record(facts()))

    def _record(self, facts: dict[str, str] | None = None) -> storage.Record:
        return storage.Record(
            self._layer_sizes,
            self._parameters,
            self._seed,
            self._init,
            facts or {},
            notes=self._notes,
            activation=activations.written(self._activation),
            loss=self._loss,
        )

    @property
    def _net(self) -> Net:
        return activations.net(self._layer_sizes, self._activation, self._loss)

    def _step(self, grad: Array, samples: Samples) -> tuple[float, float]:
        """Write the mean gradient; return mean loss and score."""
        x, y, w = samples
        return of_sums(self._loss, *x.step(grad, self._parameters, self._net, y, w))

    def _logits(self, x: PackedMatrix) -> Array:
        logits = np.empty((self._layer_sizes[-1], x.shape[1]), self.dtype)
        x.logits(logits, self._parameters, self._net)
        return logits

    def _evaluate(self, samples: Samples) -> methods.Scores:
        return evaluation.scores(self._loss, self._logits(samples.x), samples)


def _facts(samples: Samples, held_out: Samples | None, method: methods.Method) -> dict[str, str]:
    """Return the facts that must agree with those of a checkpoint to resume from."""
    validation = "none" if held_out is None else held_out.digest()
    return {"data": samples.digest(), "validation": validation, **method.identity}
