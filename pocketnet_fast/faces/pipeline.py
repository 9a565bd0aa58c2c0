"""From aligned crops to embeddings, by whichever engine runs the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.ops.native import check_threads

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pocketnet_fast.models.calibration import Calibration

ImageArray = npt.NDArray[np.uint8]
Embeddings = npt.NDArray[np.float32]

ENGINES: Final = ("auto", "fused", "eager", "torchscript")


class Embedder:
    """A model made ready to embed uint8 crops.

    Args:
        model: an eager network of ``create_model``, which is put into evaluation mode, or an exported one of
            ``load_exported``.
        engine: ``"fused"`` (PocketNets and MobileFaceNets on the compiled kernels), ``"eager"`` (plain
            PyTorch, any model), ``"torchscript"`` (an exported network, as it is), or ``"auto"``: torchscript
            for an exported network, fused where that is possible, else eager.
        flip: embed the mirror image too and add the two, as the verification protocol does.
        batch_size: crops per call.
        threads: threads of one call; None leaves PyTorch's number.
        precision: of the fused engine, as ``compile`` takes it.

    Attributes:
        engine: which one runs, ``"fused"``, ``"eager"`` or ``"torchscript"``.
        note: why ``"auto"`` chose eager, else None.
        model_name: the architecture.
        prefers_batches: whether a batch is quicker than its crops one by one, as it is where torch runs the
            convolutions: by 4 times for PocketNetS-128.
        embedding_dim: length of an embedding.
        weights_sha256: of the model's weights when this was made (``models.weights.weights_sha256``): which
            embeddings may be compared.
        calibration: the thresholds that came with the weights, if any did.

    Raises:
        PocketNetError: An unknown engine, or one that cannot run this model or not in this installation.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        engine: str = "auto",
        flip: bool = False,
        batch_size: int = 32,
        threads: int | None = None,
        precision: str = "fp32",
    ) -> None:
        check_engine(engine)
        if batch_size < 1:
            raise PocketNetError(f"batch_size is {batch_size}; expected at least 1")
        check_threads(threads)
        from pocketnet_fast.export.exported import ExportedModel
        from pocketnet_fast.models.weights import current_calibration, weights_sha256

        self.flip = flip
        self.batch_size = batch_size
        self._threads = threads
        network: Any = model.eval()
        self._network = network
        self.model_name: str = network.model_name
        self.embedding_dim: int = network.embedding_dim
        self.note: str | None = None
        self.calibration: Calibration | None
        if precision != "fp32" and (isinstance(model, ExportedModel) or engine in ("eager", "torchscript")):
            raise PocketNetError(f"precision is {precision!r}, which is of the fused engine")
        self.prefers_batches = True
        if isinstance(model, ExportedModel):
            if engine not in ("auto", "torchscript"):
                raise PocketNetError(f"an exported network runs as it is; the {engine} engine takes weights")
            self.engine = "torchscript"
            self.prefers_batches = model.kernels != "fused"
            self._embed: Callable[[Tensor], Tensor] = self._exported
            self.weights_sha256 = model.weights_sha256
            self.calibration = model.calibration
            return
        if engine == "torchscript":
            raise PocketNetError(
                "the torchscript engine runs files that `pocketnet export` wrote; these are weights"
            )
        self.weights_sha256 = weights_sha256(model)
        self.calibration = current_calibration(model)
        self.note = None if engine == "eager" else _why_not_fused(model)
        if engine == "fused" and self.note is not None:
            raise PocketNetError(f"the fused engine cannot run this: {self.note}")
        if precision != "fp32" and self.note is not None:
            raise PocketNetError(f"precision is {precision!r}, which is of the fused engine: {self.note}")
        self.engine = "eager" if engine == "eager" or self.note is not None else "fused"
        self._embed = self._eager
        if self.engine == "fused":
            self.prefers_batches = False
            from pocketnet_fast.lowering.compiled import compile as compile_model

            self._embed = compile_model(model, flip=flip, threads=threads, precision=precision)

    def __call__(self, crops: ImageArray, names: Sequence[str] | None = None) -> Embeddings:
        """Embed aligned crops.

        Args:
            crops: N x 112 x 112 x 3 uint8, RGB.
            names: How errors call each crop; by default its number.

        Returns:
            N x D float32, not normalised, all finite.

        Raises:
            PocketNetError: Crops of another kind, or an embedding that is not finite: no decision may rest on
                it.
        """
        import torch

        if not isinstance(crops, np.ndarray):
            raise PocketNetError(
                f"expected N x 112 x 112 x 3 uint8 crops as one numpy array, got a {type(crops).__name__}"
            )
        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (CROP_SIZE, CROP_SIZE, 3):
            raise PocketNetError(f"expected N x 112 x 112 x 3 uint8 crops, got {crops.shape} {crops.dtype}")
        if len(crops) == 0:
            return np.zeros((0, self.embedding_dim), np.float32)
        pixels = torch.from_numpy(np.ascontiguousarray(crops))
        before = torch.get_num_threads()
        # The fused kernels were given theirs when the network was lowered.
        if self.engine != "fused" and self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                parts = [self._embed(part) for part in pixels.split(self.batch_size)]
        finally:
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)
        rows = np.asarray(torch.cat(parts).numpy(), dtype=np.float32)
        wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if wrong.size:
            first = f"crop {wrong[0]}" if names is None else names[wrong[0]]
            raise PocketNetError(
                f"{first}: the embedding by {self.model_name} is not finite ({wrong.size} of {len(rows)}); "
                "its weights are damaged or too large"
            )
        return rows

    def _eager(self, pixels: Tensor) -> Tensor:
        import torch

        # Convolutions are quicker with the channels of a pixel side by side: at 16 images a batch,
        # MobileFaceNet takes 15 instead of 20 ms per image, PocketNetS-128 22 instead of 74.
        images = self._network.input_spec.normalize(pixels).to(memory_format=torch.channels_last)
        embedding: Tensor = self._network(images)
        return embedding + self._network(images.flip(3)) if self.flip else embedding

    def _exported(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self._network(pixels)
        return embedding + self._network(pixels.flip(2)) if self.flip else embedding


def check_engine(engine: str) -> None:
    """Refuse what is no engine.

    Raises:
        PocketNetError: The message names those there are.
    """
    if engine not in ENGINES:
        raise PocketNetError(f"unknown engine {engine!r}; expected one of {', '.join(ENGINES)}")


def _why_not_fused(model: nn.Module) -> str | None:
    from pocketnet_fast.lowering.networks import has_fused_form, no_fused_form

    if not has_fused_form(model):
        return no_fused_form(model)
    from pocketnet_fast.ops import native

    try:
        native.compiled_isa()
    except ImportError as error:
        return str(error)
    except RuntimeError as error:
        raise PocketNetError(str(error)) from error
    return None


def normalized(embeddings: Embeddings) -> Embeddings:
    """Scale each row of N x D to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, 1e-12), dtype=np.float32)
