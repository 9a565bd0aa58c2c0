"""Model repositories of the Triton Inference Server: its configuration around a TorchScript file."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.source import ExportReport, checked_source
from pocketnet_fast.export.torchscript import export_torchscript
from pocketnet_fast.files import atomic_write, make_folder

if TYPE_CHECKING:
    from pocketnet_fast.faces.analyzer import FaceAnalyzer

_LIBRARY: Final = "libpnf_ops.so"
_BACKEND: Final = "/opt/tritonserver/backends/pytorch"
# What the server tries a model with before it accepts requests: height and width of an empty photo.
_WARM_UP_PHOTO: Final = (480, 640)


def export_triton(
    model: nn.Module | FaceAnalyzer,
    repository: str | os.PathLike[str],
    *,
    kernels: str = "fused",
    color: str = "rgb",
    precision: str = "fp32",
    max_batch: int = 32,
    delay_us: int = 500,
    instances: int = 1,
) -> ExportReport:
    """Write a model into a model repository of the Triton Inference Server, for its PyTorch backend.

    The model's folder holds ``config.pbtxt``, ``1/model.pt`` as ``export_torchscript`` writes it, and with
    the fused kernels ``libpnf_ops.so``, which has to be preloaded into the server; ``config.pbtxt`` begins
    with the command. The configuration is held against the published schema in tests; the server itself has
    not been run with it.

    A network's folder has the network's name. INPUT__0 is a crop, uint8 112,112,3, of which the server forms
    batches, and OUTPUT__0 its embedding. A ``FaceAnalyzer``'s has ``_faces`` after the name. INPUT__0 is a
    photo, uint8 H,W,3, without a batch dimension, as photos differ in size; OUTPUT__0 to OUTPUT__3 are boxes
    N,4, landmarks N,5,2, scores N and embeddings N,D.

    Args:
        model: A network of this package, or a ``FaceAnalyzer``.
        repository: The repository's folder, made if need be; files of the same model are replaced.
        kernels: See ``export_torchscript``, as for ``color`` and ``precision``.
        color: Channel order of the images.
        precision: The precision of the arithmetic.
        max_batch: Crops in a batch at most.
        delay_us: Microseconds for which the server waits for a batch to fill.
        instances: Copies that work side by side. One runs its calls on all of torch's threads; of more, each
            runs them on one thread.

    Returns:
        The report of ``export_torchscript``, with the model's folder as ``path`` and the bytes of all its
        files as ``size``.

    Raises:
        PocketNetError: See ``export_torchscript``; or a number is out of its range.

    Examples:
        >>> export_triton(FaceAnalyzer(), "models", instances=2)
    """
    _check_numbers(max_batch, delay_us, instances)
    from pocketnet_fast.faces.analyzer import FaceAnalyzer

    photos = isinstance(model, FaceAnalyzer)
    network = checked_source(
        model.model if isinstance(model, FaceAnalyzer) else model, kernels, "uint8", color
    )
    folder = Path(repository) / f"{network.model_name}{'_faces' if photos else ''}"
    version = folder / "1"
    make_folder(version)
    report = export_torchscript(
        model, version / "model.pt", kernels=kernels, input="uint8", color=color, precision=precision
    )
    metadata = report.metadata
    # The detector's operators are ours, whatever kernels the network has.
    needs_library = photos or kernels == "fused"
    if needs_library:
        _copy_library(folder / _LIBRARY)
    text = "\n".join(
        [
            *_comment(folder, metadata, needs_library),
            f'name: "{folder.name}"',
            'backend: "pytorch"',
            'platform: "pytorch_libtorch"',
            'default_model_filename: "model.pt"',
            *(_photo_tensors(metadata) if photos else _crop_tensors(metadata, max_batch, delay_us)),
            f"instance_group [ {{ count: {instances} kind: KIND_CPU }} ]",
            *_parameters(instances),
            "",
        ]
    )
    # Last, as a server that watches the repository loads a model by its configuration.
    with atomic_write(folder / "config.pbtxt") as file:
        file.write(text.encode())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return replace(report, path=folder, size=size)


def _check_numbers(max_batch: int, delay_us: int, instances: int) -> None:
    for name, value, least in (
        ("max_batch", max_batch, 1),
        ("delay_us", delay_us, 0),
        ("instances", instances, 1),
    ):
        if type(value) is not int or value < least:
            raise PocketNetError(f"{name} is {value!r}; expected a whole number from {least} on")


def _copy_library(target: Path) -> None:
    from pocketnet_fast.ops.native import library_path

    with library_path().open("rb") as source, atomic_write(target) as file:
        shutil.copyfileobj(source, file)


def _comment(folder: Path, metadata: dict[str, Any], needs_library: bool) -> list[str]:
    lines = [
        f"# {metadata['model']} of pocketnet_fast {metadata['version']}, weights "
        f"{metadata['weights_sha256'][:12]}, {metadata['kernels']} kernels in {metadata['precision']}.",
        f"# Colour order of the images: {metadata['input']['color']}. The backend needs torch 2.10 or newer.",
    ]
    if needs_library:
        lines += [
            f"# {_LIBRARY} holds operators of the file and has to be in the server before it is loaded:",
            f"#   LD_LIBRARY_PATH={_BACKEND} \\",
            f"#   LD_PRELOAD=$REPOSITORY/{folder.name}/{_LIBRARY} \\",
            "#   tritonserver --model-repository=$REPOSITORY",
        ]
    return lines


def _crop_tensors(metadata: dict[str, Any], max_batch: int, delay_us: int) -> list[str]:
    dims = _dims(metadata["input"]["shape"][1:])
    return [
        f"max_batch_size: {max_batch}",
        f'input [ {{ name: "INPUT__0" data_type: TYPE_UINT8 dims: {dims} }} ]',
        f'output [ {{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: {_dims([metadata["embedding_dim"]])} }} ]',
        f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}",
        *_warm_up(dims),
    ]


def _photo_tensors(metadata: dict[str, Any]) -> list[str]:
    shapes = {
        "boxes": [-1, 4],
        "landmarks": [-1, 5, 2],
        "scores": [-1],
        "embeddings": [-1, metadata["embedding_dim"]],
    }
    outputs = [
        f'  {{ name: "OUTPUT__{place}" data_type: TYPE_FP32 dims: {_dims(shapes[output])} }}'
        for place, output in enumerate(metadata["outputs"])
    ]
    return [
        "max_batch_size: 0",
        f'input [ {{ name: "INPUT__0" data_type: TYPE_UINT8 dims: {_dims([-1, -1, 3])} }} ]',
        f"# {', '.join(metadata['outputs'])}",
        "output [",
        *[f"{output}," for output in outputs[:-1]],
        outputs[-1],
        "]",
        *_warm_up(_dims([*_WARM_UP_PHOTO, 3])),
    ]


def _dims(sides: list[int]) -> str:
    return f"[ {', '.join(map(str, sides))} ]"


def _warm_up(dims: str) -> list[str]:
    """A call at loading, so that an operator that is missing is found then, and not by a client."""
    inputs = f'key: "INPUT__0" value {{ data_type: TYPE_UINT8 dims: {dims} zero_data: true }}'
    return [f'model_warmup [ {{ name: "warm up" batch_size: 1 inputs {{ {inputs} }} }} ]']


def _parameters(instances: int) -> list[str]:
    # The optimiser of TorchScript has nothing to do for one operator, and takes its time in the first calls.
    values = {"DISABLE_OPTIMIZED_EXECUTION": "true", "INFERENCE_MODE": "true"}
    if instances > 1:
        values["INTRA_OP_THREAD_COUNT"] = "1"
    return [
        f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}'
        for name, value in values.items()
    ]
