"""Open-set identification against the definitions, one probe at a time."""

from __future__ import annotations

import numpy as np
import pytest

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.open_set import evaluate


def test_against_the_definitions() -> None:
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(40), 4).astype(np.int64)
    centres = rng.standard_normal((40, 12))
    embeddings = (centres[people] + 0.8 * rng.standard_normal((160, 12))).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    enrolled = np.arange(160) % 4 < 2
    result = evaluate(embeddings, people, enrolled, fpirs=(0.2, 0.05), worst=3, threads=1)
    assert (result.people, result.enrolled, result.probes) == (40, 80, 80)
    own, other = [], []
    for probe in np.flatnonzero(~enrolled):
        scores = embeddings[enrolled] @ embeddings[probe]
        mine = people[enrolled] == people[probe]
        own.append(scores[mine].max())
        other.append(scores[~mine].max())
    first = np.array(own) > np.array(other)
    assert 0.3 < first.mean() < 1
    assert result.rank_one == pytest.approx(first.mean())
    for point, fpir in zip(result.points, (0.2, 0.05), strict=True):
        assert np.mean(np.array(other) > point.threshold + 1e-6) <= fpir
        assert np.mean(np.array(other) > point.threshold - 1e-6) > fpir
        expected = np.mean(first & (np.array(own) > point.threshold))
        assert point.tar == pytest.approx(expected, abs=1 / 80 + 1e-9)
    leads = np.array(other) - np.array(own)
    assert [c.other_score - c.own_score for c in result.confusions] == pytest.approx(
        np.sort(leads)[::-1][:3].tolist(), abs=1e-5
    )
    worst = result.confusions[0]
    assert people[worst.own] == people[worst.probe] != people[worst.other]


def test_refusals() -> None:
    embeddings = np.eye(4, dtype=np.float32)
    people = np.array([0, 0, 1, 2])
    with pytest.raises(PocketNetError, match="1 people with 1 photos"):
        evaluate(embeddings[:2], people[:2], np.array([True, False]))
    with pytest.raises(PocketNetError, match="3 people with 0 photos"):
        evaluate(embeddings, people, np.ones(4, bool))
    with pytest.raises(PocketNetError, match="person 2 is searched for and not enrolled"):
        evaluate(embeddings, people, np.array([True, False, True, False]))
