"""The best face of each person, or the best faces, as exactly as the collection's index searches.

Milvus gives the most similar faces, of whomever they are; its search by groups takes as many as it thinks
will do and may return too few people. So a query is asked again, without the people who are known already,
until there are as many as are wanted. Faces are scored anew here from their embeddings: Milvus may have
scored them by an index that rounds, and equal faces then come in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from pocketnet_fast.gallery.milvus.collections import EMBEDDING
from pocketnet_fast.gallery.milvus.connection import MOST, Connection, Row
from pocketnet_fast.gallery.store import Embeddings

# Faces that are asked for, for each that is wanted: most people have a few.
_FACES_EACH: Final = 4
_MORE: Final = 16
# Two scores that differ by less may be those of equal faces; rounding is below it by far.
_TIE: Final = 1e-5
_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Hit:
    """A face for a query.

    Attributes:
        face: Its id.
        person: Whose it is, an id.
        photo: Where it comes from.
        score: Cosine similarity.
    """

    face: int
    person: int
    photo: str
    score: float


def best_hits(
    connection: Connection, collection: str, queries: Embeddings, wanted: int, by: str
) -> list[list[Hit]]:
    """The best of each query: falling scores, equal ones in the order of the faces.

    Args:
        connection: To Milvus.
        collection: The faces.
        queries: Q x D of length 1.
        wanted: How many.
        by: "person" for one face of each person, "face" for all.
    """
    results = []
    limit = min(_FACES_EACH * wanted + _MORE, MOST)
    for part in _parts(queries, limit):
        first = _searched(connection, collection, part, limit, "")
        for query, hits in zip(part, first, strict=True):
            results.append(_enough(connection, collection, query, hits, limit, wanted, by))
    return results


def _enough(
    connection: Connection,
    collection: str,
    query: Embeddings,
    hits: list[Hit],
    limit: int,
    wanted: int,
    by: str,
) -> list[Hit]:
    found: dict[int, Hit] = {}
    while True:
        complete = len(hits) < limit
        # Others may be as good as the last, so that one is not sure to be the first of them.
        sure = hits if complete else [hit for hit in hits if hit.score > hits[-1].score + _TIE]
        if limit == MOST and (by == "face" or not sure):
            sure, complete = hits, complete or by == "face"
        for hit in sure:
            found.setdefault(hit.person if by == "person" else hit.face, hit)
        if complete or len(found) >= wanted:
            return sorted(found.values(), key=lambda hit: (-hit.score, hit.face))[:wanted]
        if by == "face" or not sure:
            limit = min(4 * limit, MOST)
        condition = f"person not in [{', '.join(map(str, found))}]" if by == "person" and found else ""
        (hits,) = _searched(connection, collection, query[None], limit, condition)


def _searched(
    connection: Connection, collection: str, queries: Embeddings, limit: int, condition: str
) -> list[list[Hit]]:
    fields = ["person", "photo", EMBEDDING]
    found = connection.search(collection, EMBEDDING, queries, limit, condition, fields)
    return [_scored(query, rows) for query, rows in zip(queries, found, strict=True)]


def _scored(query: Embeddings, rows: list[Row]) -> list[Hit]:
    if not rows:
        return []
    entities = [row["entity"] for row in rows]
    embeddings = np.array([entity[EMBEDDING] for entity in entities], np.float32)
    scores = np.einsum("nd,d->n", embeddings, query).tolist()
    hits = [
        Hit(int(row["id"]), int(entity["person"]), entity["photo"], score)
        for row, entity, score in zip(rows, entities, scores, strict=True)
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.face))


def _parts(queries: Embeddings, limit: int) -> Iterator[Embeddings]:
    size = max(_BYTES // (limit * (4 * queries.shape[1] + 64)), 1)
    for start in range(0, len(queries), size):
        yield queries[start : start + size]
