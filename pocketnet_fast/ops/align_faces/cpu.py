"""Registration of ``pocketnet_fast::align_faces`` in Python; what it does is in ``csrc/faces``."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketnet_fast.ops.devices import on_one_device
from pocketnet_fast.ops.native import extension

extension()


@torch.library.register_fake("pocketnet_fast::align_faces")
def _fake(photo: Tensor, landmarks: Tensor, side: int) -> Tensor:
    on_one_device("align_faces", (photo, landmarks))
    return photo.new_empty((landmarks.size(0), side, side, 3), dtype=torch.uint8)


def align_faces(photo: Tensor, landmarks: Tensor, side: int = 112) -> Tensor:
    """Warp the faces with these landmarks onto the template.

    Bilinear sampling, places rounded to 1/1024 of a pixel; what lies outside the photo is 0. For another
    ``side`` than 112 the template is scaled.

    Args:
        photo: uint8 H,W,3, any strides.
        landmarks: float64 N,5,2 (x, y): left and right eye, nose, left and right corner of the mouth, as seen
            in the photo.
        side: The side of the square crops, in pixels, up to 4,096.

    Returns:
        uint8 N,side,side,3.

    Raises:
        RuntimeError: A wrong dtype, shape or device, or landmarks that are not finite, coincide, or that
            no similarity transform relates to the template.
    """
    out: Tensor = torch.ops.pocketnet_fast.align_faces(photo, landmarks, side)
    return out
