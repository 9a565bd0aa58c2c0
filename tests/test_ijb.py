"""IJB's measures against plain second implementations and another library, and in cases known in advance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from ijb_release import DIMENSIONS, Release, embed, pooled, write_release

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation import ijb
from pocketnet_fast.evaluation.ijb import (
    Templates,
    identify,
    pool_templates,
    search_gallery,
    verify,
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_release(tmp_path_factory.mktemp("ijb"))


@pytest.fixture(scope="module")
def templates(release: Release) -> Templates:
    return pool_templates(release.files, embed, DIMENSIONS, batch_size=7)


def test_pooling(release: Release, templates: Templates) -> None:
    expected = pooled(release)
    assert templates.ids.tolist() == sorted(expected)
    for template, row in zip(templates.ids.tolist(), templates.embeddings, strict=True):
        np.testing.assert_allclose(row, expected[template], atol=1e-6)


def test_only_what_is_asked_for_is_embedded(release: Release) -> None:
    totals: list[int] = []
    done: list[int] = []
    release_pairs = release.files.pairs.read_text()
    first = release.pairs[0]
    try:
        release.files.pairs.write_text(f"{first[0]} {first[1]} {first[2]}\n")
        few = pool_templates(
            release.files, embed, DIMENSIONS, searches=False, on_total=totals.append, on_images=done.append
        )
    finally:
        release.files.pairs.write_text(release_pairs)
    assert few.ids.tolist() == sorted(first[:2].tolist())
    assert totals == [np.isin(release.templates, first[:2]).sum()]
    assert sum(done) == totals[0]


def test_verification(release: Release, templates: Templates) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    done: list[int] = []
    fars = (1e-6, 1e-3, 0.01, 0.1, 0.5)
    result = verify(release.files, templates, fars=fars, on_pairs=done.append)
    expected = pooled(release)
    scores = np.array([expected[a] @ expected[b] for a, b, _ in release.pairs.tolist()])
    labels = release.pairs[:, 2]
    assert (result.genuine, result.impostors) == (labels.sum(), (1 - labels).sum())
    assert sum(done) == len(labels)
    false, true, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    for point in result.points:
        assert point.tar == true[false <= point.far].max()
    assert 0 < result.points[1].tar < result.points[3].tar <= 1
    assert result.roc[0][0] == pytest.approx(1 / result.impostors)
    assert result.roc[1][-1] == 1


def plain_search(
    scores: npt.NDArray[np.float64], probes: list[int], gallery: list[int], fpirs: tuple[float, ...]
) -> tuple[list[int], list[float]]:
    """Ranks of the mated probes, and the rates by trying every threshold."""
    ranks, mates, others = [], [], []
    for row, subject in zip(scores, probes, strict=True):
        own = [score for score, held in zip(row, gallery, strict=True) if held == subject]
        rest = [score for score, held in zip(row, gallery, strict=True) if held != subject]
        if own:
            ranks.append(1 + sum(score >= max(own) for score in rest))
            mates.append(max(own) if ranks[-1] == 1 else -np.inf)
        else:
            others.append(max(row))
    rates = []
    for fpir in fpirs:
        allowed = int(fpir * len(others) + 1e-9)
        limits = [*others, -np.inf]
        rates.append(
            max(
                np.mean(np.array(mates) > limit)
                for limit in limits
                if (np.array(others) > limit).sum() <= allowed
            )
        )
    return ranks, rates


def test_identification(release: Release, templates: Templates) -> None:
    results = identify(release.files, templates)
    expected = pooled(release)
    probes = sorted(release.probes)
    for result, held in zip(results, release.galleries, strict=True):
        gallery = sorted(held)
        scores = np.array([[expected[p] @ expected[g] for g in gallery] for p in probes])
        ranks, rates = plain_search(
            scores,
            [release.subjects[p] for p in probes],
            [release.subjects[g] for g in gallery],
            ijb.FPIRS,
        )
        assert (result.gallery, result.mated, result.others) == (
            len(gallery),
            len(ranks),
            len(probes) - len(ranks),
        )
        for rank in (1, 2, 5, 10):
            assert result.top(rank) == np.mean(np.array(ranks) <= rank)
        assert [point.tar for point in result.points] == rates
        assert 0.3 < result.top(1) < 1


@pytest.mark.parametrize("seed", range(6))
def test_ties_and_several_templates_per_person(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ijb, "_PROBES", 5)
    rng = np.random.default_rng(seed)
    probes, gallery = (rng.integers(-1, 2, (n, 3)).astype(np.float32) for n in (23, 11))
    probe_subjects, gallery_subjects = rng.integers(0, 9, 23), rng.integers(0, 6, 11)
    fpirs = (0.0, 0.2, 0.5, 1.0)
    ranks, rates = plain_search(probes @ gallery.T, probe_subjects.tolist(), gallery_subjects.tolist(), fpirs)
    done: list[int] = []
    result = search_gallery(
        probes, probe_subjects, gallery, gallery_subjects, fpirs=fpirs, on_probes=done.append
    )
    for rank in (1, 2, 4, 11):
        assert result.top(rank) == np.mean(np.array(ranks) <= rank)
    assert [point.tar for point in result.points] == rates
    assert sum(done) == 23


def test_a_case_known_in_advance() -> None:
    """Probes of persons 0 and 1 have rank 1 and 2; the stranger is nearer to 2 than probe 0 is to 0."""
    gallery = np.eye(3, dtype=np.float32)
    probes = np.array([[0.8, 0.6, 0], [0.0, 0.6, 0.8], [0, 0.436, 0.9]], np.float32)
    result = search_gallery(probes, np.array([0, 1, 7]), gallery, np.array([0, 1, 2]), fpirs=(0.5, 1.0))
    assert result.cmc[:3].tolist() == [0.5, 1, 1]
    # No stranger may be accepted: 0.8 is not above 0.9. All may: the one with rank 1 is found.
    assert [point.tar for point in result.points] == [0, 0.5]


def test_errors(release: Release, templates: Templates, tmp_path: Path) -> None:
    eye = np.eye(2, dtype=np.float32)
    for subjects, count in (([5, 6], 0), ([0, 1], 2)):
        with pytest.raises(PocketNetError, match=f"the gallery: {count} of 2 probes are mated"):
            search_gallery(eye, np.array(subjects), eye, np.array([0, 1]))
    line = 1 + int(np.flatnonzero((release.pairs[:, :2] == templates.ids[0]).any(1))[0])
    fewer = Templates(templates.ids[1:], templates.embeddings[1:])
    with pytest.raises(
        PocketNetError, match=f"{release.files.pairs}, line {line}: template {templates.ids[0]} has"
    ):
        verify(release.files, fewer)
    with pytest.raises(PocketNetError, match=f"template {templates.ids[0]} has no image"):
        identify(release.files, fewer)


def test_unusable_images_and_metadata(tmp_path: Path) -> None:
    release = write_release(tmp_path, people=3)
    files = release.files

    def pool() -> None:
        pool_templates(files, embed, DIMENSIONS, batch_size=4)

    def damaged(crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        rows = embed(crops)
        rows[-1, 3] = np.nan
        return rows

    with pytest.raises(PocketNetError, match=r"4\.png: its embedding is not finite"):
        pool_templates(files, damaged, DIMENSIONS, batch_size=4)
    lines = files.landmarks.read_text().splitlines()
    files.landmarks.write_text("\n".join([*lines[:1], "2.png" + " 5" * 10 + " 0.5", *lines[2:]]))
    with pytest.raises(PocketNetError, match=f"{files.landmarks}, line 2: landmarks coincide"):
        pool()
    files.landmarks.write_text("\n".join(lines))
    (files.images / "3.png").unlink()
    with pytest.raises(PocketNetError, match=r"3\.png: no such file"):
        pool()
    # The metadata come first: no image is read before they are known to be good.
    files.landmarks.write_text("\n".join([*lines[:-1], lines[-1] + " 1"]))
    with pytest.raises(PocketNetError, match=f"{files.landmarks}, line {len(lines)}: expected a file"):
        pool()
    with files.pairs.open("a") as stream:
        stream.write("99999 101 0\n")
    with pytest.raises(PocketNetError, match=f"line {len(release.pairs) + 1}: template 99999 has no image"):
        pool()
    with files.probes.open("a") as stream:
        stream.write("88888,1,a,b\n")
    with pytest.raises(PocketNetError, match=f"{files.probes}, line .*: template 88888 has no image"):
        pool_templates(files, embed, DIMENSIONS, pairs=False)


def test_the_threshold_follows_from_the_distribution() -> None:
    """The best match of isotropic strangers in three dimensions has a distribution in closed form."""
    rng = np.random.default_rng(0)
    count = 600
    rows = rng.standard_normal((count, 3))
    gallery = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    result = search_gallery(
        gallery, np.arange(count) // 2, gallery[::4], np.arange(count)[::4] // 2, fpirs=(0.1,)
    )
    # A stranger's best of 150 uniform cosines exceeds c with probability 1 - ((1 + c) / 2)^150.
    expected = 2 * 0.9 ** (1 / 150) - 1
    assert result.points[0].threshold == pytest.approx(expected, abs=2e-4)
