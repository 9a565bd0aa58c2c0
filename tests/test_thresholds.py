"""Thresholds for a false accept rate, against sorting all pairs by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation import thresholds
from pocketnet_fast.evaluation.thresholds import (
    allowed_false_accepts,
    count_pairs,
    threshold_of_all_pairs,
    threshold_of_pairs,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 200), st.sampled_from([3, 10, 10**6]))
def test_against_sorting(seed: int, pairs: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    cosine = rng.integers(0, levels, pairs) / levels
    same = np.arange(pairs) % 3 == 0
    ranked = np.sort(cosine[~same])[::-1]
    for far in (0.1, 0.2, 0.5):
        found = threshold_of_pairs(cosine, same, far)
        allowed = int(far * len(ranked) + 1e-9)
        expected = min([t for t in ranked if np.count_nonzero(ranked >= t) <= allowed], default=np.inf)
        if expected == ranked[allowed - 1] or np.isfinite(expected):
            assert found.cosine == expected
        else:
            assert found.cosine == np.nextafter(ranked[0], np.inf)
        assert found.false_accepts == np.count_nonzero(ranked >= found.cosine) <= allowed
        assert found.impostor_pairs == len(ranked)
        assert found.true_accepts == np.count_nonzero(cosine[same] >= found.cosine)
        assert found.genuine_pairs == np.count_nonzero(same)


def test_it_is_the_kth_highest_cosine() -> None:
    cosine = np.linspace(0, 0.999, 1000)
    found = threshold_of_pairs(cosine, np.zeros(1000, bool), 3e-3)
    assert (found.cosine, found.false_accepts) == (cosine[-3], 3)


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_all_pairs(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(thresholds, "_BLOCK", block)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 12, 50)
    rows = rng.normal(size=(50, 4)) + 2 * rng.normal(size=(12, 4))[labels]
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    impostors, genuine = [], []
    for a, b in itertools.combinations(range(50), 2):
        (genuine if labels[a] == labels[b] else impostors).append(float(rows[a] @ rows[b]))
    assert count_pairs(labels) == (len(genuine), len(impostors))
    for far in (1e-3, 1e-2, 0.3):
        found = threshold_of_all_pairs(rows, labels, far)
        allowed = int(far * len(impostors))
        assert found.cosine == pytest.approx(sorted(impostors)[-allowed], abs=1e-6)
        assert (found.false_accepts, found.impostor_pairs) == (allowed, len(impostors))
        assert found.genuine_pairs == len(genuine)
        accepted = sum(cosine >= found.cosine for cosine in genuine)
        assert abs(found.true_accepts - accepted) <= 1


def test_equal_pictures_of_two_persons() -> None:
    rows = np.zeros((4, 3), np.float32)
    rows[:, 0] = 1
    with pytest.raises(PocketNetError, match="have a cosine of 1: are they marked wrongly"):
        threshold_of_all_pairs(rows, np.arange(4), 0.5)
    with pytest.raises(PocketNetError, match="have a cosine of 1"):
        threshold_of_pairs(np.ones(4), np.zeros(4, bool), 0.5)


def test_too_few_pairs() -> None:
    assert allowed_false_accepts(1000, 1e-3) == 1
    assert allowed_false_accepts(3000, 1e-3) == 3
    assert allowed_false_accepts(30_000, 1e-4) == 3
    for impostors, far, least in ((999, 1e-3, "1,000"), (0, 0.5, "2"), (9_999, 1e-4, "10,000")):
        with pytest.raises(PocketNetError, match=f"of {far:g}; at least {least} are needed"):
            allowed_false_accepts(impostors, far)
    with pytest.raises(PocketNetError, match="6 pairs of two persons say nothing"):
        threshold_of_all_pairs(np.eye(4, dtype=np.float32), np.arange(4), 0.1)
