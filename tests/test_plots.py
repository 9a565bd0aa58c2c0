"""Figures of a verification, down to data that has one kind of pairs or a perfect network."""

from __future__ import annotations

import io

import numpy as np
import pytest

from pocketnet_fast.data.images import decode_image
from pocketnet_fast.evaluation.error_rates import roc
from pocketnet_fast.evaluation.plots import draw_roc, draw_scores

pytest.importorskip("matplotlib")

CASES = {
    "usual": ([0.9, 0.2, 0.7, 0.4, 0.5, 0.6], [True, False, True, False, True, False]),
    "perfect": ([0.9, 0.1] * 4, [True, False] * 4),
    "one person": ([0.9, 0.1, 0.3], [True] * 3),
    "two persons": ([-1.0, 1.0, 0.3], [False] * 3),
}


@pytest.mark.parametrize("name", CASES)
def test_pictures(name: str) -> None:
    scores, flags = CASES[name]
    cosine, same = np.array(scores), np.array(flags)
    pictures = []
    for draw in (
        lambda stream: draw_roc(stream, name, {"a": roc(cosine, same)}, int((~same).sum())),
        lambda stream: draw_scores(stream, name, cosine, same, 0.4),
    ):
        stream = io.BytesIO()
        draw(stream)
        pictures.append(decode_image(stream.getvalue()))
    assert [picture.shape for picture in pictures] == [(600, 720, 3), (480, 720, 3)]
    # Curve and bars are coloured; axes and text are grey.
    for picture in pictures:
        spread = picture.max(axis=2).astype(int) - picture.min(axis=2)
        assert np.count_nonzero(spread > 60) > 200
