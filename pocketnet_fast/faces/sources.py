"""Embedded faces of files, photos and aligned crops alike: what the commands that compare faces read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.data.stored_images import StoredImage
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.analyzer import FaceAnalyzer, photo_name, read_photo
from pocketnet_fast.faces.detector import MIN_FACE, select_face
from pocketnet_fast.faces.face import Face
from pocketnet_fast.faces.pipeline import Embedder, normalized

ImageFile = str | os.PathLike[str] | StoredImage
"""An image file, or an image in another file."""


@dataclass(frozen=True, eq=False)
class EmbeddedFace:
    """A face of one file.

    Attributes:
        path: The file, or the name of an image in another file.
        crop: 112 x 112 x 3 uint8, RGB, aligned.
        embedding: D float32 of length 1.
        norm: The length that the embedding had.
        faces: All faces of the photo, this one first; empty when the file was an aligned crop.
    """

    path: str
    crop: ImageArray
    embedding: npt.NDArray[np.float32]
    norm: float
    faces: list[Face]


class FaceSource:
    """Where embedded faces come from.

    Args:
        source: An analyzer, if files are photos; what embeds crops, if they are aligned crops already.

    Attributes:
        embedder: What embeds.
    """

    def __init__(self, source: FaceAnalyzer | Embedder) -> None:
        self._analyzer = source if isinstance(source, FaceAnalyzer) else None
        self.embedder = source.embedder if isinstance(source, FaceAnalyzer) else source

    def face(self, image: ImageArray, path: str | os.PathLike[str]) -> EmbeddedFace:
        """Embed the most prominent face of one image.

        Args:
            image: H x W x 3 uint8, RGB.
            path: How errors and the result call it.

        Raises:
            PocketNetError: See ``select_face``; or a crop of another size.
        """
        name = os.fspath(path)
        if self._analyzer is None:
            return next(self._embedded([(name, _checked(image, name))]))
        faces = self._analyzer.analyze(image, choose=lambda found, _: [select_face(found, name)])
        return next(_of_photo(name, faces))

    def faces(
        self,
        paths: Iterable[ImageFile],
        *,
        every_face: bool = False,
        on_photo: Callable[[], None] = lambda: None,
        on_error: Callable[[PocketNetError], None] | None = None,
    ) -> Iterator[EmbeddedFace]:
        """Yield the most prominent face of each file, in order.

        Args:
            paths: Image files, or images in other files.
            every_face: Yield all faces of a photo that are neither doubtful nor too small, the most
                prominent first.
            on_photo: Called after each file, for progress.
            on_error: Given the error of a file that cannot be used, which is then left out; without it the
                error is raised.

        Raises:
            PocketNetError: A file cannot be used, see ``face``, and there is no ``on_error``.
        """
        if self._analyzer is None:
            yield from self._crops(paths, on_photo, on_error)
            return
        files = list(paths)
        results = self._analyzer.analyze_many(
            files,
            choose=_usable if every_face else _most_prominent,
            on_error=None if on_error is None else lambda _, error: on_error(error),
        )
        for path, faces in zip(files, results, strict=True):
            on_photo()
            yield from _of_photo(photo_name(path), faces)

    def _crops(
        self,
        paths: Iterable[ImageFile],
        on_photo: Callable[[], None],
        on_error: Callable[[PocketNetError], None] | None,
    ) -> Iterator[EmbeddedFace]:
        batch: list[tuple[str, ImageArray]] = []
        for path in paths:
            try:
                image, name = read_photo(path), photo_name(path)
                batch.append((name, _checked(image, name)))
            except PocketNetError as error:
                if on_error is None:
                    raise
                on_error(error)
            on_photo()
            if len(batch) == self.embedder.batch_size:
                yield from self._embedded(batch)
                batch = []
        yield from self._embedded(batch)

    def _embedded(self, crops: Sequence[tuple[str, ImageArray]]) -> Iterator[EmbeddedFace]:
        if not crops:
            return
        rows = self.embedder(np.stack([crop for _, crop in crops]), [name for name, _ in crops])
        norms = np.linalg.norm(rows, axis=1).tolist()
        for (name, crop), row, norm in zip(crops, normalized(rows), norms, strict=True):
            yield EmbeddedFace(name, crop, row, norm, [])


def _most_prominent(faces: list[Face], name: str) -> list[Face]:
    return [select_face(faces, name)]


def _usable(faces: list[Face], name: str) -> list[Face]:
    select_face(faces, name)
    return [face for face in faces if face.doubt is None and face.size >= MIN_FACE]


def _of_photo(path: str, faces: list[Face]) -> Iterator[EmbeddedFace]:
    for face in faces:
        if face.crop is not None and face.embedding is not None and face.norm is not None:
            others = [other for other in faces if other is not face]
            yield EmbeddedFace(path, face.crop, face.embedding, face.norm, [face, *others])


def _checked(image: ImageArray, name: str) -> ImageArray:
    if image.shape[:2] != (CROP_SIZE, CROP_SIZE):
        height, width = image.shape[:2]
        raise PocketNetError(f"{name} is {width}x{height}; an aligned crop is {CROP_SIZE}x{CROP_SIZE}")
    return image
