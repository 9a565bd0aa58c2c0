"""Files that ``export_torchscript`` wrote, as networks on uint8 crops whatever input they take."""

from __future__ import annotations

import json
import os
from typing import Any

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.export.source import METADATA_FILE, check_batch
from pocketnet_fast.export.torchscript_file import quiet_about_torchscript, read_metadata
from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.models.calibration import Calibration


class ExportedModel(nn.Module):
    """An exported network; made by ``load_exported``.

    Attributes:
        metadata: What the file says of itself.
        model_name: The architecture that was exported.
        kernels: ``"fused"`` or ``"aten"``.
        embedding_dim: Length of an embedding.
        weights_sha256: The SHA-256 of the weights that were exported.
        calibration: The thresholds that the file carries, if it does.
    """

    def __init__(self, name: str, network: torch.jit.ScriptModule, metadata: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.metadata = metadata
        try:
            stated = metadata["input"]
            self._takes_pixels: bool = stated["dtype"] == "uint8"
            height, width = stated["shape"][1:3] if self._takes_pixels else stated["shape"][2:4]
            normalization = stated["normalization"]
            self._spec = InputSpec(
                (height, width), tuple(normalization["mean"]), tuple(normalization["std"]), stated["color"]
            )
            self.model_name: str = metadata["model"]
            self.kernels: str = metadata["kernels"]
            self.embedding_dim: int = metadata["embedding_dim"]
            self.weights_sha256: str = metadata["weights_sha256"]
            calibration = metadata.get("calibration")
        except (KeyError, TypeError, ValueError):
            raise PocketNetError(
                f"{name}: damaged: its {METADATA_FILE} does not describe a network"
            ) from None
        self.calibration: Calibration | None = None
        if calibration is not None:
            self.calibration = Calibration.from_json(json.dumps(calibration), name)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed uint8 N,112,112,3 RGB crops; returns float32 N,``embedding_dim``, not L2-normalised.

        Raises:
            PocketNetError: Another dtype, shape or device.
        """
        check_batch(pixels, {"dtype": "uint8", "shape": ("N", *self._spec.size, 3)}, "cpu")
        if not self._takes_pixels:
            out: Tensor = self.network(self._spec.normalize(pixels))
            return out
        out = self.network(pixels if self._spec.color == "rgb" else pixels.flip(-1))
        return out


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether ``export_torchscript`` wrote this file; nothing of it is run."""
    try:
        read_metadata(path)
    except PocketNetError:
        return False
    return True


def load_exported(path: str | os.PathLike[str]) -> ExportedModel:
    """Load a file that ``export_torchscript`` wrote, of either kind of kernels and input.

    Raises:
        PocketNetError: It is no such file, is damaged, or needs kernels that this installation lacks.

    Examples:
        >>> network = load_exported("s128.pt")
        >>> network.embedding_dim
        128
    """
    metadata = read_metadata(path)
    if metadata.get("task") == "faces":
        raise PocketNetError(
            f"{path}: finds and embeds the faces of photos; it is no network that embeds crops (in Python, "
            "FaceAnalyzer does what it does)"
        )
    if metadata.get("kernels") == "fused":
        from pocketnet_fast.ops import native

        try:
            native.compiled_isa()  # loads the library, which registers the operator that the file calls
        except (ImportError, RuntimeError) as error:
            raise PocketNetError(f"{path} runs on the fused kernels: {error}") from None
    try:
        with quiet_about_torchscript():
            network = torch.jit.load(os.fspath(path), map_location="cpu").eval()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise PocketNetError(f"{path}: cannot be loaded as TorchScript: {reason}") from None
    return ExportedModel(str(path), network, metadata)
