"""Who is who in verification pairs: equal images, people that pairs join, folds that are apart."""

from __future__ import annotations

import numpy as np
import pytest

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.compared_faces import given_pairs, pairs_across_folds
from pocketnet_fast.evaluation.comparisons import FIRST, SECOND
from pocketnet_fast.evaluation.pairs import VerificationPairs
from pocketnet_fast.evaluation.people import folds_of, known_people


def pairs_of(text: str) -> VerificationPairs:
    """Pairs of images that are single letters: "a=b" shows one person, "a/b" two."""
    words = text.split()
    images = [letter.encode() for word in words for letter in (word[0], word[2])]
    return VerificationPairs(images, np.array([word[1] == "=" for word in words]), "text.bin")


# Two folds: a, b, c are one person, d is e; in the second f is g, and h and i stand alone.
TEXT = "a=b b=c a/d d=e  f=g h/i f=g g/h"


def test_equal_images_are_one_and_pairs_join_people() -> None:
    people = known_people(pairs_of(TEXT))
    assert people.first.tolist() == [0, 1, 3, 5, 7, 8, 9, 10, 11]
    assert people.pairs[:4].tolist() == [[0, 1], [1, 2], [0, 3], [3, 4]]
    person = people.person
    joined = [set(np.flatnonzero(person == number)) for number in range(person.max() + 1)]
    assert sorted(joined, key=min) == [{0, 1, 2}, {3, 4}, {5, 6}, {7}, {8}]


def test_folds() -> None:
    pairs = pairs_of(TEXT)
    people = known_people(pairs)
    assert folds_of(pairs, people, 2).tolist() == [0] * 5 + [1] * 4
    message = (
        r"text\.bin: fold 2 of 4 holds an image of fold 1: the people of the folds are not apart; is the "
    )
    with pytest.raises(PocketNetError, match=message + "number of folds right"):
        folds_of(pairs, people, 4)
    with pytest.raises(PocketNetError, match="8 pairs cannot be divided into 9 folds"):
        folds_of(pairs, people, 9)


def test_what_is_compared() -> None:
    pairs = pairs_of(TEXT)
    across = pairs_across_folds(pairs, "text", 2).comparisons
    # Of 5 * 4: two that are first ones only, and two that are second ones only, are not compared.
    assert across.side is not None
    alike = sum(
        np.count_nonzero(across.side[across.group == 0] == side)
        * np.count_nonzero(across.side[across.group == 1] == side)
        for side in (FIRST, SECOND)
    )
    assert (across.impostor_pairs, alike) == (17, 3)
    # f=g stands twice, and counts once.
    assert across.genuine_pairs().sum() == 4
    listed = given_pairs(pairs, "text").comparisons
    assert (listed.impostor_pairs, listed.genuine_pairs().sum()) == (3, 5)
    itself = pairs_across_folds(pairs_of("a=a b=c d/e f/g"), "text", 2).comparisons
    assert itself.genuine_pairs().sum() == 1
