"""Finding faces in photos of any size, with YuNet on the package's kernels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.face import Face, examined
from pocketnet_fast.faces.upright import MAX_UPSCALING, SECOND_LOOK, upright_faces

DETECTOR_VARIABLE: Final = "POCKETNET_DETECTOR"

# On photos reduced until faces measured 24, 20, 16 and 12 pixels, a MobileFaceNet decided 100, 96, 94 and
# 85 % of the pairs correctly.
MIN_FACE: Final = 20.0
# YuNet finds faces of 16 to 400 pixels in what it is given, so the long side of its input is first brought
# between these two; then, until a face shows, to each of the others.
_FIRST_SIDES: Final = (320, 640)
_OTHER_SIDES: Final = (640, 1920, 256)
# Landmarks are best on faces of about 200 pixels: with a MobileFaceNet, same and different pairs lie 5.3
# standard deviations apart when faces are brought to 64 pixels, 6.6 at 128, 7.1 to 7.8 from 160 to 320. So a
# face that the detector saw smaller or larger than this range is looked at again, alone, near the last size.
_WELL_SEEN: Final = (160.0, 350.0)
_MARGIN: Final = 0.25
# Of the boxes of two faces.
_MOST_OVERLAP: Final = 0.3


class FaceDetector:
    """YuNet. One object may be used from several threads at once, and in children of ``os.fork``.

    Args:
        model: another YuNet than the one that ships, an ONNX file or weights; by default the file that
            ``$POCKETNET_DETECTOR`` names, if it names one.
        score_threshold: faces below this confidence are not reported.
        upright: find out which way up a photo is (``faces.upright``) and look along the tilt of faces;
            without it, photos must be upright as they are given.
        precision: ``"fp32"`` or ``"bf16"``.
        threads: of one call; None follows ``torch.set_num_threads``.

    Attributes:
        path: the model's file, or None for the one that ships.

    Raises:
        PocketNetError: no such file, one that holds no YuNet, or another precision.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        score_threshold: float = 0.7,
        upright: bool = True,
        precision: str = "fp32",
        threads: int | None = None,
    ) -> None:
        from pocketnet_fast.lowering.yunet import lower_detector
        from pocketnet_fast.models.yunet import load_yunet

        self.upright = upright
        self.path = find_detector(model)
        self._score_threshold, self._threads = score_threshold, threads or 0
        self._program, self._weights = lower_detector(load_yunet(self.path), precision=precision).encode()

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        """Return the faces in an image, the most prominent (box area times score) first, doubtful ones last.

        The image is scaled for the detector, so neither its size nor that of the faces matters much: small
        images are enlarged (up to four times), which finds faces from about 6 pixels, and large ones reduced.
        Whether a face is large enough to be recognised is for ``select_face`` to say.

        Args:
            image: H x W x 3 uint8, RGB.

        Raises:
            PocketNetError: the image has another shape or dtype.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise PocketNetError(f"expected an H x W x 3 uint8 image, got {image.shape} {image.dtype}")
        faces = self._as_it_is(image)
        if self.upright:
            faces = upright_faces(image, faces, self._as_it_is, self._detect_at)
        return sorted(map(examined, faces), key=lambda face: (face.doubt is not None, -face.prominence))

    def _as_it_is(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        for scale in _scales(max(image.shape[:2])):
            faces = [self._refined(image, face, scale) for face in self._detect_at(image, scale)]
            if faces:
                return faces
        return []

    def _refined(self, image: npt.NDArray[np.uint8], face: Face, scale: float) -> Face:
        better = min(SECOND_LOOK / face.size, MAX_UPSCALING)
        if _WELL_SEEN[0] <= face.size * scale <= _WELL_SEEN[1] or better == scale:
            return face
        left, top, width, height = face.box
        x, y = max(0, int(left - width * _MARGIN)), max(0, int(top - height * _MARGIN))
        right = max(0, int(left + width * (1 + _MARGIN)))
        bottom = max(0, int(top + height * (1 + _MARGIN)))
        around = image[y : bottom + 1, x : right + 1]
        if around.size == 0:
            return face
        seen = [found.moved(x, y) for found in self._detect_at(around, better)]
        best = max(seen, key=lambda found: _overlap(found, face), default=face)
        return best if _overlap(best, face) > 0.4 else face

    def _detect_at(self, image: npt.NDArray[np.uint8], scale: float) -> list[Face]:
        import cv2
        import torch

        from pocketnet_fast.ops.detect_faces import detect_faces

        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        shrink = scale < 1
        scaled = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
        )
        found = detect_faces(
            torch.from_numpy(scaled),
            self._program,
            self._weights,
            self._score_threshold,
            _MOST_OVERLAP,
            threads=self._threads,
        )
        # Pixel centres correspond: (x + 0.5) scales, not x.
        ratio = np.array((image.shape[1] / width, image.shape[0] / height))
        faces = []
        for row in found.double().numpy():
            left, top = ((row[0:2] + 0.5) * ratio - 0.5).tolist()
            wide, high = (row[2:4] * ratio).tolist()
            landmarks = (row[4:14].reshape(5, 2) + 0.5) * ratio - 0.5
            faces.append(Face((left, top, wide, high), landmarks, float(row[14])))
        return faces


def _scales(long_side: int) -> list[float]:
    least, most = _FIRST_SIDES
    first = min(max(long_side, least), most) / long_side
    scales = [first, *(side / long_side for side in _OTHER_SIDES)]
    # Only the side for small faces is worth enlarging for.
    limits = (MAX_UPSCALING, MAX_UPSCALING, 1.0, 1.0)
    return list(dict.fromkeys(min(pair) for pair in zip(scales, limits, strict=True)))


def _overlap(one: Face, other: Face) -> float:
    """Intersection over union of the boxes."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = one.box, other.box
    width = max(0.0, min(x1 + w1, x2 + w2) - max(x1, x2))
    height = max(0.0, min(y1 + h1, y2 + h2) - max(y1, y2))
    return width * height / (w1 * h1 + w2 * h2 - width * height)


def select_face(faces: list[Face], name: str = "image", min_size: float = MIN_FACE) -> Face:
    """Return the most prominent face.

    Args:
        faces: what ``FaceDetector.detect`` returned, in its order.
        name: how errors call the image.
        min_size: shorter side in pixels below which a face is too small to be recognised.

    Raises:
        PocketNetError: there is no face, every one is doubtful, or the most prominent one is too small.
    """
    if not faces:
        raise PocketNetError(f"{name}: no face found")
    face = faces[0]
    if face.doubt is not None:
        raise PocketNetError(f"{name}: the face found is doubtful, {face.doubt}")
    if face.size < min_size:
        raise PocketNetError(
            f"{name}: the largest face is {face.size:.0f} pixels wide; at least {min_size:.0f} are needed"
        )
    return face


def find_detector(model: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the detector's model file: ``model``, else ``$POCKETNET_DETECTOR``, else None: the shipped one.

    Raises:
        PocketNetError: the file that was named does not exist.
    """
    named = model or os.environ.get(DETECTOR_VARIABLE)
    if not named:
        return None
    path = Path(named)
    if not path.is_file():
        source = "" if model else f" (from {DETECTOR_VARIABLE})"
        raise PocketNetError(f"detector model {path}{source}: no such file")
    return path
