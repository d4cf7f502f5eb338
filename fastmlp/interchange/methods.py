"""The methods of `MLP` that exchange models with other libraries."""

from collections.abc import Sequence
from typing import Any, Self

from fastmlp.atomic import PathName
from fastmlp.interchange import export, keras, layers, sklearn, torch
from fastmlp.interchange.layers import Model


class Interchange:
    """Conversion from and to models of other libraries, each of which is imported when it is first used."""

    @classmethod
    def from_torch(
        cls,
        state: Any,
        activation: str | Sequence[str] = "relu",
        loss: str = "cross_entropy",
        dtype: str | None = None,
    ) -> Self:
        """Make a model from the tensors of a net of linear layers of PyTorch.

        Parameters
        ----------
        state : mapping of str to tensor or ndarray, str or path-like
            A state dict, ``net.state_dict()``, with the layers in the order of the net; or the path of a file of
            safetensors, whose layers are in the order of the numbers in their names, as in ``0.weight``, ``0.bias``,
            ``2.weight``, ... Weights are (n_out, n_in), biases (n_out,); a layer without a bias gets zeros.
        activation : str or sequence of str
            The activation of all hidden layers, or one for each, which a state dict does not tell: as in `MLP`.
        loss : str
            The loss, as in `MLP`: the last layer returns its logits.
        dtype : {"float64", "float32"}, optional
            By default float64 if a tensor is float64, else float32.

        Returns
        -------
        MLP
            A model with the same weights and logits. Its ``seed`` is None, because no seed draws these weights.

        Raises
        ------
        ValueError
            If a tensor is not the weight or the bias of a linear layer, such as those of BatchNorm, or does not fit the
            layer before it; if a file cannot be read, or does not tell the order of its layers.
        TypeError
            If a tensor does not hold floating-point numbers.
        ImportError
            If safetensors, part of the extra ``torch``, is not installed, and a file is to be read.

        Examples
        --------
        >>> import numpy as np
        >>> import fastmlp
        >>> state = {"0.weight": np.ones((3, 2)), "0.bias": np.zeros(3), "2.weight": np.ones((2, 3))}
        >>> model = fastmlp.MLP.from_torch(state, activation="tanh")
        >>> model, model.biases[1].ravel()
        (MLP((2, 3, 2), dtype='float64', activation='tanh'), array([0., 0.]))
        """
        return layers.build(cls, torch.read(state, activation, loss), dtype)

    def to_torch(self: Model) -> Any:
        """Return the model as a ``torch.nn.Sequential`` that computes its logits.

        Returns
        -------
        torch.nn.Sequential
            Linear layers with copies of the weights and the biases, and modules of the activations between them, in the
            model's dtype. It takes samples as rows (n_samples, n_features), prepared as for `predict`, and returns
            logits (n_samples, n_outputs).

        Raises
        ------
        ImportError
            If torch, the extra ``torch``, is not installed.

        Examples
        --------
        >>> import fastmlp
        >>> fastmlp.MLP((2, 3, 2), activation="gelu").to_torch()  # doctest: +SKIP
        Sequential(
          (0): Linear(in_features=2, out_features=3, bias=True)
          (1): GELU(approximate='none')
          (2): Linear(in_features=3, out_features=2, bias=True)
        )
        """
        return torch.sequential(self)

    @classmethod
    def from_keras(cls, model: Any, loss: str | None = None, dtype: str | None = None) -> Self:
        """Make a model from a net of dense layers of Keras 3.

        Parameters
        ----------
        model : keras.Model, str or path-like
            A Sequential or functional model whose layers are one chain, or the path of a ``.keras`` file: Dense layers
            with the activations linear, sigmoid, tanh, relu or gelu, and Dropout and a Flatten at the start, which
            change nothing here. The last one is softmax, sigmoid, linear or exponential.
        loss : str, optional
            The loss of a model with linear outputs, as in `MLP`: "cross_entropy", if they are logits. By default it
            follows from the last activation: "cross_entropy" from softmax, "logistic" from sigmoid, "poisson" from
            exponential and "squared_error" from linear.
        dtype : {"float64", "float32"}, optional
            By default that of the weights.

        Returns
        -------
        MLP
            A model with the same weights and predictions. Its ``seed`` is None, because no seed draws these weights.

        Raises
        ------
        ValueError
            If a layer or an activation is another one, or layers are not in one chain; if the loss does not belong to
            the last activation.
        ImportError
            If keras, the extra ``keras``, is not installed, and a file is to be read.

        Notes
        -----
        Keras reads the file itself, and refuses to run code that the file contains.

        Examples
        --------
        >>> import fastmlp, keras  # doctest: +SKIP
        >>> dense = keras.layers.Dense  # doctest: +SKIP
        >>> net = keras.Sequential([keras.Input((2,)), dense(3, "tanh"), dense(2, "softmax")])  # doctest: +SKIP
        >>> fastmlp.MLP.from_keras(net)  # doctest: +SKIP
        MLP((2, 3, 2), dtype='float32', activation='tanh')
        """
        return layers.build(cls, keras.read(model, loss), dtype)

    @classmethod
    def from_sklearn(cls, estimator: Any) -> Self:
        """Make a model from a fitted ``MLPClassifier`` or ``MLPRegressor`` of scikit-learn, or of `fastmlp.estimator`.

        Parameters
        ----------
        estimator : MLPClassifier or MLPRegressor
            The estimator.

        Returns
        -------
        MLP
            A model with the same coefficients and predictions; ``predict`` returns the places of classes in
            ``classes_``, and takes samples as columns. Two classes are one output with ``loss="logistic"``. Names of
            classes and features become notes. Its ``seed`` is None, because no seed draws these weights.

        Raises
        ------
        TypeError
            If it is not such an estimator.
        ValueError
            If it is not fitted.
        ImportError
            If scikit-learn, the extra ``sklearn``, is not installed.

        Examples
        --------
        >>> import fastmlp
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.neural_network import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = fastmlp.MLP.from_sklearn(MLPClassifier(max_iter=500, random_state=0).fit(X, y))
        >>> model, model.predict(X[::50].T)
        (MLP((4, 100, 3), dtype='float64'), array([0, 1, 2]))
        """
        return sklearn.read(cls, estimator)

    def to_sklearn(self: Model) -> Any:
        """Return the model as a fitted estimator of scikit-learn.

        Returns
        -------
        MLPClassifier or MLPRegressor
            The class of scikit-learn; that of `fastmlp.estimator`, which is derived from it, if scikit-learn lacks the
            activation or the loss. It takes samples as rows, prepared as for `MLP.predict`, and ``classes_`` are the
            names of classes in the model's notes, as int64 if they are whole numbers, or else numbers from 0. They are
            sorted, as scikit-learn has them, and so are the columns of ``predict_proba``. Two classes become one
            output. ``fit`` continues from the coefficients if ``warm_start`` is set.

        Raises
        ------
        ValueError
            If the model has one class only, or names two of them alike.
        ImportError
            If scikit-learn, the extra ``sklearn``, is not installed.

        Examples
        --------
        >>> import fastmlp
        >>> fastmlp.MLP((2, 3, 3), activation="tanh").to_sklearn()
        MLPClassifier(activation='tanh', hidden_layer_sizes=(3,))
        """
        return sklearn.estimator(self)

    def export_onnx(self: Model, path: PathName) -> None:
        """Write the model as an ONNX file, with the preparation of its inputs that its notes describe.

        The input ``X`` holds samples as rows (n_samples, n_features), of any number. In the graph, they are

        - divided by the largest value, of a model of pictures that the command line trained;
        - standardised by `encoder`, if the model has one: then ``X`` holds raw rows. If there are categories, ``X``
          holds the columns of numbers, and a second input, ``categories``, the other ones (n_samples, n_categories) as
          text, both in the order of the table. Unknown categories become zeros, as in `encoder`;
        - otherwise taken as they are, as by `predict`.

        The outputs have the names of skl2onnx: of a classification ``label`` (n_samples,), int64 or the names of the
        classes, and ``probabilities`` (n_samples, n_classes), which are two for one output with ``loss="logistic"``; of
        several such outputs both (n_samples, n_outputs). Of a regression ``variable`` (n_samples, n_outputs).

        Parameters
        ----------
        path : str or path-like
            The file to write or replace, atomically.

        Raises
        ------
        ImportError
            If onnx, the extra ``onnx``, is not installed.
        ValueError
            If the notes do not fit the model, or the file would be larger than 2 GiB.
        OSError
            If it cannot be written; an existing file is then unchanged.

        Notes
        -----
        Inputs, computation and outputs have the model's dtype, only columns are standardised in float64. The file has
        opset 17 and IR version 8, which onnxruntime takes since version 1.12. onnxruntime has no Erf for float64; there
        "gelu" is computed from a polynomial, to full precision.

        Examples
        --------
        >>> import tempfile, fastmlp
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
        ...     fastmlp.MLP((2, 3)).export_onnx(f"{folder}/model.onnx")
        ...     session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
        ...     session.run(["label"], {"X": [[0.5, 1.0]]})
        """
        export.write(self, path)
