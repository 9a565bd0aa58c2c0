"""The published verification protocol: are two faces one person, judged by a threshold chosen on other pairs.

Embeddings of an image and of its mirror image are added and the sum L2-normalised; a pair is accepted when
the squared distance of its embeddings lies below the threshold. The pairs are divided into contiguous folds;
each fold's threshold is chosen on all the others (LFW's protocol, as used for ArcFace, arXiv 1801.07698).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError

Crops = npt.NDArray[np.uint8]
Embed = Callable[[Crops], npt.NDArray[np.float32]]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

ACCURACY_THRESHOLDS: Final[Floats] = np.arange(0, 4, 0.01)
VAL_THRESHOLDS: Final[Floats] = np.arange(0, 4, 0.001)
FAR_TARGET: Final = 1e-3


@dataclass(frozen=True)
class VerificationResult:
    """What the protocol measures, over the folds.

    Attributes:
        accuracy: Mean part of pairs decided rightly.
        accuracy_std: Its deviation (population) over the folds.
        threshold: Mean of the folds' thresholds, a squared distance; the cosine is ``1 - threshold / 2``.
        val: Mean part of the pairs of one person that are accepted where FAR is 1e-3 on the other folds.
        val_std: Its deviation over the folds.
        far: Mean part of the pairs of two persons that are then accepted.
        xnorm: Mean length of the embeddings of images and mirror images before normalisation.
        pairs: How many were judged.
    """

    accuracy: float
    accuracy_std: float
    threshold: float
    val: float
    val_std: float
    far: float
    xnorm: float
    pairs: int


def fold_ranges(pairs: int, folds: int) -> list[slice]:
    """Contiguous folds, the first ones a pair longer where the number does not divide.

    Raises:
        PocketNetError: There are fewer than two pairs, fewer than two folds or more folds than pairs.
    """
    if pairs < 2:
        raise PocketNetError(
            f"{pairs} pair{'s' * (pairs != 1)} cannot be judged by folds; expected at least 2"
        )
    if not 2 <= folds <= pairs:
        raise PocketNetError(
            f"{pairs} pairs cannot be divided into {folds} folds; expected 2 to {pairs} folds"
        )
    short, longer = divmod(pairs, folds)
    ends = np.cumsum([short + (fold < longer) for fold in range(folds)])
    return [slice(int(end) - short - (fold < longer), int(end)) for fold, end in enumerate(ends)]


def judge(distance: Floats, same: Flags, *, folds: int = 10, xnorm: float = 0.0) -> VerificationResult:
    """Apply the protocol to squared distances.

    Accuracy: thresholds 0, 0.01, ... 3.99, of which the first best on the other folds counts. VAL: the
    threshold at which the FAR on the other folds is 1e-3, interpolated on 0, 0.001, ... 3.999 (the last of
    equals); 0 if it never gets there. A fold without pairs of one person has VAL 0, one without pairs of two
    FAR 0.

    Args:
        distance: N: squared distance of the L2-normalised embeddings of each pair.
        same: N: whether it is one person.
        folds: Number of folds.
        xnorm: Passed on.

    Raises:
        PocketNetError: The lengths differ, a distance is not finite, or the folds do not fit.

    Examples:
        >>> result = judge(pair_distances(embeddings, consecutive_pairs(len(same))), same)
        >>> print(f"{100 * result.accuracy:.2f} %")
    """
    distance = np.asarray(distance, np.float64)
    if distance.shape != same.shape or distance.ndim != 1:
        raise PocketNetError(f"{distance.shape} distances do not belong to {same.shape} pairs")
    if not np.isfinite(distance).all():
        wrong = int(np.flatnonzero(~np.isfinite(distance))[0])
        raise PocketNetError(f"the distance of pair {wrong} is not finite")
    right: list[npt.NDArray[np.int64]] = []
    accepted: list[npt.NDArray[np.int64]] = []
    # Per fold, how many pairs each threshold decides rightly, and how many of two persons it accepts: what
    # holds for the other folds is the sum less the fold's own.
    ranges = fold_ranges(len(same), folds)
    for part in ranges:
        rightly = _below(distance[part][same[part]], ACCURACY_THRESHOLDS)
        wrongly = _below(distance[part][~same[part]], ACCURACY_THRESHOLDS)
        right.append(rightly - wrongly + np.count_nonzero(~same[part]))
        accepted.append(_below(distance[part][~same[part]], VAL_THRESHOLDS))
    sizes = np.array([part.stop - part.start for part in ranges])
    different = np.array([np.count_nonzero(~same[part]) for part in ranges])

    accuracies, thresholds, vals, fars = [], [], [], []
    for fold, part in enumerate(ranges):
        best = int(np.argmax(np.sum(right, axis=0) - right[fold]))
        thresholds.append(ACCURACY_THRESHOLDS[best])
        accuracies.append(right[fold][best] / sizes[fold])
        others = max(int(different.sum() - different[fold]), 1)
        far = (np.sum(accepted, axis=0) - accepted[fold]) / others
        threshold = np.interp(FAR_TARGET, far, VAL_THRESHOLDS) if far[-1] >= FAR_TARGET else 0.0
        taken = distance[part] < threshold
        vals.append(np.count_nonzero(taken & same[part]) / max(int(np.count_nonzero(same[part])), 1))
        fars.append(np.count_nonzero(taken & ~same[part]) / max(int(different[fold]), 1))
    return VerificationResult(
        accuracy=float(np.mean(accuracies)),
        accuracy_std=float(np.std(accuracies)),
        threshold=float(np.mean(thresholds)),
        val=float(np.mean(vals)),
        val_std=float(np.std(vals)),
        far=float(np.mean(fars)),
        xnorm=xnorm,
        pairs=len(same),
    )


def embed_crops(
    embed: Embed,
    crops: Iterable[Crops],
    *,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Embed images batch by batch.

    Args:
        embed: N,112,112,3 uint8 RGB to N,D.
        crops: Images of 112,112,3; at least one.
        batch_size: Images per call.
        on_batch: Called with the number of images done in each batch; may raise to end the work.

    Returns:
        What ``embed`` returned, one row per image.
    """
    rows = []
    for batch in _batches(crops, batch_size):
        rows.append(np.asarray(embed(batch), np.float32))
        if on_batch is not None:
            on_batch(len(batch))
    return np.concatenate(rows)


def embed_both_ways(
    embed: Embed,
    crops: Iterable[Crops],
    *,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[Floats, float]:
    """Embed images and mirror images, and add the two.

    Arguments are those of ``embed_crops``.

    Returns:
        The L2-normalised sums, one row per image, and the mean length of all embeddings that were added.

    Examples:
        >>> embeddings, xnorm = embed_both_ways(embedder, pairs.crops(), batch_size=16)
    """
    straight, mirrored = embed_straight_and_mirrored(embed, crops, batch_size=batch_size, on_batch=on_batch)
    return unit_length(straight.astype(np.float64) + mirrored), mean_length(straight, mirrored)


def embed_straight_and_mirrored(
    embed: Embed,
    crops: Iterable[Crops],
    *,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Embed images, and their mirror images apart; arguments as for ``embed_both_ways``.

    Returns:
        The embeddings of the images and those of the mirror images, not normalised, one row per image.
    """

    def both(batch: Crops) -> npt.NDArray[np.float32]:
        mirror = np.ascontiguousarray(batch[:, :, ::-1])
        return np.stack([embed(batch), embed(mirror)], axis=1)

    rows = embed_crops(both, crops, batch_size=batch_size, on_batch=on_batch)
    return rows[:, 0], rows[:, 1]


def unit_length(embeddings: npt.NDArray[Any]) -> Floats:
    """Scale each row to length 1; a row of zeros stays."""
    rows = np.asarray(embeddings, np.float64)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def mean_length(*embeddings: npt.NDArray[Any]) -> float:
    """XNorm: the mean length of all rows."""
    rows = np.concatenate(embeddings).astype(np.float64)
    return float(np.linalg.norm(rows, axis=1).mean())


def pair_distances(embeddings: Floats, pairs: npt.NDArray[np.int64]) -> Floats:
    """Squared distances of the rows that each pair of indices (N,2) names."""
    difference = embeddings[pairs[:, 0]] - embeddings[pairs[:, 1]]
    return np.asarray(np.square(difference).sum(1))


def sample_pairs(labels: npt.NDArray[np.int64], pairs: int, seed: int) -> tuple[npt.NDArray[np.int64], Flags]:
    """Draw pairs of different images, alternately of one identity and of two, so that any fold has both.

    Args:
        labels: Identity of each image.
        pairs: How many.
        seed: The seed of the choice.

    Returns:
        Indices N,2, and whether each pair is of one identity.

    Raises:
        PocketNetError: There are fewer than two identities or none has two images.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    several = [images for images in members if len(images) > 1]
    if len(members) < 2 or not several:
        raise PocketNetError("verification pairs need two identities, and one of them with two images")
    rng = np.random.default_rng(seed)
    chosen = np.empty((pairs, 2), np.int64)
    same = np.arange(pairs) % 2 == 0
    for index in range(pairs):
        if same[index]:
            chosen[index] = rng.choice(several[rng.integers(len(several))], 2, replace=False)
        else:
            first, second = rng.choice(len(members), 2, replace=False)
            chosen[index] = rng.choice(members[first]), rng.choice(members[second])
    return chosen, same


def consecutive_pairs(count: int) -> npt.NDArray[np.int64]:
    """The pairs of a ``.bin`` file: images 2i and 2i + 1, N,2."""
    return np.arange(2 * count, dtype=np.int64).reshape(count, 2)


def _below(distances: Floats, thresholds: Floats) -> npt.NDArray[np.int64]:
    return np.searchsorted(np.sort(distances), thresholds, side="left")


def _batches(crops: Iterable[Crops], size: int) -> Iterator[Crops]:
    batch: list[Crops] = []
    for crop in crops:
        batch.append(crop)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
