"""The convolutions of a foreign ONNX file, taken by the structure of its graph, whatever its names are.

A network of this package says what graph it is, in a ``Graph``. A file whose operations are the same, of the
same shapes and joined in the same way, holds its weights in the same order; any other is refused. A
normalisation belongs to the product before it, as most exports fold it into that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from pocketnet_fast.errors import PocketNetError

# What changes nothing, and what changes no value of a state of one pixel.
_SAME: Final = ("Identity", "Dropout", "Cast")
_RESHAPING: Final = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
# What exports leave between a constant and who takes it.
_OF_CONSTANTS: Final = ("Identity", "Cast", *_RESHAPING)
_OF_SHAPES: Final = ("Gather", "Concat", "Slice", "Cast", "Unsqueeze", "Squeeze", "Mul")
_PRODUCTS: Final = ("Conv", "Gemm")
_IMAGE: Final = -1


class Node(NamedTuple):
    """An operation: what it is, with its sizes, and the numbers of the nodes whose results it takes.

    The image is number -1.
    """

    operation: str
    sizes: tuple[int, ...]
    inputs: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.operation}{[*self.sizes] if self.sizes else ''} of {[*self.inputs]}"


@dataclass
class Graph:
    """A network as nodes in the order of their results, to be compared with another."""

    nodes: list[Node] = field(default_factory=list)

    def add(self, operation: str, sizes: Sequence[int], *inputs: int) -> int:
        """Append an operation; returns its number."""
        self.nodes.append(Node(operation, tuple(sizes), tuple(sorted(inputs))))
        return len(self.nodes) - 1

    def convolution(
        self,
        x: int,
        channels: int,
        inputs: int,
        kernel: int,
        stride: int,
        groups: int,
        padding: int | None = None,
    ) -> int:
        """A convolution; ``inputs`` are its input channels, ``padding`` is half its window unless given."""
        pad = kernel // 2 if padding is None else padding
        return self.add("Conv", (channels, inputs // groups, kernel, stride, groups, pad), x)


class Norm(NamedTuple):
    """The constants of a batch normalisation."""

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float


class Constants(NamedTuple):
    """Weights and bias of a product and the normalisation after it, or the slopes of an activation."""

    weight: np.ndarray
    bias: np.ndarray | None = None
    norm: Norm | None = None

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights and bias of a product with its normalisation in them."""
        bias = np.zeros(len(self.weight), np.float32) if self.bias is None else self.bias
        if self.norm is None:
            return self.weight, bias
        scale = self.norm.weight / np.sqrt(self.norm.variance + self.norm.epsilon)
        weight = self.weight * scale.reshape(-1, *(1,) * (self.weight.ndim - 1))
        return weight, (bias - self.norm.mean) * scale + self.norm.bias


class ReadGraph(NamedTuple):
    """What a file holds.

    Attributes:
        path: The file.
        nodes: As ``Graph`` has them.
        constants: Those of the nodes that have any, by number.
        inputs: Types and sizes of the inputs; a size that is not fixed is None.
        result: The number of the node whose result the file's is; None if it has several.
    """

    path: Path
    nodes: list[Node]
    constants: dict[int, Constants]
    inputs: list[tuple[str, tuple[int | None, ...]]]
    result: int | None

    def differs(self, expected: Graph) -> int | None:
        """The first node that is not the other graph's; None if all are."""
        pairs = itertools.zip_longest(self.nodes, expected.nodes)
        return next((number for number, (found, wanted) in enumerate(pairs) if found != wanted), None)

    def difference(self, expected: Graph, name: str) -> str:
        """In words, where this is not the graph of a network of that name."""
        place = self.differs(expected)
        assert place is not None
        if place >= min(len(self.nodes), len(expected.nodes)):
            return f"it has {len(self.nodes)} operations, a {name} {len(expected.nodes)}"
        return f"operation {place + 1} is {self.nodes[place]}, a {name}'s {expected.nodes[place]}"


def read_constants(
    path: Path, trace: Callable[[Graph], object], name: str, same: Collection[str] = ()
) -> list[Constants]:
    """Read the convolutions of an ONNX file that is a certain network.

    Args:
        path: The file.
        trace: Appends what the network consists of to an empty graph.
        name: The network's, for messages.
        same: See ``read_graph``.

    Returns:
        Those of each "Conv" of the traced graph, in its order.

    Raises:
        PocketNetError: See ``read_graph``; or the file is another network.
    """
    found, expected = read_graph(path, same), Graph()
    trace(expected)
    if found.differs(expected) is not None:
        raise PocketNetError(f"{path} is no {name}: {found.difference(expected, name)}")
    return [found.constants[number] for number, node in enumerate(found.nodes) if node.operation == "Conv"]


def read_graph(path: Path, same: Collection[str] = (), *, side: int | None = None) -> ReadGraph:
    """Read the graph of an ONNX file; constants of half precision are made single.

    Args:
        path: The file.
        same: Operations that are left out where they have one input, besides those that change no value.
        side: Height of the images; with it, what reshapes a state of a single pixel is known to change none.

    Raises:
        PocketNetError: The package onnx is missing, or the file is none of ONNX.
    """
    try:
        import onnx
    except ImportError:
        raise PocketNetError(
            f"{path}: reading ONNX files needs the package onnx: pip install 'pocketnet_fast[onnx]'"
        ) from None
    try:
        return _Reader(onnx.load(str(path)), path, same, side).read()
    except PocketNetError:
        raise
    except Exception as error:  # the parser's own, and those of broken shapes
        raise PocketNetError(f"{path} cannot be read as an ONNX file: {_line(error)}") from None


class _Reader:
    def __init__(self, model: Any, path: Path, same: Collection[str], side: int | None) -> None:
        from onnx import numpy_helper

        self.graph, self.opsets, self.path = model.graph, model.opset_import, path
        self.same = (*_SAME, *same)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        inputs = [value for value in self.graph.input if value.name not in self.constants]
        self.inputs = [_interface(value) for value in inputs]
        # The node whose result a value is, by the value's name; the height of each node's, if it is known.
        self.numbers = {value.name: _IMAGE for value in inputs}
        self.sides: dict[int, int | None] = {_IMAGE: side}
        self.shapes: set[str] = set()
        self.nodes: list[Node] = []
        self.found: dict[int, Constants] = {}

    def read(self) -> ReadGraph:
        for node in self.graph.node:
            if not self._take_constant(node):
                self._take(node)
        outputs = self.graph.output
        result = self.numbers.get(outputs[0].name) if len(outputs) == 1 else None
        return ReadGraph(self.path, self.nodes, self.found, self.inputs, result)

    def _take_constant(self, node: Any) -> bool:
        """Whether a node's result is a constant or arithmetic of shapes, and no function of the image."""
        names = [name for name in node.input if name]
        if node.op_type == "Constant" or (
            node.op_type in _OF_CONSTANTS and all(name in self.constants for name in names)
        ):
            self.constants[node.output[0]] = self._evaluated(node, names)
            return True
        of_shapes = node.op_type in _OF_SHAPES and any(name in self.shapes for name in names)
        if node.op_type == "Shape" or (of_shapes and not any(name in self.numbers for name in names)):
            self.shapes.add(node.output[0])
            return True
        return False

    def _evaluated(self, node: Any, names: list[str]) -> np.ndarray:
        from onnx import helper, numpy_helper
        from onnx.reference import ReferenceEvaluator

        result = helper.make_empty_tensor_value_info(node.output[0])
        constants = [numpy_helper.from_array(self.constants[name], name) for name in names]
        graph = helper.make_graph([node], "constant", [], [result], constants)
        model = helper.make_model(graph, opset_imports=self.opsets)
        results: Any = ReferenceEvaluator(model).run(None, {})
        return np.asarray(results[0])

    def _take(self, node: Any) -> None:
        from onnx import helper

        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        taken = [self.numbers[name] for name in node.input if name in self.numbers]
        output = node.output[0]
        if len(taken) == 1:
            unchanged = node.op_type in self.same or (
                node.op_type in _RESHAPING and self.sides.get(taken[0]) == 1
            )
            if unchanged or self._absorbed(node, attributes, taken[0]):
                self.numbers[output] = taken[0]
                return
        operation, sizes, constants = self._operation(node, attributes)
        number = len(self.nodes)
        self.nodes.append(Node(operation, sizes, tuple(sorted(taken))))
        self.numbers[output] = number
        if constants is not None:
            self.found[number] = constants
        side = self.sides.get(taken[0]) if taken else None
        if operation == "Conv" and len(sizes) == 6 and side is not None:
            _, _, kernel, stride, _, padding = sizes
            side = (side + 2 * padding - kernel) // stride + 1
        elif operation in ("MaxPool", "Resize"):
            side = None
        self.sides[number] = side

    def _absorbed(self, node: Any, attributes: dict[str, Any], product: int) -> bool:
        """Whether a node became a part of the product before it, as its normalisation or its bias."""
        constants = self.found.get(product)
        if constants is None or self.nodes[product].operation not in _PRODUCTS or constants.norm is not None:
            return False
        if any(product in other.inputs for other in self.nodes):
            return False
        values = [self.constants.get(name) for name in node.input if name not in self.numbers]
        channels = len(constants.weight)
        if node.op_type == "BatchNormalization" and attributes.get("training_mode", 0) == 0:
            if len(values) != 4 or any(value is None or value.shape != (channels,) for value in values):
                return False
            weight, bias, mean, variance = (_single(value) for value in values if value is not None)
            norm = Norm(weight, bias, mean, variance, attributes.get("epsilon", 1e-5))
            self.found[product] = constants._replace(norm=norm)
        elif node.op_type == "Add" and self.nodes[product].operation == "Gemm" and constants.bias is None:
            (value,) = values
            if value is None or value.shape not in ((channels,), (1, channels)):
                return False
            self.found[product] = constants._replace(bias=_single(value).reshape(-1))
        else:
            return False
        # Whoever takes the product without this is no part of a network that is known.
        self.numbers = {name: number for name, number in self.numbers.items() if number != product}
        return True

    def _operation(
        self, node: Any, attributes: dict[str, Any]
    ) -> tuple[str, tuple[int, ...], Constants | None]:
        """What a node is, its sizes, and its constants."""
        operation: str = node.op_type
        if operation == "Conv":
            return self._convolution(node, attributes)
        if operation in ("Gemm", "MatMul") and node.input[1] in self.constants:
            return self._matrix(node, attributes)
        if operation == "PRelu":
            slopes = self._constant(node, 1, "slopes")
            per_channel = slopes.ndim >= 3 and slopes.shape[-3] == slopes.size
            return operation, (slopes.size,) if per_channel else slopes.shape, Constants(slopes.reshape(-1))
        if operation == "Clip":
            return self._clip(node, attributes)
        if operation == "MaxPool":
            return operation, (attributes["kernel_shape"][0], attributes["strides"][0]), None
        return operation, (), None

    def _constant(self, node: Any, place: int, what: str) -> np.ndarray:
        value = self.constants.get(node.input[place])
        if value is None:
            raise PocketNetError(
                f"{self.path}: the {node.op_type} {node.name or node.output[0]} has no constant {what}"
            )
        return _single(value)

    def _convolution(
        self, node: Any, attributes: dict[str, Any]
    ) -> tuple[str, tuple[int, ...], Constants | None]:
        weight = self._constant(node, 1, "weights")
        bias = self._constant(node, 2, "bias") if len(node.input) > 2 and node.input[2] else None
        kernel, strides = weight.shape[2:], tuple(attributes.get("strides", (1, 1)))
        dilations, pads = attributes.get("dilations", (1, 1)), tuple(attributes.get("pads", (0,) * 4))
        groups = attributes.get("group", 1)
        # The sizes of one that is not alike in both directions are those of no network that is known.
        sizes = (*weight.shape, *strides, groups, *pads, *dilations)
        alike = len({*kernel}) == len({*strides}) == len({*pads}) == 1 and {*dilations} == {1}
        if weight.ndim == 4 and alike and attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"):
            sizes = (*weight.shape[:3], strides[0], groups, pads[0])
        return "Conv", sizes, Constants(weight, bias)

    def _matrix(self, node: Any, attributes: dict[str, Any]) -> tuple[str, tuple[int, ...], Constants | None]:
        weight = self._constant(node, 1, "weights")
        if not (node.op_type == "Gemm" and attributes.get("transB", 0)):
            weight = weight.T
        bias = None
        if len(node.input) > 2 and node.input[2]:
            bias = np.broadcast_to(self._constant(node, 2, "bias").reshape(-1), weight.shape[:1])
        plain = (
            attributes.get("transA", 0) == 0 and attributes.get("alpha", 1) == attributes.get("beta", 1) == 1
        )
        return "Gemm" if plain else "scaled Gemm", weight.shape, Constants(weight, bias)

    def _clip(self, node: Any, attributes: dict[str, Any]) -> tuple[str, tuple[int, ...], Constants | None]:
        names = [*node.input[1:], "", ""]
        low, high = (
            self.constants[name].item() if name in self.constants else attributes.get(attribute)
            for name, attribute in zip(names, ("min", "max"), strict=False)
        )
        return ("Relu6" if (low, high) == (0, 6) else "Clip"), (), None


def _single(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32)


def _interface(value: Any) -> tuple[str, tuple[int | None, ...]]:
    """Type and sizes of an input."""
    from onnx import TensorProto

    tensor = value.type.tensor_type
    sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorProto.DataType.Name(tensor.elem_type).lower(), sizes


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
