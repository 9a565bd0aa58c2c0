"""Intervals of rates over pairs that share people, against weighing every pair."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pocketnet_fast.evaluation import bootstrap
from pocketnet_fast.evaluation.bootstrap import RateIntervals, person_weights
from pocketnet_fast.evaluation.comparisons import Comparisons

PERSON = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7])
GROUP = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2])
EVERY = np.array(list(itertools.combinations(range(len(PERSON)), 2)))
APART = EVERY[GROUP[EVERY[:, 0]] != GROUP[EVERY[:, 1]]]
ALIKE = EVERY[PERSON[EVERY[:, 0]] == PERSON[EVERY[:, 1]]]


def percentiles(accepted: np.ndarray, pairs: np.ndarray, weight: np.ndarray) -> list[float]:
    """Of the weighted rates, a weight for every pair."""
    one, other = PERSON[pairs].T
    weights = np.where(one == other, weight[:, one], weight[:, one] * weight[:, other])
    total = weights.sum(1)
    rates = (weights * accepted).sum(1)[total > 0] / total[total > 0]
    return np.percentile(rates, [2.5, 97.5]).tolist()


@pytest.mark.parametrize("held", [1, 40, 1 << 20])
def test_against_weighing_every_pair(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(bootstrap, "_WEIGHTS", held)
    weight = np.concatenate(list(person_weights(8)))
    assert weight.shape == (bootstrap.REPLICATES, 8)
    assert weight.mean() == pytest.approx(1, abs=0.05)
    assert weight.var() == pytest.approx(1, abs=0.1)
    order = np.random.default_rng(0).permutation(len(APART))
    genuine = np.stack([[1, 0, 3, 0, 0, 1, 0, 0], [1, 0, 2, 0, 0, 0, 0, 0]])
    for compared in (
        Comparisons("folds", PERSON, GROUP),
        Comparisons("listed", PERSON, np.zeros(12, np.int64), APART, ALIKE),
    ):
        found = RateIntervals(compared, [APART[order[:9]], APART[order[:4]]], genuine)
        for index, count in enumerate((9, 4)):
            accepted = np.isin(np.arange(len(APART)), order[:count])
            assert found.far[index] == pytest.approx(percentiles(accepted, APART, weight))
        # The pairs of one person are (0, 1), the three of 3, 4 and 5, and (8, 9).
        accepted = np.array([True, True, True, False, False])
        assert found.tar[1] == pytest.approx(percentiles(accepted, ALIKE, weight))
        # All of them: replicates say nothing, three people do.
        assert found.tar[0] == (pytest.approx(0.025 ** (1 / 3)), 1.0)


def test_nothing_accepted() -> None:
    compared = Comparisons("folds", PERSON, GROUP)
    none = np.zeros((1, 8), np.int64)
    found = RateIntervals(compared, [APART[:0]], none)
    assert found.far == [(0.0, pytest.approx(1 - 0.025 ** (1 / len(APART))))]
    assert found.tar == [(0.0, pytest.approx(1 - 0.025 ** (1 / 3)))]
    alone = Comparisons("listed", PERSON, np.zeros(12, np.int64), APART, ALIKE[:0])
    assert RateIntervals(alone, [APART[:1]], none).tar == [None]


def test_one_face_that_resembles_many_widens_the_interval() -> None:
    """The same number of false accepts, spread over people or all with one."""
    person = np.arange(40)
    compared = Comparisons("crowd", person, person)
    spread = np.stack([person[:20], person[20:]], axis=1)
    hub = np.stack([np.zeros(20, np.int64), person[20:]], axis=1)
    none = np.zeros((1, 40), np.int64)
    (narrow,), (wide,) = (RateIntervals(compared, [pairs], none).far for pairs in (spread, hub))
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert narrow[0] < 20 / 780 < narrow[1]
