"""Synthetic identities: images for training and tests that need no download."""

from __future__ import annotations

import cv2
import numpy as np

from pocketnet_fast.data.dataset import CROP_SIZE, FaceDataset
from pocketnet_fast.data.images import ImageArray
from pocketnet_fast.errors import PocketNetError


class SyntheticDataset(FaceDataset):
    """Rendered identities; identity ``first_identity + k`` is the same whatever the other arguments are.

    Args:
        identities: Number of identities.
        images: Of each identity.
        seed: Of the identities and the images.
        first_identity: Number of the first one; disjoint ranges are different people.

    Raises:
        PocketNetError: If a number is out of range.
    """

    def __init__(
        self, identities: int = 64, images: int = 20, seed: int = 0, first_identity: int = 0
    ) -> None:
        if identities < 1 or images < 1 or seed < 0 or first_identity < 0:
            raise PocketNetError(
                f"{identities} identities from {first_identity} with {images} images, seed {seed}: expected "
                "at least one identity and image, and numbers from 0"
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
        identity = self.first_identity + label
        person = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(identity,)))
        chance = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(identity, number)))
        texture = cv2.resize(person.normal(128, 45, (9, 9, 3)).astype(np.float32), (CROP_SIZE, CROP_SIZE))
        warp = np.hstack([np.eye(2), chance.normal(0, 4, (2, 1))]) + chance.normal(0, 0.05, (2, 3))
        moved = cv2.warpAffine(texture, warp, (CROP_SIZE, CROP_SIZE), borderMode=cv2.BORDER_REFLECT)
        noisy = moved * chance.uniform(0.6, 1.3, 3) + chance.normal(0, 6, moved.shape)
        return np.asarray(noisy.clip(0, 255), np.uint8)
