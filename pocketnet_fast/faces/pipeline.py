"""From photos to aligned crops to embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import CROP_SIZE, align
from pocketnet_fast.data.images import read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.detector import Face, FaceDetector, select_face

if TYPE_CHECKING:
    from torch import nn

ImageArray = npt.NDArray[np.uint8]
Embeddings = npt.NDArray[np.float32]

ENGINES: Final = ("auto", "fused", "eager")


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


class Embedder:
    """A model made ready to embed uint8 crops.

    Args:
        model: an eager network of ``create_model``; put into evaluation mode.
        engine: ``"fused"`` (PocketNet on the compiled kernels), ``"eager"`` (plain PyTorch, any model), or
            ``"auto"``: fused where that is possible.
        flip: embed the mirror image too and add the two, as the verification protocol does.
        batch_size: crops per call.
        threads: threads of one call; None leaves PyTorch's number.

    Attributes:
        engine: which one runs, ``"fused"`` or ``"eager"``.
        note: why ``"auto"`` chose eager, else None.
        embedding_dim: length of an embedding.
        weights_sha256: of the model's weights when this was made (``models.weights.weights_sha256``): which
            embeddings may be compared.

    Raises:
        PocketNetError: an unknown engine, or fused asked for a model or an installation that cannot.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        engine: str = "auto",
        flip: bool = False,
        batch_size: int = 32,
        threads: int | None = None,
    ) -> None:
        if engine not in ENGINES:
            raise PocketNetError(f"unknown engine {engine!r}; expected one of {', '.join(ENGINES)}")
        if batch_size < 1 or (threads is not None and threads < 1):
            raise PocketNetError("batch size and threads must be positive")
        from pocketnet_fast.models.weights import weights_sha256

        self.flip = flip
        self.batch_size = batch_size
        self._threads = threads
        network: Any = model.eval()
        self._model = network
        self.embedding_dim: int = network.embedding_dim
        self.weights_sha256 = weights_sha256(model)
        self.note = None if engine == "eager" else _why_not_fused(model)
        if engine == "fused" and self.note is not None:
            raise PocketNetError(f"the fused engine cannot run this: {self.note}")
        self.engine = "eager" if engine == "eager" or self.note is not None else "fused"
        if self.engine == "fused":
            from pocketnet_fast.lowering.compiled import compile as compile_model

            self._compiled = compile_model(model, flip=flip, threads=threads)

    def __call__(self, crops: ImageArray) -> Embeddings:
        """Embed N x 112 x 112 x 3 uint8 RGB crops; return N x D float32, not normalised."""
        import torch

        if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1:] != (CROP_SIZE, CROP_SIZE, 3):
            raise PocketNetError(f"expected N x 112 x 112 x 3 uint8 crops, got {crops.shape} {crops.dtype}")
        if len(crops) == 0:
            return np.zeros((0, self.embedding_dim), np.float32)
        pixels = torch.from_numpy(np.ascontiguousarray(crops))
        embed = self._compiled if self.engine == "fused" else self._eager
        before = torch.get_num_threads()
        if self.engine == "eager" and self._threads is not None:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                parts = [embed(part) for part in pixels.split(self.batch_size)]
        finally:
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)

    def _eager(self, pixels: Any) -> Any:
        images = self._model.input_spec.normalize(pixels)
        embedding = self._model(images)
        return embedding + self._model(images.flip(3)) if self.flip else embedding


def _why_not_fused(model: nn.Module) -> str | None:
    from pocketnet_fast.models.pocketnet import PocketNet

    if not isinstance(model, PocketNet):
        name = getattr(model, "model_name", type(model).__name__)
        return f"{name} is no PocketNet, and only PocketNets have fused kernels"
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
    on_photo: Callable[[], None] = lambda: None,
    on_error: Callable[[PocketNetError], None] | None = None,
) -> Iterator[tuple[AlignedFace, Embeddings]]:
    """Yield each photo's face with its embedding (D float32, not normalised), in order, batch by batch.

    Args:
        paths: image files.
        embedder: what embeds the crops; its batch size bounds how many are held.
        detector: None if the files are aligned crops.
        on_photo: called after each file, for progress.
        on_error: given the error of a file that cannot be used, which is then left out; without it the
            error is raised.

    Raises:
        PocketNetError: a file cannot be used and there is no ``on_error``.
    """
    batch: list[AlignedFace] = []

    def flush() -> Iterator[tuple[AlignedFace, Embeddings]]:
        if batch:
            yield from zip(batch, embedder(np.stack([face.crop for face in batch])), strict=True)
            batch.clear()

    for path in paths:
        try:
            batch.append(load_face(path, detector))
        except PocketNetError as error:
            if on_error is None:
                raise
            on_error(error)
        on_photo()
        if len(batch) == embedder.batch_size:
            yield from flush()
    yield from flush()
