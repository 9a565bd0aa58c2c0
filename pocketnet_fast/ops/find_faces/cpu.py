"""Registration of ``pocketnet_fast::find_faces`` in Python; what it does is in ``csrc/faces``."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketnet_fast.ops import found_faces  # noqa: F401  (registers the shape)


def find_faces(
    photo: Tensor,
    program: Tensor,
    weights: Tensor,
    least_score: float = 0.7,
    upright: bool = True,
    threads: int = 0,
) -> Tensor:
    """Find the faces of a photo with a lowered YuNet.

    The photo is scaled for the detector, and faces that it saw much smaller or larger than 200 pixels are
    looked at again, alone; ``csrc/faces/detector.h`` says how the way up is found.

    Args:
        photo: uint8 H,W,3, RGB, any strides.
        program: int32 words, from ``lower_detector(...).encode()``.
        weights: float32, from the same.
        least_score: Faces of at most this score are left out.
        upright: Find out which way up the photo is and look along the tilt of faces.
        threads: 0 takes torch's number of threads; never more than the process has processors.

    Returns:
        float64 N,17 in pixels of the photo, the centre of the first one at 0, 0; the most prominent (area of
        the box times score) first, doubtful ones last: left, top, width and height of the box, x and y of
        five landmarks, the score, why the face is doubtful (0: it is not; 1: another way up is as likely; 2
        to 5: its landmarks are not a face's, see ``csrc/faces/face.h``), and for 1 the score of that way up.

    Raises:
        RuntimeError: A wrong dtype, shape or device, a damaged program or one that is no detector's, or an
            instruction set that ``PNF_FORCE_ISA`` names and the CPU lacks.
    """
    out: Tensor = torch.ops.pocketnet_fast.find_faces(photo, program, weights, least_score, upright, threads)
    return out
