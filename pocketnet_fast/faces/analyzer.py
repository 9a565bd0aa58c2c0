"""Everything about the faces of photos in one object: where they are, which way up, and whose."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pocketnet_fast.data.alignment import align
from pocketnet_fast.data.images import ImageArray, decode_image, read_image
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.detector import FaceDetector
from pocketnet_fast.faces.face import Face
from pocketnet_fast.faces.pipeline import Embedder, normalized

if TYPE_CHECKING:
    from torch import nn

    from pocketnet_fast.faces.photo_module import PhotoModule
    from pocketnet_fast.models.calibration import Calibration

Photo = str | os.PathLike[str] | bytes | bytearray | memoryview | ImageArray
"""A file, an encoded image, or H x W x 3 uint8, RGB."""

_DEFAULT = "pocketnet_s128"


class _Engines(NamedTuple):
    detector: FaceDetector
    embedder: Embedder


class FaceAnalyzer:
    """From photos to faces with embeddings. One object may be used from many threads at once.

    Args:
        model: a network of ``list_models()``, or one that is built already.
        weights: a weight file; its network comes from the file, and ``model`` is for files that do not name
            theirs. None: the weights that ship with the package.
        detector: another YuNet's file, see ``FaceDetector``.
        precision: of embedding, ``"fp32"`` or ``"bf16"``. Detection is in fp32: half precision moves
            landmarks by a pixel and more.
        threads: of one call; None follows ``torch.set_num_threads``.
        flip: embed the mirror image, too, and add the two, as the thresholds of the weights expect.
        upright: find out which way up a photo is; see ``FaceDetector``.
        max_faces: of a photo, the most prominent ones; None: all.

    Attributes:
        model: The network.
        calibration: The thresholds that came with its weights, if any did.

    Raises:
        PocketNetError: No such model or file, or an option that they do not have.
    """

    def __init__(
        self,
        *,
        model: str | nn.Module = _DEFAULT,
        weights: str | os.PathLike[str] | None = None,
        detector: str | os.PathLike[str] | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        flip: bool = True,
        upright: bool = True,
        max_faces: int | None = None,
    ) -> None:
        if max_faces is not None and max_faces < 1:
            raise PocketNetError(f"max_faces is {max_faces}; expected at least 1, or None for all")
        self.model = _network(model, weights)
        self.threads, self.max_faces = threads, max_faces
        self._options = (precision, flip, upright, detector)
        self._lock = threading.Lock()
        self._made: dict[int | None, _Engines] = {}
        self.calibration: Calibration | None = self._engines(threads).embedder.calibration

    def analyze(self, photo: Photo) -> list[Face]:
        """Find the faces of a photo and embed them, in one batch.

        Args:
            photo: A file, its content, or H x W x 3 uint8, RGB.

        Returns:
            The most prominent face first, doubtful ones last; these have neither crop nor embedding, so that
            nothing can be decided by them. Empty where there is none.

        Raises:
            PocketNetError: No such file, or no image that can be read.
        """
        return self._analyze(photo, self.threads)

    def analyze_many(
        self,
        photos: Iterable[Photo],
        *,
        on_error: Callable[[Photo, PocketNetError], None] | None = None,
    ) -> Iterator[list[Face]]:
        """Find and embed the faces of many photos, several photos at a time.

        Each thread takes a photo through all its stages, so that none waits for another. At most two photos a
        thread are on their way, or wait for their turn.

        Args:
            photos: Taken as they are needed.
            on_error: Given a photo that cannot be read and what is wrong with it, which then has no face;
                without it, the error is raised in its turn.

        Returns:
            The faces of each photo, in the order of the photos.

        Raises:
            PocketNetError: A photo cannot be read, and there is no ``on_error``.
        """
        from pocketnet_fast.ops.native import torch_on_this_thread_alone, usable_threads

        workers = usable_threads(self.threads)
        waiting: deque[tuple[Photo, Future[list[Face]]]] = deque()

        def next_in_turn() -> list[Face]:
            photo, future = waiting.popleft()
            try:
                return future.result()
            except PocketNetError as error:
                if on_error is None:
                    raise
                on_error(photo, error)
                return []

        pool = ThreadPoolExecutor(workers, "faces", torch_on_this_thread_alone)
        try:
            for photo in photos:
                waiting.append((photo, pool.submit(self._analyze, photo, 1)))
                if len(waiting) > 2 * workers:
                    yield next_in_turn()
            while waiting:
                yield next_in_turn()
        finally:
            pool.shutdown(cancel_futures=True)

    def as_module(self, *, kernels: str = "fused", color: str = "rgb") -> PhotoModule:
        """This analyzer as one torch module, for ``export_torchscript`` and ``export_aotinductor``.

        Args:
            kernels: of the network that embeds: ``"fused"``, or ``"aten"`` for one that has no fused form.
                The detector is always fused.
            color: channel order of the photos, ``"rgb"`` or ``"bgr"``.

        Raises:
            PocketNetError: An unknown option, or a network that is an exported file already.
        """
        from pocketnet_fast.export.source import PixelsFirst, checked_source
        from pocketnet_fast.faces.photo_module import PhotoModule, WithMirrorImage

        precision, flip, upright, _ = self._options
        source = checked_source(self.model, kernels, "uint8", color)
        embedder: nn.Module
        if kernels == "fused":
            from pocketnet_fast.lowering.compiled import compile as compile_model

            embedder = compile_model(source, precision=precision, flip=flip, color=color)
        else:
            embedder = PixelsFirst(source, color)
            embedder = WithMirrorImage(embedder) if flip else embedder
        detector = self._engines(self.threads).detector
        return PhotoModule(
            detector.lowered(color),
            embedder,
            least_score=detector.score_threshold,
            upright=upright,
            max_faces=self.max_faces or 0,
        ).eval()

    def facts(self) -> dict[str, Any]:
        """What an exported file says of this analyzer, beside what it says of the network."""
        precision, flip, upright, _ = self._options
        detector = self._engines(self.threads).detector
        return {
            "precision": precision,
            "adds_mirror_image": flip,
            "upright": upright,
            "max_faces": self.max_faces,
            "least_score": detector.score_threshold,
            "detector": "yunet" if detector.path is None else detector.path.name,
        }

    def _analyze(self, photo: Photo, threads: int | None) -> list[Face]:
        image = _image(photo)
        engines = self._engines(threads)
        faces = engines.detector.detect(image)[: self.max_faces]
        sure = [index for index, face in enumerate(faces) if face.doubt is None]
        if not sure:
            return faces
        crops = np.stack([align(image, faces[index].landmarks) for index in sure])
        names = [f"face {index} of {_name(photo)}" for index in sure]
        for index, crop, row in zip(sure, crops, normalized(engines.embedder(crops, names)), strict=True):
            faces[index] = replace(faces[index], crop=crop, embedding=row)
        return faces

    def _engines(self, threads: int | None) -> _Engines:
        precision, flip, upright, detector = self._options
        with self._lock:
            if threads not in self._made:
                self._made[threads] = _Engines(
                    FaceDetector(detector, upright=upright, threads=threads),
                    Embedder(self.model, flip=flip, threads=threads, precision=precision),
                )
            return self._made[threads]


def _network(model: str | nn.Module, weights: str | os.PathLike[str] | None) -> nn.Module:
    if not isinstance(model, str):
        if weights is not None:
            raise PocketNetError("a model that is built already has its weights; weights is for names")
        return model
    if weights is None:
        from pocketnet_fast.models.registry import create_model

        return create_model(model, pretrained=True)
    from pocketnet_fast.export.exported import is_exported, load_exported
    from pocketnet_fast.models.identification import load_model

    if is_exported(Path(weights)):
        return load_exported(Path(weights))
    return load_model(weights, None if model == _DEFAULT else model)


def _image(photo: Photo) -> ImageArray:
    if isinstance(photo, np.ndarray):
        return photo
    if isinstance(photo, bytes | bytearray | memoryview):
        return decode_image(bytes(photo))
    if isinstance(photo, str | os.PathLike):
        return read_image(photo)
    raise PocketNetError(
        "expected a path, an encoded image as bytes, or an H x W x 3 uint8 array, got a "
        f"{type(photo).__name__}"
    )


def _name(photo: Photo) -> str:
    return os.fspath(photo) if isinstance(photo, str | os.PathLike) else "image"
