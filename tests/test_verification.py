"""The verification protocol against a plain second implementation, and on cases whose result is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.verification import (
    consecutive_pairs,
    embed_both_ways,
    fold_ranges,
    judge,
    pair_distances,
    sample_pairs,
)


def by_the_book(
    distance: npt.NDArray[np.float64], same: npt.NDArray[np.bool_], folds: int
) -> dict[str, float]:
    """Fold by fold and threshold by threshold, with nothing shared or sorted."""
    indices = np.array_split(np.arange(len(same)), folds)
    accuracies, thresholds, vals, fars = [], [], [], []
    for test in indices:
        train = np.setdiff1d(np.arange(len(same)), test)
        scores = [np.mean((distance[train] < t) == same[train]) for t in np.arange(0, 4, 0.01)]
        chosen = np.arange(0, 4, 0.01)[scores.index(max(scores))]
        thresholds.append(chosen)
        accuracies.append(np.mean((distance[test] < chosen) == same[test]))

        others = distance[train][~same[train]]
        grid = np.arange(0, 4, 0.001)
        rates = [np.mean(others < t) if len(others) else 0.0 for t in grid]
        if max(rates) >= 1e-3:
            k = max(i for i, rate in enumerate(rates) if rate <= 1e-3)
            limit = grid[k]
            if rates[k] < 1e-3:
                limit += (1e-3 - rates[k]) / (rates[k + 1] - rates[k]) * (grid[k + 1] - grid[k])
        else:
            limit = 0.0
        positives, negatives = distance[test][same[test]], distance[test][~same[test]]
        vals.append(np.mean(positives < limit) if len(positives) else 0.0)
        fars.append(np.mean(negatives < limit) if len(negatives) else 0.0)
    return {
        "accuracy": float(np.mean(accuracies)),
        "accuracy_std": float(np.std(accuracies)),
        "threshold": float(np.mean(thresholds)),
        "val": float(np.mean(vals)),
        "val_std": float(np.std(vals)),
        "far": float(np.mean(fars)),
    }


def check(distance: npt.NDArray[np.float64], same: npt.NDArray[np.bool_], folds: int) -> None:
    found = vars(judge(distance, same, folds=folds))
    for name, value in by_the_book(distance, same, folds).items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 90), st.data())
def test_against_the_book(seed: int, pairs: int, data: st.DataObject) -> None:
    folds = data.draw(st.integers(2, min(pairs, 12)))
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) < rng.random()
    distance = np.clip(rng.normal(np.where(same, 0.8, 1.8), 0.4), 0, 4)
    check(distance, same, folds)


CRAFTED = {
    "ties": ([0.5, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0], [1, 0, 0, 1, 1, 0, 0, 1, 0, 1], 5),
    "on the thresholds": ([0.01 * k for k in range(0, 400, 20)], [1] * 8 + [0, 1] * 4 + [0] * 4, 10),
    "all alike": ([0.0] * 12, [1, 0] * 6, 4),
    "as far apart as can be": ([4.0] * 12, [1, 0] * 6, 4),
    "all of one person": ([0.1 * k for k in range(20)], [1] * 20, 10),
    "all of two persons": ([0.1 * k for k in range(20)], [0] * 20, 10),
    "one person first, then two": ([0.3, 0.9, 1.2, 0.4, 1.9, 0.8, 1.4, 2.1], [1] * 4 + [0] * 4, 2),
    "odd folds": ([(0.37 * k) % 2.3 for k in range(23)], [k % 3 == 0 for k in range(23)], 10),
    "a pair in each fold": ([0.2, 1.8, 0.6, 1.1, 1.3], [1, 0, 1, 1, 0], 5),
    "far above the grid": ([1e3, 0.2, 1e3, 0.3], [0, 1, 0, 1], 2),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_cases(name: str) -> None:
    distance, same, folds = CRAFTED[name]
    check(np.array(distance, float), np.array(same, bool), folds)


def by_the_book_of_embeddings(
    straight: list[list[float]], mirrored: list[list[float]], same: list[bool], folds: int
) -> tuple[dict[str, float], float]:
    """From embeddings to figures in plain Python: sums, lengths, distances."""

    def length(row: list[float]) -> float:
        return sum(value * value for value in row) ** 0.5

    unit = []
    for first, second in zip(straight, mirrored, strict=True):
        total = [a + b for a, b in zip(first, second, strict=True)]
        unit.append([value / length(total) for value in total])
    distance = []
    for a, b in zip(unit[0::2], unit[1::2], strict=True):
        distance.append(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    xnorm = sum(map(length, [*straight, *mirrored])) / (2 * len(straight))
    return by_the_book(np.array(distance), np.array(same), folds), xnorm


@pytest.mark.parametrize(("pairs", "batch"), [(3, 64), (7, 4), (11, 22), (20, 7)])
def test_from_images_to_figures(pairs: int, batch: int) -> None:
    """Fewer images than a batch holds, a last batch of any size, uneven folds."""
    rng = np.random.default_rng(pairs)
    table = rng.normal(size=(2 * pairs, 5)).astype(np.float32)
    table[1::4] = table[0::4] + 0.3 * table[1::4]
    crops = np.zeros((2 * pairs, 112, 112, 3), np.uint8)
    crops[:, 0, 0, 0] = crops[:, 0, 111, 1] = np.arange(2 * pairs)

    def embed(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        # The left corner is red in images and green in mirror images, which embed a little differently.
        number = images[:, 0, 0].max(axis=1)
        mirrored = images[:, 0, 0, 1] > 0
        return table[number] + 0.1 * mirrored[:, None].astype(np.float32)

    same = [index % 2 == 0 for index in range(pairs)]
    straight = table.tolist()
    mirrors = [list(np.float32(row) + np.float32(0.1 if index else 0)) for index, row in enumerate(straight)]
    expected, xnorm = by_the_book_of_embeddings(straight, mirrors, same, 3)
    rows, found_xnorm = embed_both_ways(embed, iter(crops), batch_size=batch)
    found = judge(pair_distances(rows, consecutive_pairs(pairs)), np.array(same), folds=3, xnorm=found_xnorm)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-4), name
    assert found.xnorm == pytest.approx(xnorm, abs=1e-4)


def test_many_pairs() -> None:
    # Enough pairs of two persons that a FAR of 1e-3 lies between two of its levels, and on one.
    rng = np.random.default_rng(0)
    for pairs in (2500, 2222):
        same = np.arange(pairs) % 10 == 0
        distance = np.clip(rng.normal(np.where(same, 0.7, 1.9), 0.35), 0, 4)
        check(distance, same, 10)


def test_ties_take_the_first_best() -> None:
    # Every threshold above 0.5 and up to 1.5 separates perfectly: the first on the grid is 0.51.
    same = np.array([True, False] * 10)
    result = judge(np.where(same, 0.5, 1.5), same)
    assert result.accuracy == 1.0
    assert result.accuracy_std == 0.0
    assert result.threshold == pytest.approx(0.51)
    # The FAR of the others jumps from 0 at 1.5 to 1 at 1.501; interpolated, it is 1e-3 just above 1.5.
    assert (result.val, result.far, result.pairs) == (1.0, 1.0, 20)


def test_a_distance_on_a_threshold_is_not_below_it() -> None:
    same = np.array([True, False] * 2)
    result = judge(np.where(same, 0.0, 0.01), same, folds=2)
    # 0 < 0.01 accepts, 0.01 < 0.01 does not.
    assert result.threshold == pytest.approx(0.01)
    assert result.accuracy == 1.0


def test_all_same_and_all_different() -> None:
    distance = np.linspace(0.2, 1.0, 20)
    ones = judge(distance, np.ones(20, bool))
    # Only the last fold has distances beyond all others, for which its threshold is too low.
    assert ones.accuracy == pytest.approx(0.9)
    assert (ones.val, ones.far) == (0.0, 0.0)
    none = judge(distance, np.zeros(20, bool))
    assert (none.accuracy, none.threshold, none.val) == (1.0, 0.0, 0.0)


def test_uneven_folds_are_contiguous_and_the_first_are_longer() -> None:
    assert fold_ranges(11, 4) == [slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 11)]
    for pairs, folds in ((10, 10), (6000, 10), (4203, 7)):
        expected = [len(part) for part in np.array_split(np.arange(pairs), folds)]
        ranges = fold_ranges(pairs, folds)
        assert [part.stop - part.start for part in ranges] == expected
        assert [part.start for part in ranges[1:]] == [part.stop for part in ranges[:-1]]


def test_errors() -> None:
    same = np.array([True, False, True])
    for folds in (0, 1, 4):
        with pytest.raises(PocketNetError, match=f"3 pairs cannot be divided into {folds} folds"):
            judge(np.zeros(3), same, folds=folds)
    with pytest.raises(PocketNetError, match="do not belong"):
        judge(np.zeros(2), same)
    with pytest.raises(PocketNetError, match="distance of pair 1 is not finite"):
        judge(np.array([0, np.nan, 0]), same, folds=2)


def test_embedding_both_ways() -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (5, 112, 112, 3), dtype=np.uint8)
    matrix = rng.normal(size=(112 * 3, 4)) / 1e4

    def embed(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        assert len(batch) <= 2
        return (batch.astype(float).sum(1).reshape(len(batch), -1) @ matrix).astype(np.float32)

    seen: list[int] = []
    rows, xnorm = embed_both_ways(embed, iter(crops), batch_size=2, on_batch=seen.append)
    assert seen == [2, 2, 1]
    straight = np.concatenate([embed(crops[i : i + 1]) for i in range(5)])
    mirrored = np.concatenate([embed(crops[i : i + 1, :, ::-1]) for i in range(5)])
    total = straight + mirrored
    expected = total / np.sqrt((total**2).sum(1, keepdims=True))
    assert rows == pytest.approx(expected, abs=1e-5)
    lengths = np.linalg.norm(np.concatenate([straight, mirrored]), axis=1)
    assert xnorm == pytest.approx(lengths.mean(), rel=1e-5)
    pairs = consecutive_pairs(2)
    assert pairs.tolist() == [[0, 1], [2, 3]]
    cosine = (expected[pairs[:, 0]] * expected[pairs[:, 1]]).sum(1)
    assert pair_distances(rows, pairs) == pytest.approx(2 - 2 * cosine, abs=1e-5)


def test_sampled_pairs() -> None:
    labels = np.repeat(np.arange(7), [1, 2, 3, 4, 5, 6, 7])
    pairs, same = sample_pairs(labels, 201, seed=3)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert ((labels[pairs[:, 0]] == labels[pairs[:, 1]]) == same).all()
    assert same[:4].tolist() == [True, False, True, False]
    again = sample_pairs(labels, 201, seed=3)[0]
    assert np.array_equal(again, pairs)
    assert not np.array_equal(sample_pairs(labels, 201, seed=4)[0], pairs)
    for bad in ([0, 0, 0], [0, 1, 2]):
        with pytest.raises(PocketNetError, match="two identities"):
            sample_pairs(np.array(bad), 4, seed=0)
