"""Converters for skl2onnx, so that pipelines with the estimators of `fastmlp.estimator` become ONNX files."""

from typing import Any, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.interchange import graph, nodes
from fastmlp.interchange.layers import Layers
from fastmlp.interchange.preparation import Preparation

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

__all__ = ["register"]


def register() -> None:
    """Tell skl2onnx how to convert `fastmlp.estimator.MLPClassifier` and `MLPRegressor`.

    Call it once in a process, before ``skl2onnx.to_onnx`` or ``skl2onnx.convert_sklearn``; more calls change nothing.
    The estimators may then be steps of a Pipeline, a search over parameters and the like. Outputs and options are those
    of scikit-learn's estimators: ``label`` and ``probabilities`` (or, unless ``zipmap`` is False, a dict for each
    sample), and ``variable``. All activations, losses and kinds of targets are converted.

    Raises
    ------
    ImportError
        If skl2onnx, part of the extra ``onnx``, or scikit-learn is not installed.

    Examples
    --------
    >>> import fastmlp.onnx, skl2onnx  # doctest: +SKIP
    >>> fastmlp.onnx.register()  # doctest: +SKIP
    >>> file = skl2onnx.to_onnx(pipeline, X[:1], options={"zipmap": False})  # doctest: +SKIP
    """
    try:
        from skl2onnx import update_registered_converter
        from skl2onnx.common import shape_calculator
    except ImportError as error:
        raise checks.extra("pipelines are converted by skl2onnx", error, "onnx") from error
    from fastmlp.estimator import MLPClassifier, MLPRegressor

    options = {"zipmap": [True, False, "columns"], "output_class_labels": [False, True], "nocl": [True, False]}
    update_registered_converter(
        MLPClassifier,
        "FastmlpMLPClassifier",
        shape_calculator.calculate_linear_classifier_output_shapes,
        _convert_classifier,
        options=options,
    )
    update_registered_converter(
        MLPRegressor,
        "FastmlpMLPRegressor",
        shape_calculator.calculate_linear_regressor_output_shapes,
        _convert_regressor,
    )


class _ScopeGraph(graph.Graph):
    """The graph of a conversion by skl2onnx."""

    def __init__(self, dtype: np.dtype[Any], scope: Any, container: Any) -> None:
        super().__init__(dtype)
        self._scope, self._container = scope, container

    def node(self, op: str, *inputs: str, called: str | None = None, domain: str = "", **attributes: Any) -> str:
        output = called or self._scope.get_unique_variable_name(op)
        name = self._scope.get_unique_operator_name(op)
        self._container.add_node(op, list(inputs), [output], op_domain=domain, name=name, **attributes)
        return str(output)

    def constant(self, name: str, value: Array) -> str:
        taken = self._scope.get_unique_variable_name(name)
        values = [text.encode() for text in value.tolist()] if value.dtype == object else value.ravel()
        self._container.add_initializer(taken, graph.code(value.dtype), list(value.shape), values)
        return str(taken)


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    estimator = operator.raw_operator
    drawn, z = _logits(scope, operator, container)
    labels = None
    if estimator._label_binarizer.y_type_ != "multilabel-indicator":
        labels = np.asarray(estimator.classes_)
        # skl2onnx has labels that are int64 or text.
        labels = labels.astype(np.int64) if labels.dtype.kind in "biuf" else labels.astype(object)
    loss = "cross_entropy" if estimator.out_activation_ == "softmax" else "logistic"
    label, probabilities = operator.outputs
    nodes.classified(drawn, z, labels, loss, (label.full_name, probabilities.full_name))


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    drawn, z = _logits(scope, operator, container)
    nodes.measured(drawn, z, Preparation(), operator.raw_operator.loss, operator.outputs[0].full_name)


def _logits(scope: Any, operator: Any, container: Any) -> tuple[graph.Graph, str]:
    """Add the net of an estimator to the graph of a conversion; return the graph, and the logits."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    estimator, given = operator.raw_operator, operator.inputs[0]
    dtype = np.dtype(np.float64 if isinstance(given.type, DoubleTensorType) else np.float32)
    drawn = _ScopeGraph(dtype, scope, container)
    x = given.full_name
    if not isinstance(given.type, (DoubleTensorType, FloatTensorType)):
        x = drawn.cast(x, dtype)
    net = Layers([coef.T for coef in estimator.coefs_], estimator.intercepts_, estimator.activation, "")
    return drawn, nodes.logits(drawn, x, net)
