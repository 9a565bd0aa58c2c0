"""TorchScript files: on the fused kernels, or in plain ATen operators for any LibTorch."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.weights import current_calibration

METADATA_FILE: Final = "pocketnet_fast.json"
"""Name of the metadata inside the file, as ``torch::jit::load`` takes it in ``extra_files``."""

MAX_ERROR: Final = 1e-4
"""Largest accepted error: max abs difference over max abs value of the source model's embeddings."""

_CHECK_IMAGES = 3


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the source model.

    Attributes:
        path: The file.
        kernels: ``"fused"`` or ``"aten"``.
        error: Max abs difference over max abs value of the embeddings, reloaded file against source model.
        size: Bytes written.
        metadata: What the file carries under ``pocketnet_fast.json``.
    """

    path: Path
    kernels: str
    error: float
    size: int
    metadata: dict[str, Any]

    def __str__(self) -> str:
        limit = f"{self.error:.1e} of {MAX_ERROR:.0e}"
        return f"{self.path}: {self.kernels} kernels, {self.size:,} bytes, error {limit}"


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


class _ChannelsLast(nn.Module):
    """Runs a network with the channels of a pixel side by side, in which convolutions are quicker on a CPU.

    A batch of 16: MobileFaceNet 15 instead of 20 ms per image, PocketNetS-128 22 instead of 74.
    """

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Compute embeddings of normalised images."""
        out: Tensor = self.model(x.contiguous(memory_format=torch.channels_last))
        return out


class _PixelsFirst(nn.Module):
    """Normalises uint8 N,H,W,3 images and runs a network on them, in plain ATen operators."""

    def __init__(self, model: EmbeddingModel, color: str) -> None:
        super().__init__()
        self.model = _ChannelsLast(model)
        self.order: Tensor
        self.mean: Tensor
        self.scale: Tensor
        spec = model.input_spec
        order = [0, 1, 2] if color == spec.color else [2, 1, 0]
        mean = torch.tensor([255.0 * m for m in spec.mean])
        scale = torch.tensor([1.0 / (255.0 * s) for s in spec.std])
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("scale", scale.view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Compute embeddings of uint8 images."""
        pixels = x.permute(0, 3, 1, 2).index_select(1, self.order).to(torch.float32)
        out: Tensor = self.model((pixels - self.mean) * self.scale)
        return out


def _metadata(model: EmbeddingModel, kernels: str, input: str, color: str) -> dict[str, Any]:
    from pocketnet_fast import __version__
    from pocketnet_fast.data.alignment import TEMPLATE
    from pocketnet_fast.models.weights import weights_sha256

    spec = model.input_spec
    height, width = spec.size
    uint8 = input == "uint8"
    calibration = current_calibration(model)
    return {
        "format": "pocketnet_fast.torchscript",
        "version": __version__,
        "model": model.model_name,
        "embedding_dim": model.embedding_dim,
        "kernels": kernels,
        "precision": "fp32",
        "input": {
            "dtype": "uint8" if uint8 else "float32",
            "shape": ["N", height, width, 3] if uint8 else ["N", 3, height, width],
            "color": color if uint8 else spec.color,
            "normalization": {
                "mean": list(spec.mean),
                "std": list(spec.std),
                "applied_by": "file" if uint8 else "caller",
            },
        },
        "alignment_template": TEMPLATE.tolist(),
        "weights_sha256": weights_sha256(model),
        "weights_source": None if model.weights_source is None else Path(model.weights_source).name,
        "calibration": None if calibration is None else calibration.as_dict(),
        "needs": "libpnf_ops.so of pocketnet_fast" if kernels == "fused" else "LibTorch alone",
    }


@contextlib.contextmanager
def quiet_about_torchscript() -> Iterator[None]:
    """Deprecated in favour of torch.export, but what C++ programs without Python load on every torch."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", r".*torch\.jit\.", category)
        yield


def _scripted(model: EmbeddingModel, kernels: str, input: str, color: str) -> torch.jit.ScriptModule:
    with quiet_about_torchscript():
        if kernels == "fused":
            from pocketnet_fast.lowering.compiled import compile

            script: torch.jit.ScriptModule = torch.jit.script(compile(model, color=color))
            return script
        height, width = model.input_spec.size
        if input == "uint8":
            layout = f"uint8 [N, {height}, {width}, 3]"
            module = _Checked(_PixelsFirst(model, color), torch.uint8, (height, width, 3), layout)
        else:
            layout = f"float32 [N, 3, {height}, {width}]"
            module = _Checked(_ChannelsLast(model), torch.float32, (3, height, width), layout)
        # Freezing folds each batch normalisation into the convolution before it.
        frozen: torch.jit.ScriptModule = torch.jit.freeze(torch.jit.script(module.eval()))
        return frozen


def _check_images(model: EmbeddingModel) -> Tensor:
    height, width = model.input_spec.size
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (_CHECK_IMAGES, height // 8, width // 8, 3))
    blocks = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)
    noise = generator.integers(-20, 21, blocks.shape)
    return torch.from_numpy(np.clip(blocks + noise, 0, 255).astype(np.uint8))


def _error(model: EmbeddingModel, exported: nn.Module, input: str, color: str) -> float:
    pixels = _check_images(model)
    normalized = model.input_spec.normalize(pixels, color=color)
    with torch.no_grad():
        expected = model(normalized)
        found = exported(pixels if input == "uint8" else normalized)
    return ((found - expected).abs().max() / expected.abs().max()).item()


def export_torchscript(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    kernels: str = "fused",
    input: str = "float",
    color: str = "rgb",
) -> ExportReport:
    """Write a TorchScript file that takes any batch size and loads on torch >= 2.10, in Python or C++.

    The file is loaded again and compared with ``model`` before it appears at ``path``.

    Args:
        model: A network of this package; evaluation mode is used, the module is left as it was.
        path: Where to write, usually ``*.pt``.
        kernels: ``"fused"`` calls the operator of ``libpnf_ops.so``, which the loading program must have
            loaded, and needs a PocketNet; ``"aten"`` is the network with batch normalisation folded, in plain
            ATen operators.
        input: ``"float"``: float32 N,3,112,112, normalised by the caller; ``"uint8"``: uint8 N,112,112,3.
        color: Channel order of uint8 images, ``"rgb"`` or ``"bgr"``.

    Returns:
        A report with the measured error and the metadata written into the file.

    Raises:
        PocketNetError: On an unknown option, a model that cannot be exported so, a file that cannot be
            written, or an error above ``MAX_ERROR``.
    """
    if kernels not in ("fused", "aten"):
        raise PocketNetError(f"kernels is {kernels!r}; expected 'fused' or 'aten'")
    if input not in ("float", "uint8"):
        raise PocketNetError(f"input is {input!r}; expected 'float' or 'uint8'")
    if color not in ("rgb", "bgr"):
        raise PocketNetError(f"color is {color!r}; expected 'rgb' or 'bgr'")
    if input == "float" and color != "rgb":
        raise PocketNetError("color concerns uint8 input; float input is normalised by the caller")
    if not isinstance(model, EmbeddingModel):
        raise PocketNetError(f"a {type(model).__name__} cannot be exported; expected a model of this package")

    training = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        metadata = _metadata(model, kernels, input, color)
        script = _scripted(model, kernels, input, color)
        extra = {METADATA_FILE: json.dumps(metadata, indent=1)}
        buffer = io.BytesIO()
        with quiet_about_torchscript():
            torch.jit.save(script, buffer, _extra_files=extra)
            reloaded = torch.jit.load(io.BytesIO(buffer.getvalue()))
        error = _error(model, reloaded, input, color)
    finally:
        for name, module in model.named_modules():
            module.training = training[name]
    if not error <= MAX_ERROR:
        raise PocketNetError(
            f"the exported network is {error:.1e} off the source model; at most {MAX_ERROR:.0e} is accepted, "
            "and nothing was written"
        )
    with atomic_write(path) as file:
        file.write(buffer.getvalue())
    return ExportReport(Path(path), kernels, error, len(buffer.getvalue()), metadata)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of a file that ``export_torchscript`` wrote, without running it.

    Raises:
        PocketNetError: If the file is no such file.
    """
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(f"/extra/{METADATA_FILE}"))
            content = json.loads(archive.read(name))
        if not isinstance(content, dict):
            raise ValueError("the metadata are no object")
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError) as problem:
        raise PocketNetError(f"{path}: not a TorchScript file of pocketnet_fast") from problem
    return content
