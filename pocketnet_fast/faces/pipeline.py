"""From photos to aligned crops to embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import CROP_SIZE, align
from pocketnet_fast.data.images import read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.detector import MIN_FACE, FaceDetector, select_face
from pocketnet_fast.faces.face import Face

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pocketnet_fast.models.calibration import Calibration

ImageArray = npt.NDArray[np.uint8]
Embeddings = npt.NDArray[np.float32]

ENGINES: Final = ("auto", "fused", "eager", "torchscript")


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """The face of one photo.

    Attributes:
        path: the file it was read from.
        crop: 112 x 112 x 3 uint8, RGB, aligned.
        faces: all faces of the photo, the one of the crop first; empty when the file was an aligned crop.
    """

    path: str
    crop: ImageArray
    faces: list[Face]


def aligned_face(
    image: ImageArray, path: str | os.PathLike[str], detector: FaceDetector | None
) -> AlignedFace:
    """Find and align the most prominent face of an image.

    Args:
        image: H x W x 3 uint8, RGB.
        path: how errors and the result call it.
        detector: None if the image is an aligned crop already, which must be 112 x 112.

    Raises:
        PocketNetError: no face, a face that is too small, or a crop of another size.
    """
    name = os.fspath(path)
    if detector is not None:
        faces = detector.detect(image)
        return AlignedFace(name, align(image, select_face(faces, name).landmarks), faces)
    if image.shape[:2] != (CROP_SIZE, CROP_SIZE):
        height, width = image.shape[:2]
        raise PocketNetError(f"{name} is {width}x{height}; an aligned crop is {CROP_SIZE}x{CROP_SIZE}")
    return AlignedFace(name, image, [])


def load_face(path: str | os.PathLike[str], detector: FaceDetector | None) -> AlignedFace:
    """Read an image file and align its face: ``read_image`` and ``aligned_face``, with their errors."""
    return aligned_face(read_image(path), path, detector)


def load_faces(path: str | os.PathLike[str], detector: FaceDetector) -> list[AlignedFace]:
    """Read a photo and align every face of it that can be recognised, the most prominent first.

    Raises:
        PocketNetError: the file cannot be read, or every face is doubtful or too small, or there is none.
    """
    name, image = os.fspath(path), read_image(path)
    found = detector.detect(image)
    select_face(found, name)
    usable = [face for face in found if face.doubt is None and face.size >= MIN_FACE]
    return [
        AlignedFace(
            name, align(image, face.landmarks), [face, *(other for other in found if other is not face)]
        )
        for face in usable
    ]


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
        embedding_dim: length of an embedding.
        weights_sha256: of the model's weights when this was made (``models.weights.weights_sha256``): which
            embeddings may be compared.
        calibration: the thresholds that came with the weights, if any did.

    Raises:
        PocketNetError: an unknown engine, or one that cannot run this model or not in this installation.
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
        if engine not in ENGINES:
            raise PocketNetError(f"unknown engine {engine!r}; expected one of {', '.join(ENGINES)}")
        if batch_size < 1 or (threads is not None and threads < 1):
            raise PocketNetError("batch size and threads must be positive")
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
        if isinstance(model, ExportedModel):
            if engine not in ("auto", "torchscript"):
                raise PocketNetError(f"an exported network runs as it is; the {engine} engine takes weights")
            self.engine = "torchscript"
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


def embed_photos(
    paths: Iterable[str | os.PathLike[str]],
    embedder: Embedder,
    detector: FaceDetector | None,
    *,
    every_face: bool = False,
    on_photo: Callable[[], None] = lambda: None,
    on_error: Callable[[PocketNetError], None] | None = None,
) -> Iterator[tuple[AlignedFace, Embeddings]]:
    """Yield each photo's face with its embedding (D float32, not normalised), in order, batch by batch.

    Args:
        paths: image files.
        embedder: what embeds the crops; its batch size bounds how many are held.
        detector: None if the files are aligned crops.
        every_face: not only the most prominent one; see ``load_faces``.
        on_photo: called after each file, for progress.
        on_error: given the error of a file that cannot be used, which is then left out; without it the
            error is raised.

    Raises:
        PocketNetError: a file cannot be used and there is no ``on_error``.
    """
    batch: list[AlignedFace] = []

    def flush() -> Iterator[tuple[AlignedFace, Embeddings]]:
        if batch:
            crops, names = np.stack([face.crop for face in batch]), [face.path for face in batch]
            yield from zip(batch, embedder(crops, names), strict=True)
            batch.clear()

    for path in paths:
        try:
            if every_face and detector is not None:
                batch += load_faces(path, detector)
            else:
                batch.append(load_face(path, detector))
        except PocketNetError as error:
            if on_error is None:
                raise
            on_error(error)
        on_photo()
        if len(batch) >= embedder.batch_size:
            yield from flush()
    yield from flush()
