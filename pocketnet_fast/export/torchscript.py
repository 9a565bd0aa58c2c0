"""TorchScript files: on the fused kernels, or in plain ATen operators for any LibTorch."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from pocketnet_fast.export.archive import rewritten
from pocketnet_fast.export.check import CHECK_FILE, crop_check, photo_check
from pocketnet_fast.export.source import (
    MAX_ERRORS,
    METADATA_FILE,
    ChannelsLast,
    ExportReport,
    PixelsFirst,
    checked_error,
    checked_source,
    in_evaluation,
    metadata_of,
)
from pocketnet_fast.export.torchscript_file import quiet_about_torchscript
from pocketnet_fast.files import atomic_write
from pocketnet_fast.models.base import EmbeddingModel

if TYPE_CHECKING:
    from pocketnet_fast.faces.analyzer import FaceAnalyzer

_LIBRARY: Final = "libpnf_ops.so of pocketnet_fast"


class _Checked(nn.Module):
    """Refuses any input but the one the file states, as the fused kernels do.

    Layers alone would take some of them: pixels of another type, a fourth channel, an image of another size.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, size: tuple[int, int, int], layout: str) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.size = list(size)
        self.message = f"input must be {layout}"

    def forward(self, x: Tensor) -> Tensor:
        """Compute embeddings."""
        assert x.dtype == self.dtype and x.dim() == 4 and x.size()[1:] == self.size, self.message
        out: Tensor = self.model(x)
        return out


def _scripted(
    model: EmbeddingModel, kernels: str, input: str, color: str, precision: str
) -> torch.jit.ScriptModule:
    with quiet_about_torchscript():
        if kernels == "fused":
            from pocketnet_fast.lowering.compiled import compile

            script: torch.jit.ScriptModule = torch.jit.script(
                compile(model, color=color, precision=precision)
            )
            return script
        height, width = model.input_spec.size
        if input == "uint8":
            layout = f"uint8 [N, {height}, {width}, 3]"
            module = _Checked(PixelsFirst(model, color), torch.uint8, (height, width, 3), layout)
        else:
            layout = f"float32 [N, 3, {height}, {width}]"
            module = _Checked(ChannelsLast(model), torch.float32, (3, height, width), layout)
        # Freezing folds each batch normalisation into the convolution before it.
        frozen: torch.jit.ScriptModule = torch.jit.freeze(torch.jit.script(module.eval()))
        return frozen


def export_torchscript(
    model: nn.Module | FaceAnalyzer,
    path: str | os.PathLike[str],
    *,
    kernels: str = "fused",
    input: str = "float",
    color: str = "rgb",
    precision: str = "fp32",
) -> ExportReport:
    """Write a TorchScript file that loads on torch >= 2.10, in Python or C++.

    The file is loaded again and compared with ``model`` before it appears at ``path``, and carries a check of
    itself (``pocketnet_fast_check.json``, see ``export.check``). A network's takes any batch size; a
    ``FaceAnalyzer``'s takes a photo, uint8 H,W,3 of any size, and returns float32 boxes N,4, landmarks N,5,2,
    scores N and embeddings N,D of length 1, see ``faces.photo_module.PhotoModule``.

    Args:
        model: A network of this package; evaluation mode is used, the module is left as it was. Or a
            ``FaceAnalyzer``: whose options the file keeps, but for ``threads``, which are torch's.
        path: Where to write, usually ``*.pt``.
        kernels: ``"fused"`` calls the operator of ``libpnf_ops.so``, which the loading program must have
            loaded, runs on the CPU, and needs a PocketNet; ``"aten"`` is the network with batch normalisation
            folded, in plain ATen operators, on any device. The fused kernels for CUDA are exported by
            ``export_aotinductor(device="cuda")``; a fused file says so where it is given a CUDA tensor. Of an
            analyzer, the network that embeds; its detector is fused in either case.
        input: ``"float"``: float32 N,3,112,112, normalised by the caller; ``"uint8"``: uint8 N,112,112,3.
        color: Channel order of uint8 images, ``"rgb"`` or ``"bgr"``.
        precision: ``"fp32"``, or with the fused kernels ``"bf16"`` (see ``compile``).

    Returns:
        A report with the measured error and the metadata written into the file.

    Raises:
        PocketNetError: An unknown option, a model that cannot be exported so, a file that cannot be
            written, or an error above that of ``MAX_ERRORS``.

    Examples:
        >>> export_torchscript(create_model("pocketnet_s128", pretrained=True), "s128.pt", input="uint8")
        >>> export_torchscript(FaceAnalyzer(), "faces.pt")  # photos in, faces and embeddings out
    """
    from pocketnet_fast.faces.analyzer import FaceAnalyzer

    if isinstance(model, FaceAnalyzer):
        return _export_analyzer(model, Path(path), kernels, input, color, precision)
    source = checked_source(model, kernels, input, color, precision)
    with in_evaluation(source):
        needs = _LIBRARY if kernels == "fused" else "LibTorch alone"
        metadata = metadata_of(source, "torchscript", kernels, input, color, precision, needs)
        script = _scripted(source, kernels, input, color, precision)
        content, reloaded = _saved(script, metadata, crop_check(source, script, input, color))
        error = checked_error(source, reloaded, input, color, MAX_ERRORS[precision])
    with atomic_write(path) as file:
        file.write(content)
    return ExportReport(Path(path), kernels, error, len(content), metadata)


def _saved(
    script: torch.jit.ScriptModule, metadata: dict[str, Any], check: str
) -> tuple[bytes, torch.jit.ScriptModule]:
    """A file's content, and what is loaded from it."""
    buffer = io.BytesIO()
    records = {METADATA_FILE: json.dumps(metadata, indent=1), CHECK_FILE: check}
    with quiet_about_torchscript():
        torch.jit.save(script, buffer, _extra_files=records)
        content = rewritten(buffer.getvalue(), _without_debug_records)
        return content, torch.jit.load(io.BytesIO(content))


def _export_analyzer(
    analyzer: FaceAnalyzer, path: Path, kernels: str, input: str, color: str, precision: str
) -> ExportReport:
    from pocketnet_fast.export.photos import check_options, photo_error, photo_metadata

    check_options(analyzer, kernels, input, color, precision)
    with in_evaluation(analyzer.model):
        metadata = photo_metadata(analyzer, "torchscript", kernels, color, _LIBRARY)
        module = analyzer.as_module(kernels=kernels, color=color)
        with quiet_about_torchscript():
            script = torch.jit.script(module)
            # Freezing folds each batch normalisation into the convolution before it.
            script = torch.jit.freeze(script, preserved_attrs=["embed"]) if kernels == "aten" else script
        content, reloaded = _saved(script, metadata, photo_check(script, color))
        error = photo_error(analyzer, reloaded, color, MAX_ERRORS[metadata["precision"]])
    with atomic_write(path) as file:
        file.write(content)
    return ExportReport(path, kernels, error, len(content), metadata)


def _without_debug_records(name: str, content: bytes) -> bytes | None:
    """Leave out which lines of which source files the code came from; errors name the code in the file."""
    return None if name.endswith(".debug_pkl") else content
