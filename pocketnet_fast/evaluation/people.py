"""Who is who in verification pairs: which images are the same, and which show one person."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.pairs import VerificationPairs
from pocketnet_fast.evaluation.verification import Indices, consecutive_pairs, fold_ranges


@dataclass(frozen=True, eq=False)
class KnownPeople:
    """The distinct images of verification pairs, M, and what is known of whom they show.

    Images that are equal byte for byte are one; those that pairs of one person join, through others too, show
    one person. Images that no such pair joins may show one person nevertheless.

    Attributes:
        first: M: the number of the image where each distinct one first stands.
        pairs: N,2: the distinct images of each pair.
        person: M: 0 to the number of people less one.
    """

    first: Indices
    pairs: Indices
    person: Indices


def known_people(pairs: VerificationPairs) -> KnownPeople:
    """Find equal images and who is joined; each image is read once."""
    numbers: dict[bytes, int] = {}
    place = np.empty(len(pairs.images), np.int64)
    for index, image in enumerate(pairs.images):
        place[index] = numbers.setdefault(hashlib.sha256(image).digest(), len(numbers))
    joined = place[consecutive_pairs(len(pairs))]
    first = np.unique(place, return_index=True)[1]
    return KnownPeople(first, joined, _components(len(numbers), joined[pairs.same]))


def folds_of(pairs: VerificationPairs, people: KnownPeople, folds: int) -> Indices:
    """Return the fold of each distinct image, where different folds show different people.

    Args:
        pairs: In contiguous folds, as ``fold_ranges`` divides them.
        people: The people of the pairs.
        folds: How many.

    Raises:
        PocketNetError: The folds do not fit, or an image stands in two of them.
    """
    fold = np.full(len(people.first), -1)
    for number, part in enumerate(fold_ranges(len(pairs), folds)):
        images = np.unique(people.pairs[part])
        if (fold[images] >= 0).any():
            other = images[fold[images] >= 0][0]
            raise PocketNetError(
                f"{pairs.name}: fold {number + 1} of {folds} holds an image of fold {fold[other] + 1}: "
                "the people of the folds are not apart; is the number of folds right?"
            )
        fold[images] = number
    return fold


def _components(count: int, edges: Indices) -> Indices:
    """Number the connected components of a graph of ``count`` nodes: that of each node."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for one, other in edges.tolist():
        parent[root(one)] = root(other)
    return np.unique([root(node) for node in range(count)], return_inverse=True)[1].astype(np.int64)
