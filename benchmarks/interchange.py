"""Round trips of models between fastmlp and other libraries, and how much predictions change on the way.

``python -m benchmarks.interchange`` prints a table: for each way, over all activations and losses that both sides have,
the largest difference between the predictions of a model and those of its copy, relative to the largest prediction.
On PyTorch, Keras multiplies float64 in single precision: its row in float64 shows this, and not a change of the model.
Needs the extras ``onnx``, ``torch`` and ``sklearn``, and the packages keras and onnxruntime.
"""

import itertools
import os
import tempfile
import warnings

import numpy as np

import fastmlp
from fastmlp.kernels.nets import ACTIVATIONS, LOSSES

SIZES, SAMPLES = (20, 30, 25), 500
_OF_KERAS = {"cross_entropy": "softmax", "logistic": "sigmoid", "squared_error": "linear", "poisson": "exponential"}
_ACTIVATIONS_OF_KERAS = {"identity": "linear", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu", "gelu": "gelu"}


def models(dtype, activations=ACTIVATIONS, losses=LOSSES):
    """Yield random models with every activation and loss."""
    generator = np.random.default_rng(0)
    for activation, loss in itertools.product(activations, losses):
        model = fastmlp.MLP((*SIZES, 3), dtype, activation=activation, loss=loss)
        model.parameters = 0.3 * generator.normal(size=model.parameters.size)
        yield model


def predictions(model, x):
    """Return probabilities, or numbers of a regression, with samples (m, n) as rows."""
    return (model.predict_proba if model.loss in ("cross_entropy", "logistic") else model.predict)(x.T).T


def difference(actual, expected):
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def through_onnx(dtype, x):
    import onnxruntime

    for model in models(dtype):
        with tempfile.TemporaryDirectory() as folder:
            model.export_onnx(f"{folder}/model.onnx")
            session = onnxruntime.InferenceSession(f"{folder}/model.onnx", providers=["CPUExecutionProvider"])
            yield difference(session.run(None, {"X": x})[-1], predictions(model, x))


def through_torch(dtype, x):
    import torch

    ours, theirs = (
        ("cross_entropy", "logistic", "squared_error"),
        (
            lambda z: torch.softmax(z, dim=1),
            torch.sigmoid,
            lambda z: z,
        ),
    )
    for model in models(dtype, losses=ours):
        net, last = model.to_torch(), theirs[ours.index(model.loss)]
        copy = fastmlp.MLP.from_torch(net.state_dict(), model.activation, model.loss)
        with torch.no_grad():
            expected = last(net(torch.tensor(x))).numpy()
            yield difference(predictions(copy, x), expected)
            yield difference(last(copy.to_torch()(torch.tensor(x))).numpy(), expected)


def from_keras(dtype, x):
    import keras

    keras.config.set_floatx(dtype)
    for model in models(dtype, _ACTIVATIONS_OF_KERAS, _OF_KERAS):
        hidden = _ACTIVATIONS_OF_KERAS[model.activation]
        dense = [keras.layers.Dense(width, hidden) for width in SIZES[1:]]
        net = keras.Sequential([keras.Input(SIZES[:1]), *dense, keras.layers.Dense(3, _OF_KERAS[model.loss])])
        layers = zip(model.weights, model.biases, strict=True)
        net.set_weights([one for weight, bias in layers for one in (weight.T, bias[:, 0])])
        with tempfile.TemporaryDirectory() as folder:
            net.save(f"{folder}/net.keras")
            copy = fastmlp.MLP.from_keras(f"{folder}/net.keras")
        yield difference(predictions(copy, x), net.predict(x, verbose=0))


def through_sklearn(dtype, x):
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    y = {"classes": np.arange(len(x)) % 3, "labels": x[:, :3] > 0, "numbers": np.abs(x[:, :3])}
    for activation in ("identity", "logistic", "tanh", "relu"):
        settings = {"hidden_layer_sizes": SIZES[1:], "activation": activation, "max_iter": 3, "random_state": 0}
        for make, kind in ((MLPClassifier, "classes"), (MLPClassifier, "labels"), (MLPRegressor, "numbers")):
            theirs = make(**settings).fit(x, y[kind])
            of = "predict_proba" if make is MLPClassifier else "predict"
            copy = fastmlp.MLP.from_sklearn(theirs)
            expected = getattr(theirs, of)(x)
            yield difference(predictions(copy, x), expected)
            yield difference(getattr(copy.to_sklearn(), of)(x), expected)


WAYS = {
    "fastmlp → ONNX → onnxruntime": through_onnx,
    "PyTorch → fastmlp → PyTorch": through_torch,
    "Keras → fastmlp": from_keras,
    "scikit-learn → fastmlp → scikit-learn": through_sklearn,
}


def main():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    warnings.simplefilter("ignore")  # that three iterations have not converged
    print("| largest relative difference of predictions | comparisons | float64 | float32 |")
    print("| --- | --- | --- | --- |")
    for name, way in WAYS.items():
        cells = []
        for dtype in ("float64", "float32"):
            x = np.random.default_rng(1).normal(size=(SAMPLES, SIZES[0])).astype(dtype)
            found = list(way(dtype, x))
            cells.append(f"{max(found):.1e}")
        print(f"| {name} | {len(found)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
