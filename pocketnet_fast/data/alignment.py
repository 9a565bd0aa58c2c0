"""Five-point alignment: the template, the similarity transform onto it, and the crop."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError

FloatArray = npt.NDArray[np.float64]
ImageArray = npt.NDArray[np.uint8]

CROP_SIZE: Final = 112
TEMPLATE_NAME: Final = "arcface-5pt-112"
# Left eye, right eye, nose, left and right corner of the mouth, as seen in the image; x, y in pixels.
TEMPLATE: Final[FloatArray] = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)
TEMPLATE.setflags(write=False)


def similarity_transform(source: npt.ArrayLike, target: npt.ArrayLike) -> FloatArray:
    """Return the 2x3 matrix of the similarity transform that maps ``source`` closest onto ``target``.

    This is Umeyama's least-squares estimate of rotation, uniform scale and translation, without
    reflection. In the plane, with points read as complex numbers, it is the linear regression
    ``target = a * source + b``: ``|a|`` scales and ``arg(a)`` rotates, and no ``a`` reflects.

    Args:
        source: K x 2 points (x, y), K >= 2.
        target: K x 2 points (x, y).

    Raises:
        PocketNetError: The shapes differ or are not K x 2, a coordinate is not finite, the points of
            ``source`` coincide, or no similarity relates them to ``target``.
    """
    points = np.asarray(source, dtype=np.float64)
    goal = np.asarray(target, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2 or points.shape != goal.shape:
        raise PocketNetError(
            f"expected two K x 2 sets of points, K >= 2, got {points.shape} and {goal.shape}"
        )
    if not (np.isfinite(points).all() and np.isfinite(goal).all()):
        raise PocketNetError("landmarks must be finite numbers")

    z, w = points @ (1, 1j), goal @ (1, 1j)
    z0, w0 = z - z.mean(), w - w.mean()
    spread = np.linalg.norm(z0)
    if spread <= 1e-6 * max(1.0, np.abs(points).max()):
        raise PocketNetError("landmarks coincide, so they fix neither scale nor rotation")
    a = np.vdot(z0, w0) / spread**2
    if abs(a) * spread <= 1e-3 * np.linalg.norm(w0):
        raise PocketNetError("landmarks lie so unlike the template that no similarity transform relates them")
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(image: npt.NDArray[Any], landmarks: npt.ArrayLike, size: int = CROP_SIZE) -> ImageArray:
    """Warp the face with these landmarks onto the template.

    Bilinear sampling; what lies outside the image is 0. For another ``size`` the template is scaled by
    ``size / 112``.

    Args:
        image: H x W x 3 uint8, RGB.
        landmarks: 5 x 2 (x, y) in the order of ``TEMPLATE``.
        size: side of the square crop in pixels.

    Returns:
        size x size x 3 uint8, RGB.

    Raises:
        PocketNetError: The image has another shape or dtype, or the landmarks are unusable.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise PocketNetError(f"expected an H x W x 3 uint8 image, got {image.shape} {image.dtype}")
    if size < 1:
        raise PocketNetError(f"the size of a crop must be positive, got {size}")
    if np.shape(landmarks) != (5, 2):
        raise PocketNetError(f"expected 5 x 2 landmarks, got {np.shape(landmarks)}")
    import torch

    from pocketnet_fast.ops.align_faces import align_faces

    # An image that was decoded in the other channel order may have a negative stride, which torch has not.
    photo = torch.from_numpy(np.ascontiguousarray(image))
    points = torch.tensor(np.asarray(landmarks, np.float64))[None]
    try:
        crops = align_faces(photo, points, size)
    except RuntimeError as error:
        raise PocketNetError(str(error).removeprefix("align_faces: ")) from None
    return np.asarray(crops[0].numpy())
