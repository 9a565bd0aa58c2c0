"""Pooling the images of a person into templates (Whitelam et al., CVPRW 2017; as evaluated for ArcFace).

A template is a set of images and video frames of one person; frames of one video, and copies of one image,
share a medium. Its embedding is

    normalise( sum over media  mean over the medium's images  score * embedding ),

with the detector's score of each image, and embeddings as the network gives them, so that images of which the
network is less sure count less.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError

Integers = npt.NDArray[np.int64]
Embeddings = npt.NDArray[np.float32]


class TemplatePool:
    """Sums embeddings as they arrive; memory is that of the templates, T x D float64.

    The numbers of images per medium have to be known in advance, and then a mean is a sum of weighted images.

    Args:
        templates: N: template of each image.
        media: N: medium of each image.
        dimensions: D.
        wanted: The templates to pool; None for all.

    Attributes:
        ids: T: the templates pooled, rising.

    Raises:
        PocketNetError: The lengths differ, or a wanted template has no image.
    """

    def __init__(
        self, templates: Integers, media: Integers, dimensions: int, wanted: Integers | None = None
    ) -> None:
        if templates.shape != media.shape or templates.ndim != 1:
            raise PocketNetError(f"{templates.shape} templates do not belong to {media.shape} media")
        self.ids: Integers = np.unique(templates if wanted is None else wanted)
        absent = self.ids[~np.isin(self.ids, templates)]
        if len(absent):
            raise PocketNetError(f"template {absent[0]} has no image")
        pairs = np.stack([templates, media], axis=1)
        _, place, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
        self._weights = 1.0 / counts[place.reshape(-1)]
        self._rows = np.searchsorted(self.ids, templates)
        self._rows[~np.isin(templates, self.ids)] = -1
        self._sums = np.zeros((len(self.ids), dimensions))

    def needs(self) -> Integers:
        """The images that belong to the templates pooled, rising."""
        return np.flatnonzero(self._rows >= 0)

    def add(self, images: Integers, embeddings: Embeddings, scores: npt.ArrayLike) -> None:
        """Add images, each once.

        Args:
            images: B: their places among all images; all of them are needed.
            embeddings: B x D, of any length.
            scores: B: the detector's scores.

        Raises:
            PocketNetError: The shapes do not fit, or an embedding or a score is not finite.
        """
        if embeddings.shape != (len(images), self._sums.shape[1]):
            raise PocketNetError(
                f"expected embeddings of {(len(images), self._sums.shape[1])}, got {embeddings.shape}"
            )
        weighted = embeddings * (np.asarray(scores, np.float64) * self._weights[images])[:, None]
        wrong = np.flatnonzero(~np.isfinite(weighted).all(1))
        if len(wrong):
            raise PocketNetError(f"the embedding of image {images[wrong[0]]} is not finite")
        np.add.at(self._sums, self._rows[images], weighted)

    def embeddings(self) -> Embeddings:
        """The embeddings of the templates, T x D float32 of length 1, in the order of ``ids``.

        Raises:
            PocketNetError: The images of a template add up to zero, or none were added.
        """
        lengths = np.linalg.norm(self._sums, axis=1, keepdims=True)
        wrong = np.flatnonzero(lengths[:, 0] == 0)
        if len(wrong):
            raise PocketNetError(f"the images of template {self.ids[wrong[0]]} add up to nothing")
        return np.asarray(self._sums / lengths, np.float32)
