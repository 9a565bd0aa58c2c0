"""Registration of ``pocketnet_fast::detect_faces`` in Python; the kernels are in ``csrc/``."""

from __future__ import annotations

import torch
from torch import Tensor

from pocketnet_fast.ops import found_faces  # noqa: F401  (registers the shape)


def detect_faces(
    image: Tensor,
    program: Tensor,
    weights: Tensor,
    least_score: float = 0.7,
    most_overlap: float = 0.3,
    most_candidates: int = 1000,
    blend: bool = False,
    threads: int = 0,
) -> Tensor:
    """Find the faces in an image with a lowered YuNet.

    Args:
        image: uint8 H,W,3 in the program's colour order, of any size up to 4,096 and any strides. Black is
            added below and to the right up to multiples of 32.
        program: int32 words, from ``lower_detector(...).encode()``.
        weights: float32, from the same.
        least_score: Faces of at most this score are left out.
        most_overlap: Of two faces whose boxes (in whole pixels) overlap more, intersection over union, the
            one of the lower score is left out.
        most_candidates: How many are compared, those of the best scores.
        blend: Give the mean of what the places see that see a face alike (an overlap above 0.7), weighted by
            the tenth power of their scores, instead of what the surest place sees.
        threads: 0 takes torch's number of threads; never more than the process has processors.

    Returns:
        float32 N,15, the best scores first: left, top, width and height of the box, x and y of five
        landmarks, the score. In pixels, the centre of the first one at 0, 0. Boxes may reach over the border.

    Raises:
        RuntimeError: A wrong dtype, shape or device, a damaged program or one that is no detector's, or an
            instruction set that ``PNF_FORCE_ISA`` names and the CPU lacks.
    """
    out: Tensor = torch.ops.pocketnet_fast.detect_faces(
        image, program, weights, least_score, most_overlap, most_candidates, blend, threads
    )
    return out
