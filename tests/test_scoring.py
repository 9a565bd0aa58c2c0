"""Blocked scoring against the whole matrix, sorted."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery import score_collectors, scoring
from pocketnet_fast.gallery.score_collectors import BestOverall, BestPerOwner, BestPerQuery, Both
from pocketnet_fast.gallery.scoring import scan, top_matches

Array = npt.NDArray[np.float32]


def whole_numbers(rng: np.random.Generator, count: int, dims: int, most: int = 3) -> Array:
    """Embeddings whose products are exact in any order of summation, with many ties."""
    return rng.integers(-most, most + 1, (count, dims)).astype(np.float32)


def expected(queries: Array, gallery: Array, top: int) -> tuple[Array, npt.NDArray[np.int64]]:
    scores = queries @ gallery.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return np.take_along_axis(scores, order, 1), order


# Sizes around the blocks: 16 queries are few, 512 are a block of queries and of rows.
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("queries", "rows", "top"),
    [
        (1, 1, 1),
        (1, 40_000, 5),
        (2, 70_001, 3),
        (7, 9_999, 20),
        (16, 4_100, 1),
        (17, 1_500, 10),
        (513, 1_025, 7),
    ],
)
def test_top_matches(queries: int, rows: int, top: int, threads: int) -> None:
    rng = np.random.default_rng(queries + rows)
    asked, gallery = whole_numbers(rng, queries, 9), whole_numbers(rng, rows, 9)
    scores, found = top_matches(asked, gallery, top, threads=threads)
    wanted_scores, wanted = expected(asked, gallery, top)
    np.testing.assert_array_equal(scores, wanted_scores)
    np.testing.assert_array_equal(found, wanted)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 90), st.integers(1, 100), st.data())
def test_small_blocks(seed: int, queries: int, rows: int, top: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    asked, gallery = whole_numbers(rng, queries, 3, 1), whole_numbers(rng, rows, 3, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_QUERIES", data.draw(st.integers(1, 9)))
        patch.setattr(scoring, "_ROWS", data.draw(st.integers(1, 9)))
        patch.setattr(scoring, "_FEW_QUERIES", data.draw(st.sampled_from([0, 16])))
        patch.setattr(scoring, "_SCORES_FOR_FEW", data.draw(st.integers(40, 80)))
        threads = data.draw(st.integers(1, 3))
        scores, found = top_matches(asked, gallery, top, threads=threads)
        count = data.draw(st.integers(0, 50))
        both = scan(
            asked,
            gallery,
            lambda: Both(BestPerQuery(queries, 2), BestOverall(count)),
            threads=threads,
        )
    wanted_scores, wanted = expected(asked, gallery, top)
    np.testing.assert_array_equal(scores, wanted_scores)
    np.testing.assert_array_equal(found, wanted)
    everything = -np.sort(-(asked @ gallery.T).ravel())
    np.testing.assert_array_equal(both.second.values(), everything[:count])
    np.testing.assert_array_equal(both.first.rows[:, 0], wanted[:, 0])


def test_rounding_is_that_of_float32() -> None:
    rng = np.random.default_rng(0)
    asked, gallery = (rng.standard_normal((n, 128)).astype(np.float32) for n in (40, 3000))
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    scores, rows = top_matches(asked, gallery, 4)
    exact = (asked.astype(float)[:, None] * gallery.astype(float)[rows]).sum(2)
    np.testing.assert_allclose(scores, exact, atol=5e-7)
    np.testing.assert_array_equal(rows, expected(asked, gallery, 4)[1])


@pytest.mark.parametrize("queries", [2, 40])
def test_nearest_neighbours_of_another_library(queries: int) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(1)
    asked, gallery = (rng.standard_normal((n, 32)).astype(np.float32) for n in (queries, 2000))
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    model = neighbors.NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(gallery)
    np.testing.assert_array_equal(top_matches(asked, gallery, 5)[1], model.kneighbors(asked)[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_nobody_elses_threads_change(threads: int) -> None:
    """Neither the caller's, nor those of a thread that meets PyTorch for the first time meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    inside: list[int] = []
    beside: list[int] = []

    def look(_: int) -> None:
        inside.append(torch.get_num_threads())
        newcomer = threading.Thread(target=lambda: beside.append(torch.get_num_threads()))
        newcomer.start()
        newcomer.join()

    try:
        some = np.ones((20, 4), np.float32)
        top_matches(some, np.ones((2000, 4), np.float32), 1, threads=threads, on_rows=look)
        assert set(inside) == {1}
        assert set(beside) == {2}
        assert torch.get_num_threads() == 2
        with pytest.raises(PocketNetError):
            top_matches(some[:, :2], np.full((3, 2), np.nan, np.float32), 1, threads=threads)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_progress_counts_every_row() -> None:
    seen: list[int] = []
    rng = np.random.default_rng(0)
    top_matches(whole_numbers(rng, 20, 4), whole_numbers(rng, 1300, 4), 1, threads=2, on_rows=seen.append)
    assert sum(seen) == 1300


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_may_end_it(threads: int) -> None:
    seen: list[int] = []

    def stop(rows: int) -> None:
        seen.append(rows)
        raise KeyboardInterrupt

    some = np.ones((20, 4), np.float32)
    with pytest.raises(KeyboardInterrupt):
        top_matches(some, np.ones((100_000, 4), np.float32), 1, threads=threads, on_rows=stop)
    assert len(seen) <= threads


def test_nothing_to_search() -> None:
    empty = np.zeros((0, 4), np.float32)
    some = np.ones((3, 4), np.float32)
    assert top_matches(empty, some, 2)[1].shape == (0, 2)
    assert top_matches(some, empty, 2)[1].shape == (3, 0)


@pytest.mark.parametrize("queries", [1, 20])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_input(queries: int, bad: float) -> None:
    asked, gallery = np.ones((queries, 4), np.float32), np.ones((1000, 4), np.float32)
    with pytest.raises(PocketNetError, match="must be positive, got 0"):
        top_matches(asked, gallery, 0)
    with pytest.raises(PocketNetError, match=r"\(1000, 3\) have no products"):
        top_matches(asked, gallery[:, :3], 1)
    gallery[777, 2] = bad
    with pytest.raises(PocketNetError, match="row 777 is not finite"):
        top_matches(asked, gallery, 1)
    asked[0, 0] = bad
    with pytest.raises(PocketNetError, match="query 0 is not finite"):
        top_matches(asked, np.ones((5, 4), np.float32), 1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.integers(1, 400),
    st.integers(1, 12),
    st.integers(1, 60),
    st.sampled_from([1, 3]),
)
def test_the_best_of_each_owner(
    seed: int, queries: int, rows: int, top: int, people: int, threads: int
) -> None:
    """Against sorting everything; with ties, rows of nobody, few owners and owners of most rows."""
    rng = np.random.default_rng(seed)
    asked, gallery = whole_numbers(rng, queries, 3, 1), whole_numbers(rng, rows, 3, 1)
    owner = rng.integers(-1, people, rows) * rng.integers(0, 2, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_SCORES_FOR_FEW", 64)
        patch.setattr(scoring, "_ROWS", 16)
        patch.setattr(score_collectors, "_RUN", 4)
        kept = scan(
            asked,
            gallery,
            lambda: BestPerOwner(queries, top, lambda found: owner[found]),
            threads=threads,
        )
    scores = asked @ gallery.T
    for query in range(queries):
        found: list[int] = []
        for row in np.argsort(-scores[query], kind="stable"):
            if owner[row] >= 0 and owner[row] not in owner[found] and len(found) < top:
                found.append(int(row))
        missing = top - len(found)
        assert kept.rows[query].tolist() == found + [-1] * missing
        assert kept.scores[query].tolist() == [*scores[query, found].tolist(), *[-np.inf] * missing]
