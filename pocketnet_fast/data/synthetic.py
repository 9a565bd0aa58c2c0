"""Synthetic identities: rendered people for training and tests that need no download."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.images import ImageArray, encode_image
from pocketnet_fast.data.person import draw_person, draw_shot
from pocketnet_fast.data.portrait import render
from pocketnet_fast.data.skin_map import Head
from pocketnet_fast.errors import PocketNetError

_HEADS_KEPT: Final = 256  # of 0.3 MB each, per process
_PAIRS_FROM: Final = 1_000_000
_MAX_IMAGES: Final = 100_000_000


class SyntheticDataset(FaceDataset):
    """Rendered identities; identity ``first_identity + k`` is the same whatever the other arguments are.

    An image depends on the seed, the identity and its number alone. Between machines, instruction sets and
    versions of numpy and OpenCV that round otherwise may change some pixels by a grey level. Images are
    rendered anew each time; the skin maps of the identities seen last are kept in memory.

    Args:
        identities: Number of identities.
        images: The number of images of each identity.
        seed: The seed of the identities and the images.
        first_identity: Number of the first one; disjoint ranges are different people.

    Raises:
        PocketNetError: A number is out of range.
    """

    def __init__(
        self, identities: int = 64, images: int = 20, seed: int = 0, first_identity: int = 0
    ) -> None:
        numbers = (identities, images, seed, first_identity)
        if identities < 1 or images < 1 or seed < 0 or first_identity < 0 or max(numbers) >= 1 << 62:
            raise PocketNetError(
                f"{identities} identities from {first_identity} with {images} images, seed {seed}: expected "
                "at least one identity and image, and numbers from 0 to 2**62"
            )
        if identities * images > _MAX_IMAGES:
            raise PocketNetError(
                f"{identities} identities with {images} images: expected at most {_MAX_IMAGES:,} in all"
            )
        self.name = (
            f"synthetic:identities={identities},images={images},seed={seed},first_identity={first_identity}"
        )
        self.images, self.seed, self.first_identity = images, seed, first_identity
        self.labels = np.repeat(np.arange(identities, dtype=np.int64), images)
        self.classes = identities

    def image(self, index: int) -> ImageArray:
        """Render one image: 112 x 112 x 3 uint8, RGB."""
        label, number = divmod(range(len(self.labels))[index], self.images)
        return render_identity(self.seed, self.first_identity + label, number)


def verification_pairs(
    identities: int,
    pairs: int,
    seed: int = 0,
    first_identity: int = 0,
    on_image: Callable[[], None] = lambda: None,
) -> tuple[list[bytes], npt.NDArray[np.bool_]]:
    """Make pairs of photos for verification, in turn of one person and of two, so that any fold has both.

    No photo is in two pairs, nor in a ``SyntheticDataset`` of less than a million images per identity.

    Args:
        identities: Number of identities, of which each pair takes its people at random; at least 2.
        pairs: Number of pairs.
        seed: The seed of the identities, their photos and the choice.
        first_identity: Number of the first identity.
        on_image: Called after each image, for progress.

    Returns:
        The images, 2 * pairs, as PNG; and whether each pair shows one person, bool.

    Raises:
        PocketNetError: A number is out of range.
    """
    if identities < 2 or pairs < 1 or seed < 0 or first_identity < 0:
        raise PocketNetError(
            f"{pairs} pairs of {identities} identities from {first_identity}, seed {seed}: expected at least "
            "one pair and two identities, and numbers from 0"
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2, first_identity, identities)))
    same = np.arange(pairs) % 2 == 0
    first = rng.integers(identities, size=pairs)
    second = np.where(same, first, (first + rng.integers(1, identities, pairs)) % identities)
    shown = np.column_stack([first, second]).reshape(-1) + first_identity
    images = []
    for number, identity in enumerate(shown):
        images.append(encode_image(render_identity(seed, int(identity), _PAIRS_FROM + number), ".png"))
        on_image()
    return images, same


def render_identity(seed: int, identity: int, number: int) -> ImageArray:
    """Render photo ``number`` of an identity: 112 x 112 x 3 uint8, RGB."""
    shot = draw_shot(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, identity, number))))
    return render(_head(seed, identity), shot)


@lru_cache(maxsize=_HEADS_KEPT)
def _head(seed: int, identity: int) -> Head:
    return Head(draw_person(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, identity)))))
