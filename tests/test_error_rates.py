"""ROC and operating points against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.evaluation.error_rates import operating_point, roc


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([2, 5, 1000]))
def test_against_counting(seed: int, pairs: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, levels, pairs) / levels
    same = rng.random(pairs) < rng.random()
    curve = roc(score, same)
    distinct = sorted(set(score.tolist()), reverse=True)
    assert curve.threshold.tolist() == [np.inf, *distinct]
    for threshold, far, tar in zip(curve.threshold, curve.far, curve.tar, strict=True):
        assert far == pytest.approx(np.mean(score[~same] >= threshold) if (~same).any() else 0)
        assert tar == pytest.approx(np.mean(score[same] >= threshold) if same.any() else 0)
    impostors = int((~same).sum())
    for far in (0.5, 0.1, 1 / max(impostors, 1), 1e-4):
        point = operating_point(curve, impostors, far)
        kept = [
            t for t in [np.inf, *distinct] if not (~same).any() or np.mean(score[~same] >= t) <= far + 1e-12
        ]
        chosen = min(kept)
        assert point.threshold == (None if chosen == np.inf else chosen)
        assert point.tar == pytest.approx(np.mean(score[same] >= chosen) if same.any() else 0)
        assert point.false_accepts == np.count_nonzero(score[~same] >= chosen)
        assert point.measured_far <= far + 1e-12
        assert point.far == far


def test_a_rate_that_the_pairs_express_exactly() -> None:
    score = np.linspace(1, 0, 3000)
    point = operating_point(roc(score, np.zeros(3000, bool)), 3000, 1e-3)
    assert point.false_accepts == 3
    assert point.threshold == score[2]
