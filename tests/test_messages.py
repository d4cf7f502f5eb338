"""What errors say: the argument, what came, what is expected, and a remedy that fits the argument."""

import inspect
import sys
from types import ModuleType

import numpy as np
import pytest

import fastmlp
from fastmlp import bench, plots

X = np.random.default_rng(0).random((64, 179))
Y = np.arange(179) % 10


def model():
    return fastmlp.MLP((64, 5, 10))


def fit(**change):
    return lambda: model().fit(**{"X": X, "Y": Y, "epochs": 1, **change})


def assign(parameters):
    net = model()
    net.parameters = parameters


class CscMatrix:
    """Stands for one of SciPy's, which NumPy takes for an object."""

    def toarray(self):
        raise AssertionError("a sparse matrix may be too large for it")

    tocsc = toarray


NET = np.ones((4, 3)), np.ones((2, 4)), np.ones((4, 1)), np.ones((2, 1))


def forward(**change):
    names = "X W_i_to_h W_h_to_o biases_i_to_h biases_h_to_o".split()
    return lambda: fastmlp.Forwardprop(**dict(zip(names, (np.ones((3, 5)), *NET), strict=True)) | change)


SAID = {
    "samples as rows": (
        fit(X=X.T),
        r"X: got shape \(179, 64\), expected shape \(n_features, m\) = \(64, any\); columns are samples: transpose it",
    ),
    "other features": (fit(X=X[:9]), r"X: got shape \(9, 179\), .*; pass samples of as many features, as columns"),
    "one sample": (lambda: model().predict(X[:, 0]), r"X: got shape \(64,\), .*; give it .*: .reshape\(64, 1\)"),
    "packed rows": (
        lambda: model().predict(fastmlp.pack(X.T)),
        r"X: .* \(179, 64\), .*; columns are samples: pack the transpose",
    ),
    "packed features": (
        lambda: model().predict(fastmlp.pack(X[:9])),
        r"X: .* \(9, 179\), .*; pack samples of as many features",
    ),
    "a label too few": (
        fit(Y=Y[1:]),
        r"Y: got shape \(178,\), .* = \(179,\); pass one label for each sample",
    ),
    "targets transposed": (fit(Y=np.eye(10)[Y]), r"Y: got shape \(179, 10\), .* = \(10, 179\); transpose it"),
    "targets of other classes": (fit(Y=np.ones((9, 179))), r"Y: .*; pass one row for each class, one column for each"),
    "labels as a column": (lambda: fastmlp.one_hot(Y[:, None]), r"Y: got shape \(179, 1\), .*; give it .*: .ravel\(\)"),
    "labels as text": (fit(Y=Y.astype(str)), r"Y: got dtype <U21, expected real .*labels; number the .*np\.unique"),
    "labels as objects": (
        fit(Y=Y.astype(str).astype(object)),
        "Y: got dtype object, expected real .*np.unique",
    ),
    "labels of halves": (fit(Y=Y + 0.5), "Y: got label 0.5 at index 0, expected integral labels; round them"),
    "labels missing": (fit(Y=np.where(Y == 3, np.nan, Y)), "Y: got label nan at index 3, expected integral labels;"),
    "text": (
        fit(X=X.astype(str)),
        r"X: got dtype <U.*; convert numbers .* as text with .astype\(float\)",
    ),
    "complex": (fit(X=X + 1j), "X: got dtype complex128, .*; pass its .real"),
    "sparse targets": (
        fit(Y=CscMatrix()),
        r"Y: got a sparse CscMatrix, expected a dense array; convert it with .toarray\(\)",
    ),
    "sparse input of the notebook": (forward(X=CscMatrix()), r"X: got a sparse CscMatrix, expected a dense array; "),
    "balanced": (
        fit(class_weight="balanced"),
        r"class_weight: got 'balanced', expected a weight for each class, or .*; compute .*np\.bincount\(labels\)\)",
    ),
    "two class weights": (fit(class_weight=[1, 2]), r"class_weight: .*; pass one weight for each of the 10 classes"),
    "a negative class weight": (fit(class_weight={1: -2}), r"class_weight: got weight -2.0 at index 1, .*>= 0"),
    "no class weighs": (fit(class_weight=np.zeros(10)), "class_weight: got only zeros, expected finite weights >= 0"),
    "no sample weighs": (
        fit(class_weight=dict.fromkeys(range(1, 10), 0), sample_weight=Y != 0),
        "class_weight: got only zeros, .*; give a positive weight to a sample whose class has one",
    ),
    "a weight too few": (fit(sample_weight=Y[1:]), r"sample_weight: .*; pass one weight for each of the 179 samples"),
    "a negative weight": (
        fit(sample_weight=np.where(Y == 7, -1.5, 1)),
        "sample_weight: got weight -1.5 at index 7, expected finite weights >= 0, one of them positive; drop samples",
    ),
    "an infinite weight": (fit(sample_weight=np.where(Y == 7, np.inf, 1)), "sample_weight: got weight inf at index 7,"),
    "a weight missing": (fit(sample_weight=np.where(Y == 7, np.nan, 1)), "sample_weight: got weight nan at index 7,"),
    "parameters": (lambda: assign([1.0, 2.0]), r"parameters: got shape \(2,\), .*; pass a vector as long as model.par"),
    "biases without a dimension": (
        forward(biases_i_to_h=np.ones(4)),
        r"biases_i_to_h: got shape \(4,\), expected .* = \(4, 1\); give it two dimensions: .reshape\(4, 1\)",
    ),
    "biases of another length": (forward(biases_h_to_o=np.ones(4)), "biases_h_to_o: .*; make its shape fit the other"),
    "weights transposed": (forward(W_h_to_o=np.ones((4, 2))), r"W_h_to_o: got shape \(4, 2\), .*: transpose it"),
    "a scale of 0": (lambda: fastmlp.pack(X, scale=0), r"scale: got 0, expected a finite number > 0; .* such as 1/255"),
    "no scale": (lambda: fastmlp.pack(X, scale=np.inf), "scale: got inf, expected a finite number > 0; pass a factor"),
    "no seconds": (lambda: bench.compare(X, Y, seconds=0), "seconds: got 0, expected a finite .* > 0; pass a duration"),
    "text for seconds": (
        lambda: bench.compare(X, Y, seconds="9"),
        "seconds: got str '9', expected .*; pass a duration",
    ),
    "a falling rate": (fit(alpha=-0.1), "alpha: got -0.1, expected a finite number >= 0; descent takes positive step"),
    "an infinite rate": (fit(alpha=np.inf), "alpha: got inf, expected a finite number >= 0; .* such as 0.1"),
    "min_delta": (fit(min_delta=np.inf), "min_delta: got inf, expected a finite number >= 0; .* such as 1e-4, or 0"),
    "min_delta missing": (fit(min_delta=np.nan), "min_delta: got nan, expected a finite number >= 0;"),
    "checkpoint_every": (fit(checkpoint_every=np.inf), "checkpoint_every: got inf, .*; pass seconds such as 60, or 0"),
    "notes of numbers": (
        lambda: setattr(model(), "notes", {"a": 7}),
        "notes: got the int 7, expected a mapping",
    ),
    "long notes": (
        lambda: setattr(model(), "notes", {"a": "b" * 10**6}),
        "notes: got 1000009 bytes, expected at",
    ),
}


@pytest.mark.parametrize(("call", "said"), SAID.values(), ids=SAID)
def test_what_errors_say(call, said):
    with pytest.raises((ValueError, TypeError), match=f"^{said}"):
        call()


def test_no_remedy_is_a_transpose_that_does_not_help():
    """Of all shapes around the right one."""
    for shape in [(179,), (1,), (179, 63), (63, 179), (63, 63), (64, 179, 1), ()]:
        with pytest.raises(ValueError, match="^X: ") as caught:
            model().predict(np.ones(shape))
        assert "transpose" not in str(caught.value)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "u1", "u2", "i4", "u8"])
def test_the_largest_label_of_a_dtype_is_legal(backend, kind):
    """Compared with the number of classes in a dtype that holds it."""
    largest = {"f2": 65504, "f4": 2**24}.get(kind, min(2**17, np.iinfo(kind).max if kind[0] != "f" else 2**17))
    labels = np.array([largest, 0], kind)
    assert fastmlp.one_hot(labels, largest + 1).argmax(axis=0).tolist() == [largest, 0]
    with pytest.raises(ValueError, match=rf"^Y: got label {largest}(.0)? at index 0, expected labels from 0 to"):
        fastmlp.one_hot(labels, largest)


def test_a_half_imported_module_of_masked_arrays_harms_nobody(monkeypatch):
    """Another thread may be importing it."""
    monkeypatch.setitem(sys.modules, "numpy.ma", ModuleType("numpy.ma"))
    assert fastmlp.ReLU([1.0, -1.0]).tolist() == [1, 0]


def public():
    for name in fastmlp.__all__:
        one = getattr(fastmlp, name)
        yield name, one
        if inspect.isclass(one):
            yield from ((f"{name}.{key}", getattr(one, key)) for key in vars(one) if not key.startswith("_"))
    for module in (plots, bench):
        yield from inspect.getmembers(module, inspect.isfunction)


@pytest.mark.parametrize(
    ("name", "one"),
    [pytest.param(*pair, id=pair[0]) for pair in public() if callable(pair[1]) and pair[0] != "TrainingWarning"],
)
def test_signatures_can_be_read(name, one):
    assert len(str(inspect.signature(one))) < 700
