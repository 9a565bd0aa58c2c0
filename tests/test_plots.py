"""Figures of a verification, down to data that has one kind of pairs or a perfect network."""

from __future__ import annotations

import io

import numpy as np
import pytest

from pocketnet_fast.data.images import decode_image
from pocketnet_fast.evaluation.error_rates import area_under, equal_error_rate, roc
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


def test_the_area_and_the_equal_error_rate() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    same = rng.random(400) < 0.5
    # Rounded, so that some scores are equal.
    cosine = np.round(rng.normal(0, 0.2, 400) + 0.3 * same, 2)
    curve = roc(cosine, same)
    assert area_under(curve) == pytest.approx(metrics.roc_auc_score(same, cosine))
    rate = equal_error_rate(curve)
    far, tar, _ = metrics.roc_curve(same, cosine, drop_intermediate=False)
    assert np.interp(rate, far, 1 - tar) == pytest.approx(rate, abs=1e-9)


@pytest.mark.parametrize(("scores", "expected"), [([0.9, 0.1], (1.0, 0.0)), ([0.1, 0.9], (0.0, 1.0))])
def test_perfect_and_useless(scores: list[float], expected: tuple[float, float]) -> None:
    curve = roc(np.array(scores), np.array([True, False]))
    assert (area_under(curve), equal_error_rate(curve)) == expected
