"""Weights, what they carry of themselves, and networks as graphs."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pocketnet_fast.errors import PocketNetError
from readers.target import JSON_WORDS, PICKLE_WORDS, ROOT, Target, as_text, laid


def _read_weights(data: bytes, folder: Path) -> None:
    from pocketnet_fast.models.loading import load_model

    name, _, content = data.partition(b"\n")
    known = (".safetensors", ".pth", ".pth.tar", ".pt", ".ckpt", ".bin")
    suffix = known[name[0] % len(known)] if name else known[0]
    load_model(laid(content, folder, f"weights{suffix}"))


def _weight_seeds() -> Iterator[bytes]:
    import torch
    from safetensors.torch import save

    state = {"stem.0.weight": torch.zeros(2, 3, 1, 1), "tail.7.bias": torch.ones(2)}
    yield b"\0\n" + save(state)
    yield b"\0\n" + save(state, {"model_name": "pocketnet_s128", "calibration": "{}", "genotype": "x"})
    for wrapped in (state, {"state_dict": {f"module.{key}": value for key, value in state.items()}}):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(wrapped, stream, _use_new_zipfile_serialization=zipped)
            yield b"\1\n" + stream.getvalue()


def _read_calibration(data: bytes, folder: Path) -> None:
    from pocketnet_fast.models.calibration import Calibration

    calibration = Calibration.from_json(as_text(data), "weights")
    assert Calibration.from_json(json.dumps(calibration.as_dict()), "again") == calibration
    assert str(calibration)


def _calibration_seeds() -> Iterator[bytes]:
    from safetensors import safe_open

    path = ROOT / "pocketnet_fast/models/pretrained/pocketnet_s128.safetensors"
    with safe_open(path, framework="np") as file:
        yield file.metadata()["calibration"].encode()
    yield json.dumps(
        {
            **{"threshold": 0.4, "far": 1e-3, "measured_far": 1e-3, "measured_tar": 0.9, "flip": True},
            **{"impostor_pairs": 1000, "genuine_pairs": 10, "dataset": "lfw (all pairs)"},
            "weights_sha256": "00",
        }
    ).encode()


def _read_state(data: bytes, folder: Path) -> None:
    from pocketnet_fast.resumable.state_file import read_state

    read_state(laid(data, folder, "state.safetensors"), "pocketnet_fast.training.1")


def _state_seeds() -> Iterator[bytes]:
    import torch

    from pocketnet_fast.resumable.state_file import write_state

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        write_state(
            path, {"momentum": torch.ones(2, 3)}, {"format": "pocketnet_fast.training.1", "progress": "{}"}
        )
        yield path.read_bytes()


def _read_onnx(data: bytes, folder: Path) -> None:
    from pocketnet_fast.models.onnx_weights import read_onnx_weights
    from pocketnet_fast.models.yunet import read_onnx

    path = laid(data, folder, "network.onnx")
    with contextlib.suppress(PocketNetError):
        read_onnx(path)
    read_onnx_weights(path)


def _onnx_seeds() -> Iterator[bytes]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.ones(shape, np.float32), name)

    def model(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> bytes:
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, 112])
        result = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "g", [image], [result], constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        return bytes(made.SerializeToString())

    node = helper.make_node
    norm = [constant(f"n{i}", 4) for i in range(4)]
    products = [
        node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "n0", "n1", "n2", "n3"], ["b"]),
        node("PRelu", ["b", "s"], ["p"]),
        node("MaxPool", ["p"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["m"], ["f"]),
        node("Gemm", ["f", "g", "h"], ["y"], transB=1),
    ]
    slopes, matrix, bias = constant("s", 4, 1, 1), constant("g", 2, 4), constant("h", 2)
    yield model(products, [constant("w", 4, 3, 3, 3), *norm, slopes, matrix, bias])
    shapes = [
        node("Constant", [], ["k"], value=constant("k", 2)),
        node("Cast", ["k"], ["i"], to=TensorProto.INT64),
        node("Shape", ["x"], ["q"]),
        node("Reshape", ["x", "i"], ["r"]),
        node("Clip", ["r", "", ""], ["y"]),
    ]
    yield model(shapes, [])


def _read_metadata(data: bytes, folder: Path) -> None:
    from pocketnet_fast.export.aotinductor import read_package_metadata
    from pocketnet_fast.export.exported import is_exported
    from pocketnet_fast.export.torchscript_file import read_metadata

    path = laid(data, folder, "network.pt")
    is_exported(path)
    with contextlib.suppress(PocketNetError):
        read_package_metadata(path)
    read_metadata(path)


def _metadata_seeds() -> Iterator[bytes]:
    from pocketnet_fast.export.torchscript import METADATA_FILE

    about = json.dumps({"model": "small", "embedding_dim": 4, "input": "uint8"})
    files = {f"network/extra/{METADATA_FILE}": about, "network/code/a.py": "", "network/version": "3"}
    package = {"p/data/aotinductor/model/a_metadata.json": json.dumps({METADATA_FILE: about})}
    for content in (files, package):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, text in content.items():
                archive.writestr(name, text)
        yield stream.getvalue()


TARGETS = {
    "weights": Target(_read_weights, _weight_seeds, (b"PK\x03\x04", b'"__metadata__"', *PICKLE_WORDS), 8192),
    "calibration": Target(_read_calibration, _calibration_seeds, (*JSON_WORDS, b'"points"', b'"measured"')),
    "training_state": Target(_read_state, _state_seeds, (b'"format"', b'"sha256"', b"F32")),
    "onnx": Target(
        _read_onnx, _onnx_seeds, (b"Constant", b"Reshape", b"Transpose", b"Cast", b"Conv", b"Gemm", b"Clip")
    ),
    "metadata": Target(
        _read_metadata, _metadata_seeds, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"/extra/", b"/code/")
    ),
}
