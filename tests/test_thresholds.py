"""Thresholds for false accept rates and what they do, against counting and weighing all pairs by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation import comparisons as comparisons_module
from pocketnet_fast.evaluation.comparisons import BOTH, FIRST, SECOND, Comparisons
from pocketnet_fast.evaluation.thresholds import (
    EmbeddedComparisons,
    allowed_false_accepts,
    calibrated_points,
)


def rows_of_cosines(cosine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images 2i and 2i + 1 of the given cosines, and their pairs."""
    first = np.tile([1.0, 0.0], (len(cosine), 1))
    second = np.stack([cosine, np.sqrt(1 - np.square(cosine))], axis=1)
    rows = np.stack([first, second], axis=1).reshape(-1, 2)
    return rows.astype(np.float32), np.arange(2 * len(cosine)).reshape(-1, 2)


def listed(cosine: np.ndarray, same: np.ndarray) -> EmbeddedComparisons:
    rows, pairs = rows_of_cosines(cosine)
    person = np.arange(len(rows))
    person[pairs[same, 1]] = pairs[same, 0]
    person = np.unique(person, return_inverse=True)[1]
    group = np.zeros(len(rows), np.int64)
    return EmbeddedComparisons(Comparisons("pairs", person, group, pairs[~same], pairs[same]), rows)


def crowd(seed: int, images: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of length 1, whom each shows, and the fold of each; a person's images are all in one fold."""
    rng = np.random.default_rng(seed)
    person = rng.integers(0, 14, images)
    person = np.unique(person, return_inverse=True)[1]
    rows = rng.normal(size=(images, 4)) + 2 * rng.normal(size=(14, 4))[person]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), person, person % 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 200), st.sampled_from([3, 10, 10**6]))
def test_against_sorting(seed: int, pairs: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    cosine = (rng.integers(0, levels, pairs) / levels).astype(np.float32).astype(float)
    same = np.arange(pairs) % 3 == 0
    ranked = np.sort(cosine[~same])[::-1]
    points = calibrated_points([listed(cosine, same)], [0.2, 0.5, 0.1])
    assert [point.far for point in points] == [0.5, 0.2, 0.1]
    for point in points:
        (rates,) = point.measured
        allowed = int(point.far * len(ranked) + 1e-9)
        expected = min([t for t in ranked if np.count_nonzero(ranked >= t) <= allowed], default=np.inf)
        if np.isfinite(expected):
            assert point.threshold == expected
        else:
            assert point.threshold == np.nextafter(ranked[0], np.inf)
        assert rates.false_accepts == np.count_nonzero(ranked >= point.threshold) <= allowed
        assert rates.impostor_pairs == len(ranked)
        assert rates.far == rates.false_accepts / len(ranked)
        assert rates.true_accepts == np.count_nonzero(cosine[same] >= point.threshold)
        assert rates.genuine_pairs == np.count_nonzero(same)
        assert rates.tar == pytest.approx(rates.true_accepts / rates.genuine_pairs)


def test_it_is_the_kth_highest_cosine() -> None:
    cosine = np.linspace(0, 0.999, 1000).astype(np.float32).astype(float)
    (point,) = calibrated_points([listed(cosine, np.zeros(1000, bool))], [3e-3])
    (rates,) = point.measured
    assert (point.threshold, rates.false_accepts) == (cosine[-3], 3)
    assert (rates.genuine_pairs, rates.tar, rates.tar_low, rates.tar_high) == (0, None, None, None)


SIDES = np.random.default_rng(4).integers(0, 3, 60)  # first, second, both


def by_hand(
    rows: np.ndarray, person: np.ndarray, group: np.ndarray, side: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cosine and images of each pair of different groups and of each pair of one person.

    With sides, a pair of different groups has one image that is a first and another that is a second one.
    """
    every = np.array(list(itertools.combinations(range(len(rows)), 2)))
    cosine = np.array([float(rows[a].astype(float) @ rows[b]) for a, b in every])
    apart = group[every[:, 0]] != group[every[:, 1]]
    if side is not None:
        first, second = side != SECOND, side != FIRST
        one, other = every.T
        apart &= (first[one] & second[other]) | (second[one] & first[other])
    alike = person[every[:, 0]] == person[every[:, 1]]
    return cosine[apart], every[apart], cosine[alike], every[alike]


@pytest.mark.parametrize("block", [1, 300, 1 << 22])
@pytest.mark.parametrize("identities", [True, False])
@pytest.mark.parametrize("side", [None, SIDES, np.full(60, BOTH)], ids=["any", "sides", "both"])
def test_all_pairs(
    monkeypatch: pytest.MonkeyPatch, block: int, identities: bool, side: np.ndarray | None
) -> None:
    monkeypatch.setattr(comparisons_module, "_BLOCK", block)
    rows, person, fold = crowd(1)
    group = person if identities else fold
    impostors, _, genuine, pairs = by_hand(rows, person, group, side)
    compared = Comparisons("crowd", person, group, genuine=None if identities else pairs, side=side)
    assert (compared.impostor_pairs, compared.genuine_pairs().sum()) == (len(impostors), len(genuine))
    points = calibrated_points([EmbeddedComparisons(compared, rows)], [0.3, 1e-2, 2e-3])
    for point in points:
        (rates,) = point.measured
        allowed = int(point.far * len(impostors))
        assert point.threshold == pytest.approx(sorted(impostors)[-allowed], abs=1e-6)
        assert (rates.false_accepts, rates.impostor_pairs) == (allowed, len(impostors))
        assert rates.genuine_pairs == len(genuine)
        # Products of rows in another order may be rounded over the threshold.
        assert abs(rates.true_accepts - np.count_nonzero(genuine >= point.threshold)) <= 1


def test_weights_of_all_pairs_in_closed_form() -> None:
    rows, person, fold = crowd(2)
    weight = np.random.default_rng(3).poisson(1, (5, person.max() + 1)).astype(float)
    for group, side in ((person, None), (fold, None), (person, SIDES), (fold, SIDES)):
        _, pairs, _, _ = by_hand(rows, person, group, side)
        explicit = (weight[:, person[pairs[:, 0]]] * weight[:, person[pairs[:, 1]]]).sum(1)
        compared = Comparisons("crowd", person, group, side=side)
        assert compared.impostor_weight(weight) == pytest.approx(explicit)
        given_pairs = Comparisons("crowd", person, group, pairs, pairs[:0])
        assert given_pairs.impostor_weight(weight) == pytest.approx(explicit)
    alone = Comparisons("crowd", person, fold, np.array([[0, 0], [0, 1]]), pairs[:0])
    one, other = weight[:, person[0]], weight[:, person[1]]
    assert alone.impostor_weight(weight) == pytest.approx(
        one + (one if person[0] == person[1] else one * other)
    )


def test_the_strictest_of_several_data_sets_holds_on_each() -> None:
    rng = np.random.default_rng(5)
    low, high = rng.uniform(0, 0.5, 400), rng.uniform(0.3, 0.7, 300)
    same = np.zeros(400, bool)
    one, other = listed(low, same), listed(high, same[:300])
    alone = [calibrated_points([part], [0.1, 0.01]) for part in (one, other)]
    together = calibrated_points([one, other], [0.1, 0.01])
    for index, point in enumerate(together):
        assert point.threshold == max(points[index].threshold for points in alone)
        assert point.measured[1] == alone[1][index].measured[0]
        assert point.measured[0].false_accepts == np.count_nonzero(low >= point.threshold)
        assert all(rates.far <= point.far for rates in point.measured)


def test_equal_pictures_of_two_persons() -> None:
    rows = np.zeros((4, 3), np.float32)
    rows[:, 0] = 1
    four = np.arange(4)
    for pairs in (None, np.array([[0, 1], [2, 3]])):
        compared = Comparisons("few", four, four, pairs, None)
        with pytest.raises(PocketNetError, match=r"few: .* have a cosine of 1: are they marked wrongly"):
            calibrated_points([EmbeddedComparisons(compared, rows)], [0.5])


def test_too_few_pairs() -> None:
    assert allowed_false_accepts("lfw", 1000, 1e-3) == 1
    assert allowed_false_accepts("lfw", 3000, 1e-3) == 3
    assert allowed_false_accepts("lfw", 30_000, 1e-4) == 3
    for impostors, far, words in (
        (999, 1e-3, "rate of 1e-3; at least 1,000 are needed, these answer down to FAR 1.1e-3"),
        (2100, 1e-4, "at least 10,000 are needed, these answer down to FAR 4.8e-4"),
        (3000, 1e-5, "at least 100,000 are needed, these answer down to FAR 3.4e-4"),
        (6, 0.1, "at least 10 are needed, these answer down to FAR 0.17"),
        (0, 0.5, "at least 2 are needed, they answer none"),
    ):
        with pytest.raises(PocketNetError, match=f"lfw: {impostors:,} pairs of two persons.*{words}"):
            allowed_false_accepts("lfw", impostors, far)
        if impostors > 1:
            answered = float(words.rpartition(" ")[2])
            assert allowed_false_accepts("lfw", impostors, answered) >= 1
    four = np.arange(4)
    few = EmbeddedComparisons(Comparisons("few", four, four), np.eye(4, dtype=np.float32))
    with pytest.raises(PocketNetError, match="few: 6 pairs of two persons say nothing"):
        calibrated_points([few], [0.5, 0.1])
