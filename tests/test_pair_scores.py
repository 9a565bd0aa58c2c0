"""One pass over the images gives the distances with and without mirror images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pair_files import drawn_pairs

from pocketnet_fast.data.images import decode_image
from pocketnet_fast.evaluation.pair_scores import score_pairs


def embed(crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Something that tells an image from its mirror image."""
    return (crops[:, ::28, :56:7].reshape(len(crops), -1) / 255 - 0.5).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_both_ways(batch: int) -> None:
    pairs = drawn_pairs(5)
    steps = []
    scores = score_pairs(embed, pairs, batch_size=batch, on_image=lambda: steps.append(1))
    assert len(steps) == 10
    crops = np.stack([decode_image(image) for image in pairs.images])
    straight, mirrored = embed(crops).astype(float), embed(crops[:, :, ::-1]).astype(float)
    for rows, distance in ((straight, scores.straight_distance), (straight + mirrored, scores.distance)):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosine = (unit[0::2] * unit[1::2]).sum(1)
        assert 1 - distance / 2 == pytest.approx(cosine, abs=1e-6)
    lengths = np.linalg.norm(straight, axis=1)
    assert scores.straight_xnorm == pytest.approx(lengths.mean(), rel=1e-6)
    both = np.concatenate([lengths, np.linalg.norm(mirrored, axis=1)])
    assert scores.xnorm == pytest.approx(both.mean(), rel=1e-6)
    assert scores.same.tolist() == pairs.same.tolist()
    # The test would show nothing if both ways were alike.
    assert np.abs(scores.distance - scores.straight_distance).max() > 1e-2
