"""Data sets as thresholds are chosen on them: which images are compared, and the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.comparisons import BOTH, FIRST, SECOND, Comparisons
from pocketnet_fast.evaluation.pair_files import is_pairs, open_pairs
from pocketnet_fast.evaluation.pairs import VerificationPairs
from pocketnet_fast.evaluation.people import KnownPeople, folds_of, known_people
from pocketnet_fast.evaluation.verification import Indices


@dataclass(frozen=True, eq=False)
class ComparedFaces:
    """The images of a data set and which of them are compared.

    Attributes:
        comparisons: By the number of the image.
        crops: Yields the images, 112 x 112 x 3 uint8, RGB; called with what to call after each one.
    """

    comparisons: Comparisons
    crops: Callable[[Callable[[], None]], Iterator[ImageArray]]

    def __len__(self) -> int:
        return len(self.comparisons.person)


def open_compared_faces(source: Path, name: str, *, all_pairs: bool, folds: int | None) -> ComparedFaces:
    """Open a data set; no image is decoded.

    Args:
        source: What ``open_pairs`` takes; with ``all_pairs`` what ``open_dataset`` takes, too.
        name: How messages call it.
        all_pairs: Compare all images of different people, not only the pairs that the file lists.
        folds: With ``all_pairs``, into how many folds pairs are divided.

    Raises:
        PocketNetError: It cannot be used, or is of pairs and ``folds`` is missing.
    """
    if not all_pairs:
        return given_pairs(open_pairs(source), name)
    if not is_pairs(source):
        return pairs_of_identities(open_dataset(source), name)
    if folds is None:
        raise PocketNetError(
            f"{source} says no identities; --all-pairs needs --folds N, the parts that show different people "
            "(10 in the published files of LFW and CFP)"
        )
    return pairs_across_folds(open_pairs(source), name, folds)


def given_pairs(pairs: VerificationPairs, name: str) -> ComparedFaces:
    """Compare the pairs that a file lists, and no others."""
    people = known_people(pairs)
    group = np.zeros(len(people.first), np.int64)
    comparisons = Comparisons(name, people.person, group, people.pairs[~pairs.same], people.pairs[pairs.same])
    return ComparedFaces(comparisons, lambda on_image: pairs.crops(on_image, people.first.tolist()))


def pairs_across_folds(pairs: VerificationPairs, name: str, folds: int) -> ComparedFaces:
    """Compare all images of different folds as of two persons, and as of one the different pairs listed so.

    As in the pairs that are listed, one image is a first and the other a second one: where the first are
    frontal and the second in profile, as in CFP-FP, two profiles are not compared, and the threshold is one
    for that comparison.

    Raises:
        PocketNetError: See ``folds_of``.
    """
    people = known_people(pairs)
    fold = folds_of(pairs, people, folds)
    genuine = _distinct(people.pairs[pairs.same])
    comparisons = Comparisons(name, people.person, fold, genuine=genuine, side=_sides(people))
    return ComparedFaces(comparisons, lambda on_image: pairs.crops(on_image, people.first.tolist()))


def pairs_of_identities(dataset: FaceDataset, name: str) -> ComparedFaces:
    """Compare all images of a data set that says who is who."""
    person = np.unique(dataset.labels, return_inverse=True)[1].astype(np.int64)

    def crops(on_image: Callable[[], None]) -> Iterator[ImageArray]:
        for index in range(len(dataset)):
            yield dataset.image(index)
            on_image()

    return ComparedFaces(Comparisons(name, person, person), crops)


def _sides(people: KnownPeople) -> Indices:
    count = len(people.first)
    is_first, is_second = (np.bincount(column, minlength=count) > 0 for column in people.pairs.T)
    return np.where(is_first & is_second, BOTH, np.where(is_first, FIRST, SECOND))


def _distinct(pairs: Indices) -> Indices:
    """Each pair once, and none of an image with itself."""
    different = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(different, axis=0)
