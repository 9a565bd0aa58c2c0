"""Whom a face looks most like, and whether it is a certain person."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.people import Person
from pocketnet_fast.gallery.quantized import QuantizedRows
from pocketnet_fast.gallery.score_collectors import BestPerOwner
from pocketnet_fast.gallery.scoring import scan
from pocketnet_fast.gallery.vectors import Vectors

Embeddings = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
FoundT = TypeVar("FoundT")

SEARCHED_BY: Final = ("person", "face")
PRECISIONS: Final = ("fp32", "int8")
# Candidates of a search in bytes beyond twice those that are asked for.
_CANDIDATES: Final = 32


@dataclass(frozen=True)
class Match:
    """A face found for a query.

    Attributes:
        person: Whose it is, an id.
        name: Who it is.
        face: Its id.
        photo: The photo it was made of, as it was given; may be empty.
        score: Cosine similarity.
        margin: By how much this score exceeds the best one of the next person in the order; None for the last
            person of the gallery, and where faces are searched.
    """

    person: int
    name: str
    face: int
    photo: str
    score: float
    margin: float | None


@dataclass(frozen=True)
class Claim:
    """What a face says to the claim that it is a certain person.

    Attributes:
        person: The id of that person.
        name: The name of that person.
        face: That of this person's faces which is most similar, an id; None if there are none.
        score: Its cosine similarity; None if there are none.
        threshold: The least score that is accepted.
        accepted: Whether ``score`` reaches it.
    """

    person: int
    name: str
    face: int | None
    score: float | None
    threshold: float
    accepted: bool


@dataclass(frozen=True)
class SearchOptions:
    """Which matches a search is to find; ``Gallery.search`` says what each means."""

    top: int
    threshold: float | None
    margin: float | None
    by: str
    precision: str
    threads: int | None


def check_search(top: int, by: str, margin: float | None, precision: str) -> None:
    """Refuse options that no search has.

    Raises:
        PocketNetError: Saying which.
    """
    if top < 1:
        raise PocketNetError(f"the number of matches must be positive, got {top}")
    if by not in SEARCHED_BY:
        raise PocketNetError(f"unknown by={by!r}; expected one of {', '.join(map(repr, SEARCHED_BY))}")
    if precision not in PRECISIONS:
        raise PocketNetError(f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if margin is not None and by != "person":
        raise PocketNetError("a margin is one between two persons; search by person")


def best_rows(
    queries: Embeddings, vectors: Vectors, top: int, *, by: str, threads: int | None
) -> BestPerOwner:
    """The best rows of each query, exactly.

    Args:
        queries: Q x D of length 1.
        vectors: Where to search.
        top: How many.
        by: "person" for one row of each person, "face" for all.
        threads: Threads; None for as many as PyTorch uses.

    Raises:
        PocketNetError: See ``scan``.
    """
    kept = _collector(queries, vectors, top, by)
    for first, rows in vectors.parts:
        if len(rows):
            kept = scan(queries, rows, kept.copy, threads=threads, first_row=first)
    return kept


def best_rows_of_bytes(
    queries: Embeddings,
    vectors: Vectors,
    base: QuantizedRows,
    top: int,
    *,
    by: str,
    threads: int | None,
) -> BestPerOwner:
    """The best rows of each query among the candidates of a search in bytes, these scored exactly.

    Args:
        queries: Q x D of length 1.
        vectors: Where to search.
        base: The base of ``vectors`` in bytes. What has been added since is scored exactly.
        top: How many.
        by: See ``best_rows``.
        threads: How many; see ``scan``.

    Raises:
        PocketNetError: See ``scan``.
    """
    kept = _collector(queries, vectors, top, by)
    owners = vectors.people_of if by == "person" else vectors.rows_that_are
    found = base.best(queries, 2 * top + _CANDIDATES, owners, threads=threads)
    for query, candidates in enumerate(found.rows):
        rows = candidates[candidates >= 0]
        if by == "person":
            # Which of a person's faces is best is not sure either.
            rows = _rows_of_people(vectors, base, np.unique(vectors.people_of(rows)))
        scores = vectors.base.rows[rows] @ queries[query]
        kept.insert(np.full(len(rows), query), scores, rows)
    split = len(vectors.base.ids)
    if len(vectors.rows):
        kept = scan(queries, vectors.rows, kept.copy, threads=threads, first_row=split)
    return kept


def _collector(queries: Embeddings, vectors: Vectors, top: int, by: str) -> BestPerOwner:
    width = max(min(top, len(vectors)), 1)
    return BestPerOwner(len(queries), width, vectors.people_of if by == "person" else vectors.rows_that_are)


def _rows_of_people(vectors: Vectors, base: QuantizedRows, people: Indices) -> Indices:
    """All rows of the base that are of these people now."""
    moved = vectors.changed[vectors.changed < len(vectors.base.ids)]
    rows = np.union1d(base.rows_of(people), moved)
    return rows[np.isin(vectors.people_of(rows), people)]


def named(
    connection: sqlite3.Connection,
    vectors: Vectors,
    best: BestPerOwner,
    wanted: SearchOptions,
) -> list[list[Match]]:
    """Give rows their names, and leave out what is below the threshold; see ``Gallery.search``."""
    rows = best.rows
    faces = np.where(rows >= 0, vectors.faces_of(np.maximum(rows, 0)), -1) if len(vectors) else rows
    return [
        [
            _match(connection, face, score, lead)
            for face, score, lead in accepted([face for face in found if face >= 0], of_query, wanted)
        ]
        for of_query, found in zip(best.scores.tolist(), faces.tolist(), strict=True)
    ]


def accepted(
    found: Sequence[FoundT], scores: Sequence[float], wanted: SearchOptions
) -> list[tuple[FoundT, float, float | None]]:
    """What matches a query, with its score and by how much that exceeds the next person's.

    Args:
        found: The best of each person, or the best faces; one more than are wanted if there are so many.
        scores: Their scores, falling; more are ignored.
        wanted: What the search is to find.
    """
    # Rounding makes the cosine of equal embeddings up to 1e-6 more than 1.
    cosines = [min(max(score, -1.0), 1.0) for score in scores[: len(found)]]
    leads: list[float | None] = [None] * len(found)
    if wanted.by == "person":
        leads[:-1] = [one - other for one, other in pairwise(cosines)]
    if wanted.margin is not None and len(found) > 1 and (leads[0] or 0.0) < wanted.margin:
        return []
    matches = zip(found, cosines, leads, strict=True)
    least = wanted.threshold
    return [match for match in matches if least is None or match[1] >= least][: wanted.top]


def claim(person: Person, faces: Indices, rows: Embeddings, query: Embeddings, threshold: float) -> Claim:
    """Compare a face with one person's; see ``Gallery.claim``.

    Args:
        person: Who it is said to be.
        faces: The ids of this person's faces, N.
        rows: Their embeddings, N x D.
        query: D numbers of length 1.
        threshold: The least score that is accepted.
    """
    if len(rows) == 0:
        return Claim(person.id, person.name, None, None, threshold, accepted=False)
    scores = rows @ query
    best = int(scores.argmax())
    score = float(np.clip(scores[best], -1, 1))
    return Claim(person.id, person.name, int(faces[best]), score, threshold, accepted=score >= threshold)


def _match(connection: sqlite3.Connection, face: int, score: float, margin: float | None) -> Match:
    found = connection.execute(
        "SELECT p.id, p.name, f.photo FROM face AS f JOIN person AS p ON p.id = f.person WHERE f.id = ?",
        (face,),
    ).fetchone()
    if found is None:
        raise PocketNetError(
            f"the gallery is damaged: face {face} belongs to nobody; `pocketnet gallery check` says more"
        )
    person, name, photo = found
    return Match(person, name, face, photo, score, margin)
