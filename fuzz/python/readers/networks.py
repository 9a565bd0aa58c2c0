"""Weights, what they carry of themselves, and networks as graphs."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketnet_fast.errors import PocketNetError
from readers.checksums import safetensors_with_length, zip_with_checksums
from readers.target import BETWEEN, JSON_WORDS, PICKLE_WORDS, ROOT, Target, as_text, laid

if TYPE_CHECKING:
    import onnx


def _read_weights(data: bytes, folder: Path) -> None:
    from pocketnet_fast.models.loading import load_model

    name, _, content = data.partition(b"\n")
    known = (".safetensors", ".pth", ".pth.tar", ".pt", ".ckpt", ".bin")
    suffix = known[name[0] % len(known)] if name else known[0]
    mend = safetensors_with_length if suffix == known[0] else zip_with_checksums
    load_model(laid(mend(content), folder, f"weights{suffix}"))


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


def _read_described_network(data: bytes, folder: Path) -> None:
    """Lines of NAME:SIZE,SIZE are tensors without memory, those of NAME=TEXT metadata."""
    import torch

    from pocketnet_fast.models.checkpoint_file import CheckpointFile
    from pocketnet_fast.models.identification import architecture_for
    from pocketnet_fast.models.loading import build_for

    lines = as_text(data).splitlines()
    metadata = dict(line.split("=", 1) for line in lines if "=" in line)
    state = {}
    for line in lines:
        name, colon, sizes = line.partition(":")
        with contextlib.suppress(ValueError, RuntimeError, TypeError):
            if colon:
                state[name] = torch.zeros(1).expand([int(size) for size in sizes.split(",") if size])
    file = CheckpointFile(folder / "weights.safetensors", state, metadata)
    build_for(file, architecture_for(file))


def _described_network_seeds() -> Iterator[bytes]:
    from pocketnet_fast.models.architectures import build_network
    from pocketnet_fast.models.mobilefacenet_mbf import MbfSizes, MobileFaceNetMbf, mbf_sizes

    genotype = "Genotype(normal=[[('skip_connect', 0), ('skip_connect', 1)]], normal_concat=range(2, 3), "
    genotype += "reduce=[[('max_pool_3x3', 0), ('max_pool_3x3', 1)]], reduce_concat=range(2, 3))"
    small = build_network("pocketnet", 4, genotype, 4, 4)
    short = MbfSizes(8, 4, mbf_sizes().blocks[:2], 8)
    for model in (small, MobileFaceNetMbf(4, short)):
        shapes = "".join(
            f"{name}:{','.join(map(str, tensor.shape))}\n" for name, tensor in model.state_dict().items()
        )
        yield shapes.encode()
        stated = {"model_name": model.model_name, "embedding_dim": 4}
        if model is small:
            stated |= {"genotype": genotype, "channels": 4, "layers": 4}
        yield ("".join(f"{key}={value}\n" for key, value in stated.items()) + shapes).encode()


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
    import torch

    from pocketnet_fast.resumable.state_file import write_state
    from pocketnet_fast.search.checkpoint import SearchFolder
    from pocketnet_fast.training.checkpoint import RunFolder

    text, between, _ = data.partition(BETWEEN)
    path = laid(data, folder, "1state.safetensors")
    if between:
        # With the SHA-256 that would keep every changed file out.
        about = dict(line.split("=", 1) for line in as_text(text).splitlines() if "=" in line)
        write_state(path, {"momentum": torch.ones(2, 3)}, about)
    for run in (SearchFolder(folder), RunFolder(folder)):
        run.latest()
    RunFolder(folder).progress(1)


def _state_seeds() -> Iterator[bytes]:
    import torch

    from pocketnet_fast.resumable.folder import Progress
    from pocketnet_fast.resumable.state_file import write_state
    from pocketnet_fast.search.checkpoint import SearchProgress

    for kind, progress in (("training", Progress(5, 8, 1)), ("search", SearchProgress(5, 8, 1))):
        about = {
            "format": f"pocketnet_fast.{kind}.1",
            "progress": json.dumps(asdict(progress)),
            "files": "{}",
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "1state.safetensors"
            write_state(path, {"momentum": torch.ones(2, 3)}, about)
            yield path.read_bytes()
        yield "".join(f"{key}={value}\n" for key, value in about.items()).encode() + BETWEEN


def _read_onnx(data: bytes, folder: Path) -> None:
    from pocketnet_fast.models.onnx_weights import read_onnx_weights
    from pocketnet_fast.models.yunet import read_onnx

    path = laid(data, folder, "network.onnx")
    with contextlib.suppress(PocketNetError):
        read_onnx(path)
    read_onnx_weights(path)


def _onnx_seeds() -> Iterator[bytes]:
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
    for folded in (False, True):
        yield model(*_mobilefacenet(node, constant, folded))


def _mobilefacenet(
    node: Callable[..., onnx.NodeProto], constant: Callable[..., onnx.TensorProto], folded: bool
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A whole one of InsightFace's variant, of two channels; its normalisations are nodes or folded."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def add(operation: str, *shapes: tuple[int, ...], take: tuple[str, ...] = (), **attributes: Any) -> str:
        x = take or (nodes[-1].output[0] if nodes else "x",)
        names = [f"{len(nodes)}.{place}" for place in range(len(shapes))]
        constants.extend(constant(name, *shape) for name, shape in zip(names, shapes, strict=True))
        nodes.append(node(operation, [*x, *names], [f"s{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def unit(inputs: int, window: int, stride: int = 1, groups: int = 1, active: bool = True) -> None:
        pads = [0 if window == 7 else window // 2] * 4
        shapes = [(2, inputs // groups, window, window), *([(2,)] if folded else [])]
        add("Conv", *shapes, strides=[stride] * 2, pads=pads, group=groups, kernel_shape=[window] * 2)
        if not folded:
            add("BatchNormalization", *[(2,)] * 4)
        if active:
            add("PRelu", (2, 1, 1))

    unit(3, 3, 2)
    for stride in (2, 1, 2, 2):
        before = nodes[-1].output[0]
        unit(2, 1)
        unit(2, 3, stride, 2)
        unit(2, 1, active=False)
        if stride == 1:
            add("Add", take=(before, nodes[-1].output[0]))
    unit(2, 1)
    unit(2, 7, groups=2, active=False)
    add("Flatten")
    add("Gemm", (4, 2), *([(4,)] if folded else []), transB=1)
    if not folded:
        add("BatchNormalization", *[(4,)] * 4)
    return nodes, constants


def _read_metadata(data: bytes, folder: Path) -> None:
    from pocketnet_fast.export.aotinductor import read_package_metadata
    from pocketnet_fast.export.exported import is_exported
    from pocketnet_fast.export.torchscript_file import read_metadata

    path = laid(zip_with_checksums(data), folder, "network.pt")
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


_DIGITS = b"9" * 30

TARGETS = {
    "weights": Target(_read_weights, _weight_seeds, (b"PK\x03\x04", b'"__metadata__"', *PICKLE_WORDS), 8192),
    "described_network": Target(
        _read_described_network,
        _described_network_seeds,
        (
            b"model_name=",
            b"mobilefacenet_mbf",
            b"iresnet18",
            b"embedding_dim=",
            b"channels=",
            b"layers=",
            b"9" * 30,
        ),
        16_384,
    ),
    "calibration": Target(_read_calibration, _calibration_seeds, (*JSON_WORDS, b'"points"', b'"measured"')),
    "training_state": Target(
        _read_state, _state_seeds, (BETWEEN, b"format=", b"progress=", b"files=", b'":', *JSON_WORDS)
    ),
    "onnx": Target(
        _read_onnx,
        _onnx_seeds,
        (b"Constant", b"Reshape", b"Transpose", b"Cast", b"Conv", b"Gemm", b"Clip"),
        8192,
    ),
    "metadata": Target(
        _read_metadata, _metadata_seeds, (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"/extra/", b"/code/")
    ),
}
