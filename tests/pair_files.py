"""Small verification pairs for the tests of evaluation."""

from __future__ import annotations

import numpy as np
from faces import crop

from pocketnet_fast.data.images import encode_image
from pocketnet_fast.evaluation.pairs import VerificationPairs


def every_nth(pairs: VerificationPairs, step: int) -> VerificationPairs:
    """The first pair, and each that stands a multiple of ``step`` behind it."""
    images = [pairs.images[2 * pair + side] for pair in range(0, len(pairs), step) for side in (0, 1)]
    return VerificationPairs(images, pairs.same[::step])


def drawn_pairs(count: int, suffix: str = ".png") -> VerificationPairs:
    """Pairs of drawn crops, every other one of a picture and a slightly brighter copy of it."""
    images = []
    for pair in range(count):
        first = crop(3 * pair)
        second = (
            np.clip(first.astype(int) + 9, 0, 255).astype(np.uint8) if pair % 2 == 0 else crop(3 * pair + 1)
        )
        images += [encode_image(first, suffix), encode_image(second, suffix)]
    return VerificationPairs(images, np.arange(count) % 2 == 0)
