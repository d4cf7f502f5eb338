"""An ONNX graph while it is built, and the file that it becomes."""

import abc
import json
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fastmlp import checks
from fastmlp.version import __version__

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

ML = "ai.onnx.ml"  #: The domain of operators on labels.
SAMPLES = "n_samples"  #: The name of the dimension of samples, of any length.

# onnxruntime has taken both since version 1.12, of 2022, and takes them in all later versions.
_IR, _OPSETS = 8, {"": 17, ML: 2}
_LARGEST_FILE = 2**31 - 1  # of protobuf


class Port(NamedTuple):
    """An input or output of a graph: its name, its dtype (object for text), its length for a sample, its columns."""

    name: str
    dtype: np.dtype[Any]
    length: int | None = None  # None: one value for each sample
    columns: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return name, type, shape and columns for JSON; None stands for the number of samples."""
        shape = [None] if self.length is None else [None, self.length]
        return {"name": self.name, "type": self._type, "shape": shape, "columns": list(self.columns)}

    @property
    def _type(self) -> str:
        return "string" if self.dtype == object else self.dtype.name

    def __str__(self) -> str:
        shape = f"({SAMPLES},)" if self.length is None else f"({SAMPLES}, {self.length})"
        return f"{self.name} {shape} {self._type}"


class Graph(abc.ABC):
    """Nodes and constants; a tensor is the text of its name.

    Parameters
    ----------
    dtype : numpy.dtype
        The dtype of the computation, float32 or float64.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    @abc.abstractmethod
    def node(self, op: str, *inputs: str, called: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, and return the output's name, which is ``called`` if given."""

    @abc.abstractmethod
    def constant(self, name: str, value: Array) -> str:
        """Add a constant, an array of numbers or of str, and return its name, which is like ``name``."""

    def number(self, value: float) -> str:
        """Add a constant of one number in the dtype of the computation."""
        return self.constant("number", np.array(value, self.dtype))

    def cast(self, x: str, dtype: Any, called: str | None = None) -> str:
        """Add a node that converts a tensor, and return the name of its output."""
        return self.node("Cast", x, called=called, to=code(dtype))


class FileGraph(Graph):
    """A graph with inputs and outputs of its own, which becomes a file."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__(dtype)
        require()
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self._nodes: list[Any] = []
        self._constants: dict[str, Array] = {}

    def node(self, op: str, *inputs: str, called: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, and return the output's name, which is ``called`` if given."""
        from onnx import helper

        name = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [called or name], name=name, domain=domain, **attributes))
        return called or name

    def constant(self, name: str, value: Array) -> str:
        """Add a constant, an array of numbers or of str, and return its name, which is like ``name``."""
        taken = f"{name}_{len(self._constants)}" if name in self._constants or name == "number" else name
        self._constants[taken] = value
        return taken

    def input(self, port: Port) -> str:
        """Add an input, and return its name."""
        self.inputs.append(port)
        return port.name

    def serialized(self) -> bytes:
        """Return the content of the file.

        Raises
        ------
        ValueError
            If it would be larger than 2 GiB, which the format does not allow.
        """
        from onnx import helper, numpy_helper

        size = sum(one.nbytes for one in self._constants.values())
        if size > _LARGEST_FILE:
            got, expected = f"a model of {size} bytes", f"at most {_LARGEST_FILE}, which is as much as ONNX files hold"
            raise ValueError(checks.message("model", got, expected, "export it in float32, or a smaller one"))
        constants = [numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        ports = [[_described(port) for port in several] for several in (self.inputs, self.outputs)]
        domains = {node.domain for node in self._nodes}
        model = helper.make_model(
            helper.make_graph(self._nodes, "fastmlp", *ports, constants),
            producer_name="fastmlp",
            producer_version=__version__,
            ir_version=_IR,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in _used(domains)],
        )
        helper.set_model_props(
            model, {f"columns of {port.name}": json.dumps(port.columns) for port in self.inputs if port.columns}
        )
        content: bytes = model.SerializeToString()
        return content


def require() -> None:
    """Raise ImportError unless the package onnx can be imported."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise checks.extra("ONNX files are written by onnx", error, "onnx") from error


def code(dtype: Any) -> int:
    """Return the number that ONNX has for a dtype; object is text."""
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _used(domains: set[str]) -> Iterable[tuple[str, int]]:
    return ((domain, version) for domain, version in _OPSETS.items() if domain in domains or not domain)


def _described(port: Port) -> Any:
    from onnx import helper

    shape = [SAMPLES] if port.length is None else [SAMPLES, port.length]
    return helper.make_tensor_value_info(port.name, code(port.dtype), shape)
