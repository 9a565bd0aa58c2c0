"""The convolutions of a foreign ONNX file, taken by the structure of its graph, whatever its names are.

A network of this package says what graph it is, in a ``Graph``. A file whose convolutions, activations, pools
and sums are the same, of the same shapes and joined in the same way, holds its weights in the same order; any
other is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from pocketnet_fast.errors import PocketNetError

_SAME: Final = ("Identity", "Dropout", "Flatten", "Reshape", "Transpose", "Sigmoid", "Sub", "Mul", "Div")


class Node(NamedTuple):
    """An operation: what it is, with its sizes, and the numbers of the nodes whose results it takes.

    The image is number -1.
    """

    operation: str
    sizes: tuple[int, ...]
    inputs: tuple[int, ...]


@dataclass
class Graph:
    """A network as nodes in the order of their results, to be compared with another."""

    nodes: list[Node] = field(default_factory=list)

    def add(self, operation: str, sizes: Sequence[int], *inputs: int) -> int:
        """Append an operation; returns its number."""
        self.nodes.append(Node(operation, tuple(sizes), inputs))
        return len(self.nodes) - 1

    def convolution(self, x: int, channels: int, inputs: int, kernel: int, stride: int, groups: int) -> int:
        """A convolution with a bias and padding of half its window; ``inputs`` are its input channels."""
        return self.add("Conv", (channels, inputs // groups, kernel, stride, groups), x)


class Constants(NamedTuple):
    """Weights and bias of a convolution."""

    weight: np.ndarray
    bias: np.ndarray | None


def read_constants(path: Path, trace: Callable[[Graph], object], name: str) -> list[Constants]:
    """Read the convolutions of an ONNX file that is a certain network.

    Args:
        path: The file.
        trace: Appends what the network consists of to an empty graph.
        name: The network's, for messages.

    Returns:
        Those of each "Conv" of the traced graph, in its order.

    Raises:
        PocketNetError: If the package onnx is missing, the file is none of ONNX, or another network.
    """
    try:
        import onnx
    except ImportError:
        raise PocketNetError(
            f"{path}: reading ONNX files needs the package onnx: pip install 'pocketnet_fast[onnx]'"
        ) from None
    try:
        graph = onnx.load(str(path)).graph
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except Exception as error:  # the parser's own, and those of broken shapes
        raise PocketNetError(f"{path} cannot be read as an ONNX file: {_line(error)}") from None
    expected = Graph()
    trace(expected)
    found, convolutions = _nodes(graph, constants, path)
    if found != expected.nodes:
        place = next((i for i, (a, b) in enumerate(zip(found, expected.nodes, strict=False)) if a != b), -1)
        differs = (
            f"it has {len(found)} operations, a {name} {len(expected.nodes)}"
            if place < 0
            else f"operation {place + 1} is {_text(found[place])}, a {name}'s {_text(expected.nodes[place])}"
        )
        raise PocketNetError(f"{path} is no {name}: {differs}")
    return convolutions


def _nodes(graph: Any, constants: dict[str, np.ndarray], path: Path) -> tuple[list[Node], list[Constants]]:
    numbers = {tensor.name: -1 for tensor in graph.input if tensor.name not in constants}
    nodes: list[Node] = []
    convolutions: list[Constants] = []
    for node in graph.node:
        attributes: dict[str, Any] = {a.name: list(a.ints) or a.i for a in node.attribute}
        if node.op_type == "Constant":
            continue
        inputs = tuple(numbers[name] for name in node.input if name in numbers)
        if node.op_type in _SAME and len(inputs) == 1:
            numbers[node.output[0]] = inputs[0]
            continue
        sizes: tuple[int, ...] = ()
        if node.op_type == "Conv":
            weight = constants.get(node.input[1])
            if weight is None or weight.ndim != 4:
                raise PocketNetError(
                    f"{path}: the convolution {node.name or node.output[0]} has no constant weights"
                )
            bias = constants.get(node.input[2]) if len(node.input) > 2 else None
            convolutions.append(Constants(weight, bias))
            stride = attributes.get("strides", [1, 1])[0]
            sizes = (*weight.shape[:3], stride, attributes.get("group", 1))
        elif node.op_type == "MaxPool":
            sizes = (attributes["kernel_shape"][0], attributes["strides"][0])
        nodes.append(Node(node.op_type, sizes, inputs))
        numbers[node.output[0]] = len(nodes) - 1
    return nodes, convolutions


def _text(node: Node) -> str:
    return f"{node.operation}{[*node.sizes] if node.sizes else ''} of {[*node.inputs]}"


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
