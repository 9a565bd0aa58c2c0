"""An ONNX file of a PocketNet as a list of TensorFlow.js operations, for ``benchmarks/web.mjs``.

    python benchmarks/web_graph.py build/web_bench/m.onnx build/web_bench/graph

writes ``graph.json`` and ``weights.bin``. TensorFlow.js has no reader of ONNX files, and its own converter
asks for TensorFlow; what it would make are the same operations, convolutions with their bias as one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


class Graph:
    """Operations in NHWC, and their constants one behind the other."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.initializers = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.operations: list[dict[str, Any]] = []
        self.constants: list[dict[str, Any]] = []
        self.values: list[np.ndarray] = []
        for node in model.graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            getattr(self, f"add_{node.op_type.lower()}")(node, attributes)

    def constant(self, value: np.ndarray) -> int:
        offset = sum(v.size for v in self.values)
        self.values.append(np.ascontiguousarray(value, np.float32))
        self.constants.append({"shape": list(value.shape), "offset": offset})
        return len(self.constants) - 1

    def emit(self, op: str, node: onnx.NodeProto, inputs: list[str], **more: Any) -> None:
        self.operations.append({"op": op, "inputs": inputs, "output": node.output[0], **more})

    def add_conv(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        weights = self.initializers[node.input[1]]
        depthwise = attributes["group"] > 1
        if depthwise and (weights.shape[1] != 1 or attributes["group"] != weights.shape[0]):
            raise SystemExit(f"a convolution of {attributes['group']} groups is not depthwise")
        order = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
        bias = self.initializers[node.input[2]] if len(node.input) > 2 else None
        self.emit(
            "depthwise" if depthwise else "convolution",
            node,
            [node.input[0]],
            weights=self.constant(weights.transpose(order)),
            bias=None if bias is None else self.constant(bias),
            stride=attributes["strides"][0],
            pad=attributes["pads"][0],
        )

    def add_prelu(self, node: onnx.NodeProto, _attributes: dict[str, Any]) -> None:
        slope = self.initializers[node.input[1]]
        self.emit("prelu", node, [node.input[0]], slope=self.constant(slope.reshape(-1)))

    def add_add(self, node: onnx.NodeProto, _attributes: dict[str, Any]) -> None:
        self.emit("add", node, list(node.input))

    def add_concat(self, node: onnx.NodeProto, _attributes: dict[str, Any]) -> None:
        self.emit("concat", node, list(node.input))

    def add_maxpool(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        self.emit("maxpool", node, [node.input[0]], stride=attributes["strides"][0])

    def add_batchnormalization(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> None:
        gamma, beta, mean, variance = (self.initializers[name].astype(np.float64) for name in node.input[1:])
        scale = gamma / np.sqrt(variance + attributes["epsilon"])
        self.emit(
            "affine",
            node,
            [node.input[0]],
            scale=self.constant(scale),
            shift=self.constant(beta - scale * mean),
        )

    def add_slice(self, node: onnx.NodeProto, _attributes: dict[str, Any]) -> None:
        starts, axes = (self.initializers[node.input[i]].reshape(-1).tolist() for i in (1, 3))
        # N, C, H, W to N, H, W, C.
        begin = [0, 0, 0, 0]
        for start, axis in zip(starts, axes, strict=True):
            begin[{0: 0, 1: 3, 2: 1, 3: 2}[axis]] = start
        self.emit("slice", node, [node.input[0]], begin=begin)

    def add_reshape(self, node: onnx.NodeProto, _attributes: dict[str, Any]) -> None:
        self.emit("flatten", node, [node.input[0]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("onnx", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    model = onnx.load(arguments.onnx)
    graph = Graph(model)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    content = {
        "input": model.graph.input[0].name,
        "output": model.graph.output[0].name,
        "constants": graph.constants,
        "operations": graph.operations,
    }
    (arguments.folder / "graph.json").write_text(json.dumps(content))
    (arguments.folder / "weights.bin").write_bytes(
        np.concatenate([v.reshape(-1) for v in graph.values]).tobytes()
    )


if __name__ == "__main__":
    main()
