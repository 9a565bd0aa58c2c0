"""MegaFace's measures against the definitions, spelled out pair by pair, and in cases known in advance."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.face_list import FaceList
from pocketnet_fast.evaluation.feature_file import write_embedding, writing_features
from pocketnet_fast.evaluation.megaface import evaluate, load_features

Array = npt.NDArray[np.float32]


def unit(rows: npt.NDArray[np.float64]) -> Array:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 25), st.integers(1, 80), st.integers(1, 3))
def test_against_the_definition(seed: int, probes: int, distractors: int, threads: int) -> None:
    rng = np.random.default_rng(seed)
    # Whole numbers, so that products are exact and ties are frequent.
    people = rng.integers(-2, 3, (probes, 4)).astype(np.float32)
    others = rng.integers(-2, 3, (distractors, 4)).astype(np.float32)
    ids = [f"p{i}" for i in rng.integers(0, max(probes // 3, 1), probes)]
    pairs = [(i, j) for i, j in permutations(range(probes), 2) if ids[i] == ids[j]]
    if not pairs:
        with pytest.raises(PocketNetError, match="nobody has two photos"):
            evaluate(people, ids, others)
        return
    sizes = sorted({1, distractors // 2 + 1, distractors})
    result = evaluate(people, ids, others, sizes=sizes, ranks=(1, 3), fars=(0.05, 0.5, 1), threads=threads)
    assert (result.probes, result.identities, result.pairs) == (probes, len(set(ids)), len(pairs))
    assert [size.distractors for size in result.sizes] == sizes
    for size in result.sizes:
        gallery = others[: size.distractors]
        ranks = np.array([1 + (gallery @ people[i] >= people[i] @ people[j]).sum() for i, j in pairs])
        assert size.identification == {1: (ranks <= 1).mean(), 3: (ranks <= 3).mean()}
        mates = np.array([people[i] @ people[j] for i, j in pairs if i < j])
        negatives = (people @ gallery.T).ravel()
        for point in size.verification:
            allowed = math.floor(point.far * len(negatives) + 1e-9)
            limits = [*np.unique(negatives), -np.inf]
            best = max((mates > limit).mean() for limit in limits if (negatives > limit).sum() <= allowed)
            assert point.tar == best


def test_a_geometry_known_in_advance() -> None:
    """Embeddings on a circle: photos at 0 and 60 degrees, distractors at 130, 90 and 100."""
    at = lambda degrees: unit(  # noqa: E731
        np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], -1)
    )
    people = at(np.array([0.0, 60.0]))
    others = at(np.array([130.0, 90.0, 100.0]))
    # From 60 degrees, the distractors at 90 and 100 are nearer than 60; that at 130 is not. From 0 none is.
    result = evaluate(people, ["a", "a"], others, sizes=(1, 2, 3), ranks=(1, 2, 3))
    assert [size.identification for size in result.sizes] == [
        {1: 1.0, 2: 1.0, 3: 1.0},
        {1: 0.5, 2: 1.0, 3: 1.0},
        {1: 0.5, 2: 0.5, 3: 1.0},
    ]


def test_the_rate_follows_from_the_distribution() -> None:
    """With isotropic distractors, a mate at cosine c has rank 1 with probability F(c)^N."""
    rng = np.random.default_rng(0)
    people, dims, cosine, count = 400, 3, 0.99, 300
    first = unit(rng.standard_normal((people, dims)))
    away = rng.standard_normal((people, dims))
    away -= (away * first).sum(1, keepdims=True) * first
    second = unit(cosine * first + math.sqrt(1 - cosine**2) * unit(away))
    ids = [str(i // 2) for i in range(2 * people)]
    result = evaluate(
        np.stack([first, second], 1).reshape(-1, dims),
        ids,
        unit(rng.standard_normal((count, dims))),
        ranks=(1,),
        fars=(0.01,),
    )
    # On a sphere in three dimensions a cosine is uniform on [-1, 1], so F(c) = (1 + c) / 2.
    expected = ((1 + cosine) / 2) ** count
    assert result.sizes[-1].identification[1] == pytest.approx(expected, abs=0.06)
    # The threshold of FAR 0.01 is the cosine 0.98, below every mate.
    (point,) = result.sizes[-1].verification
    assert point.threshold == pytest.approx(0.98, abs=0.004)
    assert point.tar == 1
    assert [size.distractors for size in result.sizes] == [10, 100, 300]


def test_errors() -> None:
    people = np.eye(4, dtype=np.float32)
    ids = ["a", "a", "b", "b"]
    with pytest.raises(PocketNetError, match="there are no distractors"):
        evaluate(people, ids, people[:0])
    with pytest.raises(PocketNetError, match=r"probes of 4 dimensions cannot be compared with .* of 3"):
        evaluate(people, ids, people[:, :3])
    with pytest.raises(PocketNetError, match="3 identities do not belong"):
        evaluate(people, ids[:3], people)
    for sizes in ([0, 2], [5], []):
        with pytest.raises(PocketNetError, match="expected 1 to 4"):
            evaluate(people, ids, people, sizes=sizes)
    for ranks in ([], [0, 1]):
        with pytest.raises(PocketNetError, match="ranks are positive"):
            evaluate(people, ids, people, ranks=ranks)
    with pytest.raises(PocketNetError, match="lies between 0 and 1"):
        evaluate(people, ids, people, fars=[-0.1])
    with pytest.raises(PocketNetError, match="row 2 is not finite"):
        damaged = people.copy()
        damaged[2, 0] = np.nan
        evaluate(people, ids, damaged)


class TestLoadFeatures:
    FACES = FaceList(["a/x.png", "a/y.png", "b/z.png"], ["a", "a", "b"])
    ROWS = np.array([[3, 4], [0, 5], [-2, 0]], np.float32)

    def write(self, folder: Path) -> None:
        for path, row in zip(self.FACES.paths, self.ROWS, strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_embedding(folder / f"{path}_m.bin", row)

    def test_folder_and_matrix(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        with writing_features(tmp_path / "all.bin", 3, 2) as write:
            for row in self.ROWS:
                write(row)
        for where in (tmp_path, tmp_path / "all.bin"):
            seen = []
            rows = load_features(self.FACES, where, "_m.bin", on_rows=seen.append)
            np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 1], [-1, 0]], atol=1e-7)
            assert sum(seen) == 3
            np.testing.assert_allclose(
                load_features(self.FACES, where, "_m.bin", [0, 2]), [[0.6, 0.8], [-1, 0]], atol=1e-7
            )

    def test_errors(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        with pytest.raises(PocketNetError, match="no such folder or file"):
            load_features(self.FACES, tmp_path / "none", "_m.bin")
        with pytest.raises(PocketNetError, match="all 3 images of its list are left out"):
            load_features(self.FACES, tmp_path, "_m.bin", [])
        with pytest.raises(PocketNetError, match=r"a/x.png_q.bin: no such feature file"):
            load_features(self.FACES, tmp_path, "_q.bin")
        write_embedding(tmp_path / "b/z.png_m.bin", np.zeros(2, np.float32))
        with pytest.raises(PocketNetError, match=r"the embedding of b/z\.png is not finite, or zero"):
            load_features(self.FACES, tmp_path, "_m.bin")
        write_embedding(tmp_path / "b/z.png_m.bin", np.ones(3, np.float32))
        with pytest.raises(PocketNetError, match=r"b/z.png_m.bin: 3 dimensions; the first of the list has 2"):
            load_features(self.FACES, tmp_path, "_m.bin")
        with writing_features(tmp_path / "all.bin", 1, 2) as write:
            write(self.ROWS[0])
        with pytest.raises(PocketNetError, match="1 rows do not belong to a list of 3 images"):
            load_features(self.FACES, tmp_path / "all.bin", "")
