"""How alike the faces of verification pairs are to a network, with and without mirror images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pocketnet_fast.evaluation.pairs import VerificationPairs
from pocketnet_fast.evaluation.verification import (
    Embed,
    Flags,
    Floats,
    consecutive_pairs,
    embed_straight_and_mirrored,
    mean_length,
    pair_distances,
    unit_length,
)


@dataclass(frozen=True)
class PairScores:
    """Squared distances of L2-normalised embeddings, N; the cosine is ``1 - distance / 2``.

    Attributes:
        same: bool, N: whether the pair shows one person.
        distance: The distances of the sums of the embeddings of image and mirror image.
        straight_distance: The distances of the embeddings of the images alone.
        xnorm: Mean length of the embeddings of images and mirror images.
        straight_xnorm: Mean length of the embeddings of the images.
    """

    same: Flags
    distance: Floats
    straight_distance: Floats
    xnorm: float
    straight_xnorm: float


def score_pairs(
    embed: Embed,
    pairs: VerificationPairs,
    *,
    batch_size: int = 64,
    on_image: Callable[[], None] = lambda: None,
) -> PairScores:
    """Embed every image and mirror image once, and compare the pairs both ways.

    Args:
        embed: N,112,112,3 uint8 RGB to N,D.
        pairs: At least one.
        batch_size: Images per call; so many are decoded at a time.
        on_image: Called as each image is taken, for progress.

    Raises:
        PocketNetError: An image cannot be used.

    Examples:
        >>> scores = score_pairs(embedder, open_pairs("lfw.bin"))
        >>> judge(scores.distance, scores.same, folds=10, xnorm=scores.xnorm).accuracy
    """
    straight, mirrored = embed_straight_and_mirrored(embed, pairs.crops(on_image), batch_size=batch_size)
    indices = consecutive_pairs(len(pairs))
    return PairScores(
        same=pairs.same,
        distance=pair_distances(unit_length(straight.astype(float) + mirrored), indices),
        straight_distance=pair_distances(unit_length(straight), indices),
        xnorm=mean_length(straight, mirrored),
        straight_xnorm=mean_length(straight),
    )
