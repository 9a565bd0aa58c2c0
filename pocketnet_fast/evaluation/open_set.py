"""Open-set identification: finding who somebody is, or that nobody knows them (ISO/IEC 19795-1).

A probe is searched twice. In the gallery of everybody it is mated: it counts as identified if its own person
comes first, with a score above the threshold. In the gallery without its own person it is not: it counts as a
false positive if anybody's score exceeds the threshold. So every probe serves both rates, and none is drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.rates import OperatingPoint, operating_point
from pocketnet_fast.gallery.score_collectors import BestPerOwner
from pocketnet_fast.gallery.scoring import scan

Embeddings = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Confusion:
    """A probe to whom somebody else is more similar than its own person, or nearly; all are numbers of faces.

    Attributes:
        probe: The face that was searched.
        other: The most similar face of somebody else.
        own: The most similar face of its own person.
        other_score: Cosine similarity to ``other``.
        own_score: Cosine similarity to ``own``.
    """

    probe: int
    other: int
    own: int
    other_score: float
    own_score: float


@dataclass(frozen=True)
class OpenSetResult:
    """What was measured.

    Attributes:
        people: How many are enrolled.
        enrolled: With how many faces.
        probes: How many faces were searched.
        rank_one: Part of the probes whose own person came first; ties count against it.
        points: For each false positive identification rate the true positive one (``tar``) and the
            threshold; ``accepted`` is 0 where there are too few probes to measure the rate.
        confusions: The worst, by how far the other's score exceeds the own one's.
    """

    people: int
    enrolled: int
    probes: int
    rank_one: float
    points: list[OperatingPoint]
    confusions: list[Confusion]


def first_of_each(people: Indices, count: int) -> npt.NDArray[np.bool_]:
    """Which faces are among the first ``count`` of their person, in the order given."""
    seen: Counter[int] = Counter()
    first = np.zeros(len(people), bool)
    for place, person in enumerate(people.tolist()):
        first[place] = seen[person] < count
        seen[person] += 1
    return first


def evaluate(
    embeddings: Embeddings,
    people: Indices,
    enrolled: npt.NDArray[np.bool_],
    *,
    fpirs: Sequence[float] = (0.1, 0.01),
    worst: int = 10,
    threads: int | None = None,
) -> OpenSetResult:
    """Measure identification of faces that are not enrolled among those that are.

    Args:
        embeddings: N x D float32 of length 1.
        people: N: whose faces they are, 0 or above.
        enrolled: N: which faces the gallery holds. Everybody who has a probe has one of these.
        fpirs: False positive identification rates.
        worst: How many confusions to name.
        threads: Threads; None for as many as PyTorch uses.

    Raises:
        PocketNetError: There are no probes, or fewer than two people, or a probe's person is not enrolled.

    Examples:
        >>> result = evaluate(embeddings, people, first_of_each(people, 1))
        >>> result.rank_one
    """
    held, probes = np.flatnonzero(enrolled), np.flatnonzero(~enrolled)
    owner = people[held]
    if len(np.unique(owner)) < 2 or len(probes) == 0:
        raise PocketNetError(
            f"{len(np.unique(owner))} people with {len(probes)} photos to search for; at least two people "
            "are needed, and one of them with more photos than are enrolled"
        )
    missing = np.setdiff1d(people[probes], owner)
    if len(missing):
        raise PocketNetError(f"person {missing[0]} is searched for and not enrolled")
    best = scan(
        embeddings[probes],
        embeddings[held],
        lambda: BestPerOwner(len(probes), 2, lambda rows: owner[rows]),
        threads=threads,
    )
    # The best person who is not the probe's own is one of the best two.
    second = owner[best.rows[:, 0]] == people[probes]
    other = np.where(second, best.rows[:, 1], best.rows[:, 0])
    other_scores = np.where(second, best.scores[:, 1], best.scores[:, 0])
    own, own_scores = _own(embeddings, people, held, owner, probes)
    first = own_scores > other_scores
    identified = np.where(first, own_scores, -np.inf).astype(np.float32)
    falling = -np.sort(-other_scores)
    order = np.argsort(own_scores - other_scores, kind="stable")[:worst]
    return OpenSetResult(
        len(np.unique(owner)),
        len(held),
        len(probes),
        float(first.mean()),
        [operating_point(identified, falling, len(probes), fpir) for fpir in fpirs],
        [
            Confusion(
                int(probes[i]), int(held[other[i]]), int(own[i]), float(other_scores[i]), float(own_scores[i])
            )
            for i in order
        ],
    )


def _own(
    embeddings: Embeddings, people: Indices, held: Indices, owner: Indices, probes: Indices
) -> tuple[Indices, Embeddings]:
    """The best face of its own person for each probe, and its score."""
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], people[probes], "left")
    ends = np.searchsorted(owner[order], people[probes], "right")
    found, scores = np.empty(len(probes), np.int64), np.empty(len(probes), np.float32)
    for i, (probe, start, end) in enumerate(zip(probes, starts, ends, strict=True)):
        faces = held[order[start:end]]
        of_faces = embeddings[faces] @ embeddings[probe]
        place = int(of_faces.argmax())
        found[i], scores[i] = faces[place], of_faces[place]
    return found, scores
