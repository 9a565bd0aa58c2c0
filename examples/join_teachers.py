"""Join two ONNX networks that embed faces into one teacher, near the embeddings that a pupil has already.

    python examples/join_teachers.py a.onnx b.onnx --data faces.toml --pupil pocketnet_s128 -o two.onnx
    pocketnet distill refine_distill --teacher two.onnx --data faces.toml --set model.weights=...

The teacher's embedding is that of the first network beside that of the second, each of length 1 and the
second times ``--weight``, so that a cosine is the mean of both cosines; brought to the pupil's length by the
directions in which they lie on the faces (``training/projection.py``), and turned, which changes no cosine,
so that it is as near as can be to the embeddings that the pupil gives. Both networks take float N,3,112,112,
normalised alike.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import compose, helper, numpy_helper

import pocketnet_fast
from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.models.loading import load_model
from pocketnet_fast.training.onnx_network import OnnxNetwork
from pocketnet_fast.training.projection import principal_directions
from pocketnet_fast.training.sampling import sampled_faces

Array = npt.NDArray[np.float64]


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def nearest_rotation(source: Array, target: Array) -> Array:
    """The orthogonal matrix that brings rows closest to others (Procrustes)."""
    left, _, right = np.linalg.svd(source.T @ target)
    return np.asarray(left @ right)


def embeddings(paths: list[Path], pupil: torch.nn.Module, faces: FaceDataset, count: int) -> list[Array]:
    """Embeddings of length 1 of sampled faces: those of each network, and the pupil's."""
    networks = [OnnxNetwork(path) for path in paths]
    compiled = pocketnet_fast.compile(pupil)
    found: list[list[torch.Tensor]] = [[], [], []]
    for batch in sampled_faces(faces, count):
        x = pupil.input_spec.normalize(batch)
        for rows, network in zip(found, [*networks, None], strict=True):
            rows.append(compiled(batch) if network is None else network(x))
    return [unit(torch.cat(rows).double().numpy()) for rows in found]


def joined(paths: list[Path], weight: float, matrix: Array) -> onnx.ModelProto:
    """One graph of both, whose output is their embeddings, side by side, times a matrix."""
    models = [compose.add_prefix(onnx.load(path), f"{place}_") for place, path in enumerate(paths)]
    version = max(entry.version for model in models for entry in model.opset_import if not entry.domain)
    models = [onnx.version_converter.convert_version(model, version) for model in models]
    nodes, constants, parts = [], [], []
    for place, model in enumerate(models):
        given, result = model.graph.input[0].name, model.graph.output[0].name
        for node in model.graph.node:
            node.input[:] = ["images" if name == given else name for name in node.input]
            nodes.append(node)
        constants += model.graph.initializer
        nodes.append(helper.make_node("LpNormalization", [result], [f"unit{place}"], axis=1, p=2))
        parts.append(f"unit{place}")
    nodes.append(helper.make_node("Mul", [parts[1], "weight"], ["weighted"]))
    nodes.append(helper.make_node("Concat", [parts[0], "weighted"], ["both"], axis=1))
    nodes.append(helper.make_node("MatMul", ["both", "matrix"], ["embedding"]))
    constants.append(numpy_helper.from_array(np.float32(weight), "weight"))
    constants.append(numpy_helper.from_array(matrix.astype(np.float32), "matrix"))
    kind, side = onnx.TensorProto.FLOAT, 112
    graph = helper.make_graph(
        nodes,
        "two_teachers",
        [helper.make_tensor_value_info("images", kind, ["n", 3, side, side])],
        [helper.make_tensor_value_info("embedding", kind, ["n", matrix.shape[1]])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    # What older readers take, too.
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model


def main() -> None:
    """Join, and say how near the teacher is to the pupil."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", type=Path, nargs=2)
    parser.add_argument("--weight", type=float, default=1.0, help="of the second network")
    parser.add_argument("--data", required=True, help="faces, as pocketnet distill takes them")
    parser.add_argument("--pupil", default="pocketnet_s128", help="a network that ships, or a weight file")
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        shipped = arguments.pupil in pocketnet_fast.list_models()
        pupil = (
            pocketnet_fast.create_model(arguments.pupil, pretrained=True)
            if shipped
            else load_model(arguments.pupil, None)
        )
        first, second, own = embeddings(
            arguments.networks, pupil.eval(), open_dataset(arguments.data), arguments.images
        )
        both = np.concatenate([first, arguments.weight * second], 1)
        directions = principal_directions(torch.from_numpy(both), own.shape[1]).double().numpy()
        matrix = directions @ nearest_rotation(both @ directions, own)
        with atomic_write(arguments.output) as file:
            file.write(joined(arguments.networks, arguments.weight, matrix).SerializeToString())
    except PocketNetError as error:
        sys.exit(f"join_teachers: {error}")
    near = float((unit(both @ matrix) * own).sum(1).mean())
    print(f"{arguments.output}: {own.shape[1]} dimensions, cosine {near:.3f} to the pupil in the mean")


if __name__ == "__main__":
    main()
