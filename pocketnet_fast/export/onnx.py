"""ONNX files, in standard operators, for any runtime."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.source import (
    METADATA_FILE,
    ExportReport,
    PixelsFirst,
    check_images,
    checked_error,
    checked_source,
    in_evaluation,
    metadata_of,
)
from pocketnet_fast.files import atomic_write

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(
    model: nn.Module, path: str | os.PathLike[str], *, input: str = "float", color: str = "rgb"
) -> ExportReport:
    """Write an ONNX file that takes any batch size, input "images" and output "embeddings".

    The file is run by onnxruntime on the CPU and compared with ``model`` before it appears at ``path``.

    Args:
        model: A network of this package; evaluation mode is used, the module is left as it was.
        path: Where to write, ``*.onnx``.
        input: ``"float"``: float32 N,3,112,112, normalised by the caller; ``"uint8"``: uint8 N,112,112,3.
        color: Channel order of uint8 images, ``"rgb"`` or ``"bgr"``.

    Returns:
        A report with the measured error and the metadata, which the file carries as a property
        ``pocketnet_fast.json``.

    Raises:
        PocketNetError: An unknown option, a missing package, a file that cannot be written, or too large
            an error.

    Examples:
        >>> export_onnx(model, "s128.onnx", input="uint8", color="bgr")
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise PocketNetError(f"ONNX needs {', '.join(missing)}: pip install 'pocketnet_fast[onnx]'")
    source = checked_source(model, "aten", input, color)
    path = Path(path)
    if path.suffix != ".onnx":
        raise PocketNetError(f"{path}: ONNX files are written as .onnx")
    with in_evaluation(source):
        metadata = metadata_of(source, "onnx", "aten", input, color, "fp32", "an ONNX runtime")
        network = copy.deepcopy(source).cpu()
        module = PixelsFirst(network, color).eval() if input == "uint8" else network
        content = _converted(module, check_images(source, input), metadata)
        error = checked_error(source, _run_by_onnxruntime(content), input, color)
    with atomic_write(path) as file:
        file.write(content)
    return ExportReport(path, "aten", error, len(content), metadata)


def _converted(module: nn.Module, images: Tensor, metadata: dict[str, Any]) -> bytes:
    import onnx

    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (images,),
                input_names=["images"],
                output_names=["embeddings"],
                dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
                dynamo=True,
                verbose=False,
            )
    finally:
        noisy.setLevel(level)
    assert program is not None
    proto = program.model_proto
    _remove_traces(proto)
    onnx.helper.set_model_props(proto, {METADATA_FILE: json.dumps(metadata)})
    onnx.checker.check_model(proto)
    buffer = io.BytesIO()
    onnx.save_model(proto, buffer)
    return buffer.getvalue()


def _remove_traces(proto: Any) -> None:
    """Drop what torch notes of the sources of each node: stack traces with the paths of this machine."""
    parts = [proto.graph, *proto.functions]
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
        for node in (*part.node, *part.value_info):
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""


def _run_by_onnxruntime(content: bytes) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (embeddings,) = session.run(["embeddings"], {"images": images.numpy()})
        return torch.from_numpy(embeddings)

    return run
