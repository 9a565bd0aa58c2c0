"""Finding faces in photos of any size, with YuNet on the package's kernels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.face import Face

if TYPE_CHECKING:
    from torch import Tensor

DETECTOR_VARIABLE: Final = "POCKETNET_DETECTOR"

# Two small faces look alike: of photos reduced until the boxes were 40, 32, 24 and 20 pixels wide, 1.8, 3.5,
# 8.6 and 20 of 1,000 pairs of different people were accepted at the cosine for 1 (docs/models/quality.md).
MIN_FACE: Final = 32.0
# In the order of ``Doubt`` in csrc/faces/face.h.
_IMPLAUSIBLE: Final = (
    "they lie outside its box",
    "eyes and mouth are too near or too far",
    "the eyes are on each other's side",
    "the nose is not between eyes and mouth",
)


class FaceDetector:
    """YuNet. One object may be used from several threads at once, and in children of ``os.fork``.

    Args:
        model: another YuNet than the one that ships, an ONNX file or weights; by default the file that
            ``$POCKETNET_DETECTOR`` names, if it names one.
        score_threshold: faces below this confidence are not reported.
        upright: find out which way up a photo is and look along the tilt of faces (``csrc/faces/way_up.h``);
            without it, photos must be upright as they are given.
        precision: ``"fp32"`` or ``"bf16"``.
        threads: of one call; None follows ``torch.set_num_threads``.

    Attributes:
        path: the model's file, or None for the one that ships.

    Raises:
        PocketNetError: No such file, one that holds no YuNet, or another precision.
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
        from pocketnet_fast.models.yunet import load_yunet

        self.upright = upright
        self.path = find_detector(model)
        self.score_threshold, self._threads = score_threshold, threads or 0
        self._model, self._precision = load_yunet(self.path), precision
        self._network = self.lowered()

    def lowered(self, color: str = "rgb") -> tuple[Tensor, Tensor]:
        """int32 words and float32 weights of the network as ``ops.find_faces`` takes them.

        Args:
            color: channel order of the photos, ``"rgb"`` or ``"bgr"``.
        """
        from pocketnet_fast.lowering.yunet import lower_detector

        return lower_detector(self._model, color=color, precision=self._precision).encode()

    def detect(self, image: npt.NDArray[np.uint8]) -> list[Face]:
        """Return the faces in an image, the most prominent (box area times score) first, doubtful ones last.

        The image is scaled for the detector, so neither its size nor that of the faces matters much: small
        images are enlarged (up to four times), which finds faces from about 6 pixels, and large ones reduced.
        Whether a face is large enough to be recognised is for ``select_face`` to say.

        Args:
            image: H x W x 3 uint8, RGB.

        Raises:
            PocketNetError: The image has another shape or dtype.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise PocketNetError(f"expected an H x W x 3 uint8 image, got {image.shape} {image.dtype}")
        import torch

        from pocketnet_fast.ops.find_faces import find_faces

        found = find_faces(
            torch.from_numpy(np.ascontiguousarray(image)),
            *self._network,
            self.score_threshold,
            self.upright,
            self._threads,
        )
        return [_face(row) for row in found.tolist()]


def _face(row: list[float]) -> Face:
    """A face as ``find_faces`` states it."""
    left, top, width, height = row[:4]
    landmarks, (score, doubt, rival) = np.array(row[4:14]).reshape(5, 2), row[14:]
    return Face((left, top, width, height), landmarks, score, _doubt(int(doubt), score, rival))


def _doubt(number: int, score: float, rival: float) -> str | None:
    if number == 0:
        return None
    if number == 1:
        return f"it is unclear which way up it is (scores {score:.3f} and {rival:.3f})"
    return f"its landmarks are not a face's: {_IMPLAUSIBLE[number - 2]}"


def select_face(faces: list[Face], name: str = "image", min_size: float = MIN_FACE) -> Face:
    """Return the most prominent face.

    Args:
        faces: what ``FaceDetector.detect`` returned, in its order.
        name: how errors call the image.
        min_size: shorter side in pixels below which a face is too small to be recognised.

    Raises:
        PocketNetError: There is no face, every one is doubtful, or the most prominent one is too small.
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
        PocketNetError: The file that was named does not exist.
    """
    named = model or os.environ.get(DETECTOR_VARIABLE)
    if not named:
        return None
    path = Path(named)
    if not path.is_file():
        source = "" if model else f" (from {DETECTOR_VARIABLE})"
        raise PocketNetError(f"detector model {path}{source}: no such file")
    return path
