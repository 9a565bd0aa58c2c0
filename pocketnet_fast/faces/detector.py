"""Finding faces with YuNet, run by OpenCV; its model file is the user's own or a verified download."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.face import Face, examined
from pocketnet_fast.faces.upright import MAX_UPSCALING, SECOND_LOOK, upright_faces
from pocketnet_fast.files import atomic_write

DETECTOR_VARIABLE: Final = "POCKETNET_DETECTOR"
DETECTOR_FILE: Final = "face_detection_yunet_2023mar.onnx"
DETECTOR_URL: Final = (
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/" + DETECTOR_FILE
)
DETECTOR_SHA256: Final = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
DETECTOR_BYTES: Final = 232_589

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


class FaceDetector:
    """YuNet. One object may be used from several threads; they take turns.

    Args:
        model: the model file; by default ``find_detector()`` looks for it.
        score_threshold: faces below this confidence are not reported.
        upright: find out which way up a photo is (``faces.upright``) and look along the tilt of faces;
            without it, photos must be upright as they are given.

    Raises:
        PocketNetError: no model file, or one that OpenCV cannot load.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        score_threshold: float = 0.7,
        upright: bool = True,
    ) -> None:
        import cv2

        self.upright = upright
        self.path = find_detector(model)
        self._lock = threading.Lock()
        try:
            with _quiet_opencv():
                self._net: Any = cv2.FaceDetectorYN.create(
                    str(self.path), "", (320, 320), score_threshold, 0.3, 1000
                )
        except cv2.error as error:
            raise PocketNetError(
                f"{self.path} is not a YuNet model that OpenCV {cv2.__version__} can load"
            ) from error

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        """Return the faces in an image, the most prominent (box area times score) first, doubtful ones last.

        The image is scaled for the detector, so neither its size nor that of the faces matters much: small
        images are enlarged (up to four times), which finds faces from about 6 pixels, and large ones reduced.
        Whether a face is large enough to be recognised is for ``select_face`` to say.

        Args:
            image: H x W x 3 uint8, RGB.

        Raises:
            PocketNetError: the image has another shape or dtype, or the model is no YuNet.
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

        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        shrink = scale < 1
        scaled = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
        )
        try:
            with self._lock:
                self._net.setInputSize((width, height))
                _, found = self._net.detect(cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR))
        except cv2.error as error:
            raise PocketNetError(f"{self.path} does not work as a YuNet model") from error
        if found is None:
            return []
        # Pixel centres correspond: (x + 0.5) scales, not x.
        ratio = np.array((image.shape[1] / width, image.shape[0] / height))
        faces = []
        for row in np.asarray(found, dtype=np.float64):
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


def cached_detector() -> Path:
    """Return where ``download_detector`` puts the model: in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pocketnet_fast" / DETECTOR_FILE


def find_detector(model: str | os.PathLike[str] | None = None) -> Path:
    """Return the detector's model file: ``model``, else ``$POCKETNET_DETECTOR``, else the downloaded one.

    Raises:
        PocketNetError: the file that was named, or any at all, does not exist.
    """
    named = model or os.environ.get(DETECTOR_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file():
            source = "" if model else f" (from {DETECTOR_VARIABLE})"
            raise PocketNetError(f"detector model {path}{source}: no such file")
        return path
    path = cached_detector()
    if not path.is_file():
        raise PocketNetError(
            "no face detector model: run `pocketnet doctor --download-detector`, or pass a file with "
            f"--detector or the variable {DETECTOR_VARIABLE}; aligned crops need none (--aligned)"
        )
    return path


def download_detector(
    destination: str | os.PathLike[str] | None = None,
    *,
    url: str = DETECTOR_URL,
    opener: Callable[..., Any] = urllib.request.urlopen,
    timeout: float = 30.0,
) -> Path:
    """Download YuNet (MIT licence, 232,589 bytes) as OpenCV Zoo publishes it and return its path.

    Nothing is downloaded when the right file is there already. The file appears under its name only after
    its size and SHA-256 were found right.

    Args:
        destination: the file to write; by default ``cached_detector()``.
        url: another place of the same file, such as a mirror.
        opener: called as ``urllib.request.urlopen`` is.
        timeout: seconds without an answer after which to give up.

    Raises:
        PocketNetError: the download failed, or what came is not the published file.
    """
    path = Path(destination) if destination is not None else cached_detector()
    if path.is_file() and _sha256(path.read_bytes()) == DETECTOR_SHA256:
        return path
    try:
        with opener(url, timeout=timeout) as response:
            content = response.read(DETECTOR_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise PocketNetError(f"download of {url} failed: {reason}") from error
    if _sha256(content) != DETECTOR_SHA256:
        size = f"{len(content)} bytes" if len(content) <= DETECTOR_BYTES else f"over {DETECTOR_BYTES} bytes"
        raise PocketNetError(
            f"{url} did not give the published detector ({size}, SHA-256 {_sha256(content)[:12]}..., "
            f"expected {DETECTOR_BYTES} bytes, {DETECTOR_SHA256[:12]}...); nothing was kept"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PocketNetError(f"cannot create {path.parent}: {error.strerror}") from error
    with atomic_write(path) as stream:
        stream.write(content)
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    # OpenCV 5 warns on stderr that its new engine ignores the target, which nobody asked for.
    import cv2

    logging = getattr(getattr(cv2, "utils", None), "logging", None)
    if logging is None:
        yield
        return
    previous = logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        logging.setLogLevel(previous)
