"""MegaFace: finding a face among up to a million distractors (arXiv 1512.00596).

Probes are photos of people with several photos each (FaceScrub), distractors are photos of others. For every
two photos i and j of one person, photo i is searched in a gallery of photo j and all distractors (section 4
of the paper): its rank is one more than the number of distractors at least as similar to i as j is. Rank-k
identification is the part of these ordered pairs with rank k or better. Verification compares the pairs of
photos of one person, each counted once, with all pairs of a probe and a distractor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.face_list import FaceList
from pocketnet_fast.evaluation.feature_file import read_embedding, read_features
from pocketnet_fast.evaluation.rates import OperatingPoint, acceptable, operating_point
from pocketnet_fast.gallery.score_collectors import BestOverall, BestPerQuery, Both
from pocketnet_fast.gallery.scoring import scan
from pocketnet_fast.gallery.space import unit_rows

Features = npt.NDArray[np.float32]

SIZES: Final = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
_CHUNK_ROWS: Final = 1 << 16


@dataclass(frozen=True)
class SizeResult:
    """What was measured with one number of distractors.

    Attributes:
        distractors: How many; the first ones of the list.
        identification: Part of the pairs with rank k or better, by k.
        verification: True accept rates, in the order of the false accept rates asked for.
    """

    distractors: int
    identification: dict[int, float]
    verification: list[OperatingPoint]


@dataclass(frozen=True)
class MegaFaceResult:
    """The result of the challenge.

    Attributes:
        probes: Number of photos of people.
        identities: Number of people.
        pairs: Number of searches: ordered pairs of photos of one person.
        sizes: The measurements, by rising number of distractors.
    """

    probes: int
    identities: int
    pairs: int
    sizes: list[SizeResult]


def evaluate(
    probes: Features,
    ids: Sequence[str],
    distractors: Features,
    *,
    sizes: Sequence[int] | None = None,
    ranks: Sequence[int] = (1, 10),
    fars: Sequence[float] = (1e-6,),
    threads: int | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> MegaFaceResult:
    """Measure identification and verification; scores are products of embeddings of length 1.

    Equal scores count against the mate. Memory beyond the arguments: the highest ``max(ranks)`` scores of
    each probe and the highest ``max(fars)`` of all, a block of scores per thread, and the scores of probe to
    probe.

    Args:
        probes: P x D, of length 1.
        ids: Identity of each probe.
        distractors: N x D, of length 1.
        sizes: Numbers of distractors to measure with; None for the powers of ten up to a million that N
            allows, and N.
        ranks: The ranks k.
        fars: False accept rates.
        threads: Threads; None for as many as PyTorch uses.
        on_rows: Called with the number of distractors done; may raise to end it.

    Raises:
        PocketNetError: Nobody has two photos, there are no distractors, an embedding is not finite, or
            shapes, sizes, ranks or rates do not fit.

    Examples:
        >>> result = evaluate(probes, people, distractors, sizes=[1000, 1_000_000])
        >>> result.sizes[-1].identification[1]  # of rank 1
    """
    if probes.ndim != 2 or len(probes) != len(ids):
        raise PocketNetError(f"{len(ids)} identities do not belong to probes of {probes.shape}")
    count = len(distractors)
    if distractors.ndim != 2 or distractors.shape[1] != probes.shape[1]:
        raise PocketNetError(
            f"probes of {probes.shape[1]} dimensions cannot be compared with distractors of "
            f"{distractors.shape[-1]}"
        )
    if count == 0:
        raise PocketNetError("there are no distractors")
    wanted = sorted(set(sizes)) if sizes is not None else [n for n in SIZES if n < count] + [count]
    if not wanted or wanted[0] < 1 or wanted[-1] > count:
        raise PocketNetError(f"cannot measure with {wanted} distractors; expected 1 to {count}")
    if not ranks or min(ranks) < 1:
        raise PocketNetError(f"ranks are positive, got {list(ranks)}")
    mates = _Mates(probes, ids)
    once = mates.scores[mates.first < mates.second]

    kept = max([acceptable(len(probes) * wanted[-1], far) for far in fars], default=-1) + 1

    def collector() -> Both[BestPerQuery, BestOverall]:
        return Both(BestPerQuery(len(probes), max(ranks)), BestOverall(kept))

    best, start, results = collector(), 0, []
    for size in wanted:
        best.merge(
            scan(
                probes, distractors[start:size], collector, threads=threads, first_row=start, on_rows=on_rows
            )
        )
        start = size
        highest = best.first.scores[mates.first]
        identification = {k: float(np.mean(highest[:, k - 1] < mates.scores)) for k in sorted(set(ranks))}
        impostors = best.second.values()
        verification = [operating_point(once, impostors, len(probes) * size, far) for far in fars]
        results.append(SizeResult(size, identification, verification))
    return MegaFaceResult(len(probes), len(set(ids)), len(mates.first), results)


def load_features(
    faces: FaceList,
    where: str | os.PathLike[str],
    suffix: str,
    places: Sequence[int] | None = None,
    *,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Features:
    """Read the embeddings of a list, scaled to length 1.

    Args:
        faces: The list.
        where: A folder with a feature file ``<path><suffix>`` for each path, or one feature file with a row
            for each.
        suffix: What the names of feature files add to the paths, for example ``_pocketnet.bin``.
        places: Which of the list to read, rising; None for all.
        on_rows: Called with the number of embeddings read, for progress.

    Returns:
        N x D float32.

    Raises:
        PocketNetError: A file is missing or damaged, an embedding has another dimension than the first, or is
            not finite or zero; the message names the file.

    Examples:
        >>> rows = load_features(read_face_list("list.json"), "features", "_pocketnet.bin")
    """
    where = Path(where)
    places = range(len(faces)) if places is None else places
    if not places:
        raise PocketNetError(f"{where}: all {len(faces)} images of its list are left out")
    if where.is_dir():
        rows = _from_folder(faces, where, suffix, places, on_rows)
    elif where.exists():
        rows = _from_matrix(faces, where, places, on_rows)
    else:
        raise PocketNetError(f"{where}: no such folder or file of features")
    for first in range(0, len(rows), _CHUNK_ROWS):
        part = rows[first : first + _CHUNK_ROWS]
        labels = [faces.paths[place] for place in places[first : first + len(part)]]
        try:
            part[:] = unit_rows(part, rows.shape[1], labels)
        except PocketNetError as error:
            raise PocketNetError(f"{where}: {error}") from None
    return rows


def _from_folder(
    faces: FaceList, folder: Path, suffix: str, places: Sequence[int], on_rows: Callable[[int], None]
) -> Features:
    rows: Features | None = None
    for row, place in enumerate(places):
        path = folder / (faces.paths[place] + suffix)
        embedding = read_embedding(path)
        if rows is None:
            rows = np.empty((len(places), len(embedding)), np.float32)
        if embedding.shape != rows.shape[1:]:
            raise PocketNetError(
                f"{path}: {len(embedding)} dimensions; the first of the list has {rows.shape[1]}"
            )
        rows[row] = embedding
        on_rows(1)
    assert rows is not None
    return rows


def _from_matrix(
    faces: FaceList, path: Path, places: Sequence[int], on_rows: Callable[[int], None]
) -> Features:
    matrix = read_features(path)
    if len(matrix) != len(faces):
        raise PocketNetError(f"{path}: {len(matrix)} rows do not belong to a list of {len(faces)} images")
    rows = np.empty((len(places), matrix.shape[1]), np.float32)
    for first in range(0, len(places), _CHUNK_ROWS):
        chosen = np.asarray(places[first : first + _CHUNK_ROWS])
        rows[first : first + len(chosen)] = matrix[chosen]
        on_rows(len(chosen))
    return rows


class _Mates:
    """The ordered pairs of different photos of one person: their places and their scores."""

    def __init__(self, probes: Features, ids: Sequence[str]) -> None:
        labels = np.unique(np.asarray(ids), return_inverse=True)[1]
        order = np.argsort(labels, kind="stable")
        first, second, scores = [], [], []
        for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
            i, j = np.nonzero(~np.eye(len(members), dtype=bool))
            first.append(members[i])
            second.append(members[j])
            scores.append((probes[members] @ probes[members].T)[i, j])
        self.first = np.concatenate(first)
        self.second = np.concatenate(second)
        self.scores = np.concatenate(scores)
        if len(self.first) == 0:
            raise PocketNetError("nobody has two photos among the probes, so there is nobody to find")
