"""Rates at a false accept rate: known cases, ties, and another library's ROC curve."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.rates import acceptable, operating_point, roc_points


def falling(values: object) -> np.ndarray:
    return -np.sort(-np.asarray(values, np.float32))


def test_known_case() -> None:
    genuine = np.array([0.9, 0.5, 0.3, 0.1], np.float32)
    impostors = falling([0.6, 0.4, 0.2, 0.0])
    for far, tar, threshold, accepted in [
        (0.0, 0.25, 0.6, 0),
        (0.2, 0.25, 0.6, 0),
        (0.25, 0.5, 0.4, 1),
        (0.5, 0.75, 0.2, 2),
        (0.75, 1.0, 0.0, 3),
        (1.0, 1.0, -math.inf, 4),
    ]:
        point = operating_point(genuine, impostors, 4, far)
        assert (point.far, point.tar, point.accepted) == (far, tar, accepted)
        assert point.threshold == pytest.approx(threshold)


def test_as_json() -> None:
    scores = falling([0.5, 0.25])
    text = json.dumps([operating_point(scores, scores, 2, far).as_dict() for far in (0.5, 1)])
    assert json.loads(text) == [
        {"far": 0.5, "tar": 0.5, "threshold": 0.25, "accepted": 1},
        {"far": 1, "tar": 1.0, "threshold": None, "accepted": 2},
    ]


def test_ties_are_rejected() -> None:
    # Of three impostors at 0.5 one may be accepted, but none of them can be accepted alone.
    point = operating_point(np.array([0.5, 0.6], np.float32), falling([0.5, 0.5, 0.5, 0.1]), 4, 0.25)
    assert (point.tar, point.threshold) == (0.5, 0.5)
    # All the same: nothing is told apart.
    same = np.full(10, 0.3, np.float32)
    assert operating_point(same, same, 10, 0.5).tar == 0
    assert operating_point(same, same, 10, 1).tar == 1


def test_the_highest_impostors_suffice() -> None:
    rng = np.random.default_rng(0)
    genuine = rng.normal(1, 1, 500).astype(np.float32)
    impostors = falling(rng.normal(0, 1, 20_000))
    whole = operating_point(genuine, impostors, 20_000, 1e-3)
    assert whole.accepted == 20
    assert operating_point(genuine, impostors[:21], 20_000, 1e-3) == whole


def test_rounding_of_the_number_accepted() -> None:
    assert [acceptable(100, 0.29), acceptable(10, 0.7), acceptable(3, 1)] == [29, 7, 3]
    assert [acceptable(10**6, 1e-6), acceptable(999_999, 1e-6), acceptable(0, 0.5)] == [1, 0, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 200), st.floats(0, 1))
def test_against_every_threshold(seed: int, ours: int, others: int, far: float) -> None:
    rng = np.random.default_rng(seed)
    genuine = (rng.integers(0, 30, ours) / 8).astype(np.float32)
    impostors = falling(rng.integers(-8, 22, others) / 8)
    best = max(
        (genuine >= threshold).mean()
        for threshold in (*np.unique(np.concatenate([genuine, impostors])), np.inf)
        if (impostors >= threshold).sum() <= acceptable(others, far)
    )
    assert operating_point(genuine, impostors, others, far).tar == best


def test_another_librarys_curve() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    genuine = rng.normal(1.5, 1, 400).astype(np.float32)
    impostors = falling(rng.normal(0, 1, 5000))
    labels = np.repeat([1, 0], [400, 5000])
    far, tar, _ = metrics.roc_curve(labels, np.concatenate([genuine, impostors]), drop_intermediate=False)
    for target in (1e-4, 2e-4, 1e-3, 0.0123, 0.1, 0.5, 1.0):
        expected = tar[far <= target].max()
        assert operating_point(genuine, impostors, 5000, target).tar == expected
    ours = roc_points(genuine, impostors, 40)
    for false, true in zip(*ours, strict=True):
        assert true == tar[far <= false + 1e-12].max()
    assert ours[0][0] == 1 / 5000
    assert (ours[0][-1], ours[1][-1]) == (1, 1)


def test_errors() -> None:
    some = np.ones(3, np.float32)
    with pytest.raises(PocketNetError, match=r"not at 1\.5"):
        operating_point(some, some, 3, 1.5)
    with pytest.raises(PocketNetError, match="0 genuine and 3 impostor"):
        operating_point(some[:0], some, 3, 0.5)
    with pytest.raises(PocketNetError, match="3 genuine and 0 impostor"):
        operating_point(some, some[:0], 0, 0.5)
