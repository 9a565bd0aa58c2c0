"""How far decisions about a face can be relied on, told before any is made.

Two facts of a face say most of it, whatever the network: how sure the detector is, which falls with pose,
covering, blur and bad light, and whether the photo has fewer pixels of the face than the network needs. Of
the pairs of the benchmarks, those with the worst faces by them are wrong most often; what else was measured,
and the figures, stand in ``docs/models/quality.md`` (``benchmarks/quality.py`` prints them).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from pocketnet_fast.data.alignment import TEMPLATE, similarity_transform
from pocketnet_fast.faces.face import Face

# Crops of 40 pixels a side, and larger ones, are decided about as well as those of 112.
_ENOUGH: Final = 112 / 40
# A score beyond this says no more.
_SUREST: Final = 0.97
# The weight of size beside that of the score: 0.6 and 0.8, fitted on either half of the folds of mixed sizes.
_SIZE: Final = 0.6
# Where half and one in twenty of the benchmarks' faces lie below, in the same units.
_MEDIAN: Final = 2.83
_SPREAD: Final = 0.16


def face_quality(face: Face) -> float:
    """How far decisions about a face can be relied on: 0 to 1, larger is better.

    About the part of the faces in LFW and CFP-FP, frontal and in profile, that are no better: a limit of 0.05
    refuses one in twenty of them. Of the same faces at 28 pixels a side, a box of 20, it refuses more than
    four in five.

    Args:
        face: With score and landmarks in the photo's pixels; not doubtful.

    Raises:
        PocketNetError: Its landmarks fix no scale.
    """
    matrix = similarity_transform(face.landmarks, TEMPLATE)
    return quality_of(face.score, float(np.hypot(*matrix[:, 0])))


def quality_of(score: float, scale: float) -> float:
    """``face_quality`` of a face with this score, of which a pixel of the photo is ``scale`` of the crop."""
    total = certainty(score) - _SIZE * smallness(scale)
    # Faces of less than half a pixel would let exp overflow.
    return 1 / (1 + math.exp(min((_MEDIAN - total) / _SPREAD, 700.0)))


def certainty(score: float) -> float:
    """What a detector's score says: that of 0.9 and 0.95 differ as much as that of 0.8 and 0.9."""
    return -math.log(1 - min(score, _SUREST))


def smallness(scale: float) -> float:
    """How much smaller than enough a face is: 0 from 40 pixels a side on, 1 at 20, 3 at 10."""
    return max(0.0, scale / _ENOUGH - 1)
