"""Small ONNX files that embed faces, for the tests of teachers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

DIMENSIONS = 24


def write_embedder(path: Path, *, batch: int | str = "n", side: int = 112, scale: float = 1.0) -> Path:
    """Two strided convolutions and a mean over the picture's upper and lower half, mirrored alike."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    first = rng.standard_normal((8, 3, 8, 8)).astype(np.float32)
    second = rng.standard_normal((12, 8, 2, 2)).astype(np.float32)
    weights = {"first": first + first[..., ::-1], "second": (second + second[..., ::-1]) * np.float32(scale)}
    nodes = [
        helper.make_node("Conv", ["input", "first"], ["map14"], strides=[8, 8]),
        helper.make_node("Relu", ["map14"], ["active"]),
        helper.make_node("Conv", ["active", "second"], ["map7"], strides=[2, 2]),
        helper.make_node("Relu", ["map7"], ["bright"]),
        helper.make_node("ReduceMean", ["bright"], ["rows"], axes=[3], keepdims=0),
        helper.make_node("Slice", ["rows", "start", "end", "axis"], ["halves"]),
        helper.make_node("Flatten", ["halves"], ["embedding"], axis=1),
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    constants += [
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in (("start", [2]), ("end", [4]), ("axis", [2]))
    ]
    graph = helper.make_graph(
        nodes,
        "faces",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, DIMENSIONS])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path
