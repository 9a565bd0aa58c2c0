"""The ROC against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.evaluation.error_rates import roc


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
