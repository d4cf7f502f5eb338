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
    sample, which skl2onnx has for float32 only), and ``variable``. All activations, losses and kinds of targets are
    converted.

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
    except ImportError as error:
        raise checks.extra("pipelines are converted by skl2onnx", error, "onnx") from error
    from fastmlp.estimator import MLPClassifier, MLPRegressor

    options = {"zipmap": [True, False, "columns"], "output_class_labels": [False, True], "nocl": [True, False]}
    update_registered_converter(
        MLPClassifier,
        "FastmlpMLPClassifier",
        _set_classifier_types,
        _convert_classifier,
        options=options,
    )
    update_registered_converter(
        MLPRegressor,
        "FastmlpMLPRegressor",
        _set_regressor_types,
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


# skl2onnx's own functions for the types of outputs, and its converters, do not know several outputs.
def _set_classifier_types(operator: Any) -> None:
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType

    estimator, (label, probabilities) = operator.raw_operator, operator.outputs
    samples, classes = operator.inputs[0].get_first_dimension(), len(estimator.classes_)
    is_text = np.asarray(estimator.classes_).dtype.kind in "OSU"
    label.type = (StringTensorType if is_text else Int64TensorType)(
        [samples, classes] if _is_multilabel(estimator) else [samples]
    )
    probabilities.type = _float_type(operator)([samples, classes])


def _set_regressor_types(operator: Any) -> None:
    samples = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type = _float_type(operator)([samples, operator.raw_operator.n_outputs_])


def _is_multilabel(estimator: Any) -> bool:
    return bool(estimator._label_binarizer.y_type_ == "multilabel-indicator")


def _float_type(operator: Any) -> Any:
    """Return the type of numbers of a conversion: float64 if the input is, else float32."""
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    return DoubleTensorType if isinstance(operator.inputs[0].type, DoubleTensorType) else FloatTensorType


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    estimator = operator.raw_operator
    drawn, z = _logits(scope, operator, container)
    labels = None
    if not _is_multilabel(estimator):
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
    estimator, given, kind = operator.raw_operator, operator.inputs[0], _float_type(operator)
    dtype = np.dtype(np.float64 if kind.__name__.startswith("Double") else np.float32)
    drawn = _ScopeGraph(dtype, scope, container)
    x = given.full_name if isinstance(given.type, kind) else drawn.cast(given.full_name, dtype)
    net = Layers([coef.T for coef in estimator.coefs_], estimator.intercepts_, estimator.activation, "")
    return drawn, nodes.logits(drawn, x, net)
