"""scikit-learn's multilayer perceptrons, trained by the kernels of fastmlp.

`MLPClassifier` and `MLPRegressor` have scikit-learn's constructors, attributes and random numbers, so that the same
arguments give the same coefficients, and a few arguments more. They are subclasses of scikit-learn's classes: whatever
is not training (validation of arguments, labels, scores, schedules of the learning rate, messages) is scikit-learn's
own code, in the version that is installed. After `fastmlp.onnx.register`, skl2onnx converts pipelines with them.
"""

from fastmlp import checks

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise checks.extra("the estimators are scikit-learn's", error, "sklearn") from error

from fastmlp.estimator.classifier import MLPClassifier
from fastmlp.estimator.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
