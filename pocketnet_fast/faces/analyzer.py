"""Everything about the faces of photos in one object: where they are, which way up, and whose."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from pocketnet_fast.data.alignment import align
from pocketnet_fast.data.images import ImageArray, decode_image, read_image
from pocketnet_fast.data.stored_images import StoredImage
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.detector import FaceDetector
from pocketnet_fast.faces.face import Face
from pocketnet_fast.faces.pipeline import Embedder, normalized
from pocketnet_fast.faces.quality import face_quality
from pocketnet_fast.ops.native import check_threads, torch_on_this_thread_alone, usable_threads

if TYPE_CHECKING:
    from torch import nn

    from pocketnet_fast.faces.photo_module import PhotoModule
    from pocketnet_fast.models.calibration import Calibration

Photo = str | os.PathLike[str] | StoredImage | bytes | bytearray | memoryview | ImageArray
"""A file, an image in one, an encoded image, or H x W x 3 uint8, RGB."""

Choose = Callable[[list[Face], str], Sequence[Face]]
"""Which of a photo's faces to embed, given all of them and how errors call the photo; raises to refuse it."""

_DEFAULT = "pocketnet_s128"
# Photos that are embedded together on the fused kernels: 96 photos take 5 % less time in fours than one by
# one, as the network's weights stay in the cache, and no less in larger groups.
_SEVERAL: Final = 4


_Result = list[Face] | PocketNetError


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
        engine: what embeds, see ``Embedder``.
        precision: of both networks, ``"fp32"`` or ``"bf16"``. Half precision of the detector moves landmarks,
            but pairs lie as far apart (docs/benchmarks/turned_photos.md).
        threads: of one call; None follows ``torch.set_num_threads``.
        flip: embed the mirror image, too, and add the two, as the thresholds of the weights expect.
        upright: find out which way up a photo is; see ``FaceDetector``.
        max_faces: of a photo, the most prominent ones; None: all.
        batch_size: crops per call of the network.

    Attributes:
        model: The network.
        embedder: What embeds the crops of ``analyze``.
        calibration: The thresholds that came with its weights, if any did.

    Raises:
        PocketNetError: No such model or file, or an option that they do not have.

    Examples:
        >>> analyzer = FaceAnalyzer(precision="bf16", threads=2)
        >>> for face in analyzer.analyze("party.jpg"):
        ...     print(face.box, face.quality)
    """

    def __init__(
        self,
        *,
        model: str | nn.Module = _DEFAULT,
        weights: str | os.PathLike[str] | None = None,
        detector: str | os.PathLike[str] | None = None,
        engine: str = "auto",
        precision: str = "fp32",
        threads: int | None = None,
        flip: bool = True,
        upright: bool = True,
        max_faces: int | None = None,
        batch_size: int = 32,
    ) -> None:
        if max_faces is not None and max_faces < 1:
            raise PocketNetError(f"max_faces is {max_faces}; expected at least 1, or None for all")
        check_threads(threads)
        self.model = _network(model, weights)
        self.threads, self.max_faces = threads, max_faces
        self._options = (precision, flip, upright, detector)
        self._engine, self._batch_size = engine, batch_size
        self._lock = threading.Lock()
        self._made: dict[int | None, _Engines] = {}
        self.embedder = self._engines(threads).embedder
        self.calibration: Calibration | None = self.embedder.calibration

    def analyze(self, photo: Photo, *, choose: Choose | None = None) -> list[Face]:
        """Find the faces of a photo and embed them, in one batch.

        Args:
            photo: A file, its content, or H x W x 3 uint8, RGB.
            choose: Which faces to embed; None: all that are not doubtful.

        Returns:
            The most prominent face first, doubtful ones last; these have neither crop, embedding nor quality,
            so that nothing can be decided by them. Empty where there is none.

        Raises:
            PocketNetError: No such file, or no image that can be read; or what ``choose`` raises.

        Examples:
            >>> faces = FaceAnalyzer().analyze("party.jpg")
            >>> faces[0].embedding.shape
            (128,)
        """
        (result,) = self._analyze([photo], self.threads, choose)
        if isinstance(result, PocketNetError):
            raise result
        return result

    def analyze_many(
        self,
        photos: Iterable[Photo],
        *,
        choose: Choose | None = None,
        on_error: Callable[[Photo, PocketNetError], None] | None = None,
    ) -> Iterator[list[Face]]:
        """Find and embed the faces of many photos, several photos at a time.

        Each thread takes a photo through all its stages, so that none waits for another; of a list, up to
        four photos, whose faces it embeds together. Where the network prefers batches (see ``Embedder``),
        ``batch_size`` photos are taken instead. At most two such groups a thread are on their way, or wait
        for their turn.

        Args:
            photos: Taken as they are needed.
            choose: Which faces to embed; None: all that are not doubtful.
            on_error: Given a photo that cannot be read, or that ``choose`` refuses, and what is wrong with
                it; it then has no face. Without it, the error is raised in its turn.

        Returns:
            The faces of each photo, in the order of the photos.

        Raises:
            PocketNetError: A photo cannot be used, and there is no ``on_error``.

        Examples:
            >>> for faces in FaceAnalyzer().analyze_many(["a.jpg", "b.jpg"], on_error=print):
            ...     print(len(faces))
        """
        workers = usable_threads(self.threads)
        together = self._together(photos, workers)
        waiting: deque[tuple[list[Photo], Future[list[_Result]]]] = deque()

        def next_in_turn() -> Iterator[list[Face]]:
            taken, future = waiting.popleft()
            for photo, result in zip(taken, future.result(), strict=True):
                if not isinstance(result, PocketNetError):
                    yield result
                    continue
                if on_error is None:
                    raise result
                on_error(photo, result)
                yield []

        remaining = iter(photos)
        pool = ThreadPoolExecutor(workers, "faces", torch_on_this_thread_alone)
        try:
            while taken := list(islice(remaining, together)):
                waiting.append((taken, pool.submit(self._analyze, taken, 1, choose)))
                if len(waiting) > 2 * workers:
                    yield from next_in_turn()
            while waiting:
                yield from next_in_turn()
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

    def _together(self, photos: Iterable[Photo], workers: int) -> int:
        """How many photos a thread takes at a time, so that each gets its share of them."""
        most = self.embedder.batch_size
        if not self.embedder.prefers_batches:
            most = min(most, _SEVERAL if isinstance(photos, Sized) else 1)
        return max(1, min(most, -(-len(photos) // workers))) if isinstance(photos, Sized) else most

    def _analyze(self, photos: list[Photo], threads: int | None, choose: Choose | None) -> list[_Result]:
        """The faces of each photo, those of all embedded together; or what is wrong with it."""
        engines = self._engines(threads)
        results: list[_Result] = []
        crops, places, names = [], [], []
        for photo in photos:
            try:
                faces, chosen = self._found(photo, engines.detector, choose)
            except PocketNetError as error:
                results.append(error)
                continue
            for index, crop in chosen:
                crops.append(crop)
                places.append((faces, index))
                names.append(f"face {index} of {photo_name(photo)}")
            results.append(faces)
        if not crops:
            return results
        rows = engines.embedder(np.stack(crops), names)
        for (faces, index), crop, row, unit in zip(places, crops, rows, normalized(rows), strict=True):
            norm = float(np.linalg.norm(row))
            faces[index] = replace(faces[index], crop=crop, embedding=unit, norm=norm)
        return results

    def _found(
        self, photo: Photo, detector: FaceDetector, choose: Choose | None
    ) -> tuple[list[Face], list[tuple[int, ImageArray]]]:
        """The faces of a photo, and of those to be embedded their places and crops."""
        image = read_photo(photo)
        faces = [
            face if face.doubt is not None else replace(face, quality=face_quality(face))
            for face in detector.detect(image)[: self.max_faces]
        ]
        chosen = faces if choose is None else choose(faces, photo_name(photo))
        sure = [index for index, face in enumerate(faces) if face.doubt is None and face in chosen]
        return faces, [(index, align(image, faces[index].landmarks)) for index in sure]

    def _engines(self, threads: int | None) -> _Engines:
        precision, flip, upright, detector = self._options
        with self._lock:
            if threads not in self._made:
                self._made[threads] = _Engines(
                    FaceDetector(detector, upright=upright, precision=precision, threads=threads),
                    Embedder(
                        self.model,
                        engine=self._engine,
                        flip=flip,
                        batch_size=self._batch_size,
                        threads=threads,
                        precision=precision,
                    ),
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
    from pocketnet_fast.models.loading import load_model

    if is_exported(Path(weights)):
        return load_exported(Path(weights))
    return load_model(weights, None if model == _DEFAULT else model)


def read_photo(photo: Photo) -> ImageArray:
    """The pixels of a photo, H x W x 3 uint8, RGB.

    Raises:
        PocketNetError: No such file, or no image that can be read.
    """
    if isinstance(photo, np.ndarray):
        return photo
    if isinstance(photo, bytes | bytearray | memoryview):
        return decode_image(bytes(photo))
    if isinstance(photo, StoredImage):
        return decode_image(photo.read(), photo.name)
    if isinstance(photo, str | os.PathLike):
        return read_image(photo)
    raise PocketNetError(
        "expected a path, an encoded image as bytes, or an H x W x 3 uint8 array, got a "
        f"{type(photo).__name__}"
    )


def photo_name(photo: Photo) -> str:
    """How errors call a photo."""
    if isinstance(photo, StoredImage):
        return photo.name
    return os.fspath(photo) if isinstance(photo, str | os.PathLike) else "image"
