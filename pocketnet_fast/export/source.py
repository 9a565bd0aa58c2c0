"""What every kind of export has in common: its options, what a file says of itself, and the check on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.networks import has_fused_form, no_fused_form
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.weights import current_calibration

METADATA_FILE: Final = "pocketnet_fast.json"
"""Name of the metadata inside a file."""

MAX_ERROR: Final = 1e-4
"""Largest accepted error: max abs difference over max abs value of the source model's embeddings."""

MAX_ERRORS: Final = {"fp32": MAX_ERROR, "tf32": 2e-2, "bf16": 1e-1, "fp16": 2e-2}
"""The same by precision: those of bf16 and fp16 are of the order of 2^-8 and 2^-11, through all layers."""

_CHECK_IMAGES: Final = 3


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
        limit = f"{self.error:.1e} of {MAX_ERRORS[self.metadata['precision']]:.0e}"
        return f"{self.path}: {self.kernels} kernels, {self.size:,} bytes, error {limit}"


class ChannelsLast(nn.Module):
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


class PixelsFirst(nn.Module):
    """Normalises uint8 N,H,W,3 images and runs a network on them, in plain ATen operators."""

    def __init__(self, model: EmbeddingModel, color: str) -> None:
        super().__init__()
        self.model = ChannelsLast(model)
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


def checked_source(
    model: nn.Module, kernels: str, input: str, color: str, precision: str = "fp32", device: str = "cpu"
) -> EmbeddingModel:
    """Return the model if it can be exported with these options.

    Raises:
        PocketNetError: An unknown option, or a module that is no network of this package.
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
    if kernels == "fused" and not has_fused_form(model):
        raise PocketNetError(f"{no_fused_form(model)}; kernels='aten' (--kernels aten) exports it")
    _check_precision(precision, kernels, device)
    return model


def check_batch(images: Tensor, stated: dict[str, Any], device: str) -> None:
    """Refuse what a file does not take, before something that would compute from it is called.

    Args:
        images: What is to be embedded.
        stated: The entry ``input`` of the file's metadata.
        device: Where the file runs, "cpu" or "cuda".

    Raises:
        PocketNetError: Saying what the file takes.
    """
    shape = tuple(stated["shape"])
    fits = (
        isinstance(images, Tensor)
        and images.dtype == getattr(torch, stated["dtype"])
        and images.dim() == len(shape)
        and all(isinstance(side, str) or side == own for side, own in zip(shape, images.shape, strict=True))
        and images.device.type == device
        and images.layout == torch.strided
    )
    if fits:
        return
    found = f"a {type(images).__name__}"
    if isinstance(images, Tensor):
        found = f"{images.dtype} {tuple(images.shape)} on {images.device.type}".removeprefix("torch.")
    expected = f"{stated['dtype']} ({', '.join(map(str, shape))}) on {device}"
    raise PocketNetError(f"images are {found}; the file takes {expected}")


def _check_precision(precision: str, kernels: str, device: str) -> None:
    """Refuse a precision that an export cannot have.

    Raises:
        PocketNetError: Saying which it can have.
    """
    if precision not in MAX_ERRORS:
        raise PocketNetError(f"precision is {precision!r}; expected one of {', '.join(MAX_ERRORS)}")
    if precision == "fp32" or (kernels == "fused" and (device == "cuda" or precision == "bf16")):
        return
    raise PocketNetError(
        f"precision {precision!r} is for the fused kernels"
        + (" on CUDA; those of the CPU have fp32 and bf16" if kernels == "fused" else "")
    )


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into its own afterwards."""
    training = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        yield
    finally:
        for name, module in model.named_modules():
            module.training = training[name]


def metadata_of(
    model: EmbeddingModel, format: str, kernels: str, input: str, color: str, precision: str, needs: str
) -> dict[str, Any]:
    """What a file says of itself.

    Args:
        model: The network.
        format: The format of the file, such as "torchscript".
        kernels: "fused" or "aten".
        input: "float" or "uint8".
        color: Channel order of uint8 images.
        precision: The precision of the arithmetic.
        needs: What must be there where the file is loaded.
    """
    from pocketnet_fast import __version__
    from pocketnet_fast.data.alignment import TEMPLATE
    from pocketnet_fast.models.weights import weights_sha256

    spec = model.input_spec
    height, width = spec.size
    uint8 = input == "uint8"
    calibration = current_calibration(model)
    return {
        "format": f"pocketnet_fast.{format}",
        "version": __version__,
        "model": model.model_name,
        "embedding_dim": model.embedding_dim,
        "kernels": kernels,
        "precision": precision,
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
        "needs": needs,
    }


def check_images(model: EmbeddingModel, input: str, color: str = "rgb", count: int = _CHECK_IMAGES) -> Tensor:
    """Images of coloured squares and noise, as a file with this input takes them."""
    height, width = model.input_spec.size
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, height // 8, width // 8, 3))
    blocks = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2)
    noise = generator.integers(-20, 21, blocks.shape)
    pixels = torch.from_numpy(np.clip(blocks + noise, 0, 255).astype(np.uint8))
    return pixels if input == "uint8" else model.input_spec.normalize(pixels, color=color)


def checked_error(
    model: EmbeddingModel,
    exported: Callable[[Tensor], Tensor],
    input: str,
    color: str,
    limit: float = MAX_ERROR,
) -> float:
    """How far an export is from its source: max abs difference over max abs value of the embeddings.

    Args:
        model: The source, in evaluation mode.
        exported: The reloaded file.
        input: Which input it takes.
        color: Channel order of its uint8 images.
        limit: The largest accepted error.

    Raises:
        PocketNetError: The error is larger.
    """
    pixels = check_images(model, "uint8")
    normalized = model.input_spec.normalize(pixels, color=color)
    with torch.no_grad():
        expected = model(normalized)
        found = exported(pixels if input == "uint8" else normalized)
    return error_within(found, expected, limit)


def error_within(found: Tensor, expected: Tensor, limit: float) -> float:
    """Max abs difference over max abs value of embeddings, an export's and its source's.

    Raises:
        PocketNetError: It is above ``limit``.
    """
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    if not error <= limit:
        raise PocketNetError(
            f"the exported network is {error:.1e} off the source model; at most {limit:.0e} is accepted, "
            "and nothing was written"
        )
    return error
