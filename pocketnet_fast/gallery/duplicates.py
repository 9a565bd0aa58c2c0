"""Photos that a gallery holds already, or nearly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pocketnet_fast.gallery.gallery import Gallery

Embeddings = npt.NDArray[np.float32]

SAME: Final = 0.99999
"""Cosine from which two embeddings are of one photo; rounding is below 1e-6."""

NEAR: Final = 0.98
"""Cosine from which two photos are nearly one: the same one, scaled or compressed again."""


@dataclass(frozen=True)
class Likeness:
    """The face most like a new one, among those of the gallery and those that were new before it.

    Attributes:
        name: Whose it is.
        photo: Where it comes from.
        cosine: How like they are, at least ``NEAR``.
    """

    name: str
    photo: str
    cosine: float


class Known:
    """Remembers new faces, and finds those that are known already.

    Args:
        gallery: What they are added to; None for a new one.
        dimensions: The dimensions of an embedding.
    """

    def __init__(self, gallery: Gallery | None, dimensions: int) -> None:
        self._gallery = gallery
        self._rows = np.zeros((0, dimensions), np.float32)
        self._about: list[tuple[str, str]] = []

    def likenesses(self, names: list[str], rows: Embeddings, photos: list[str]) -> list[Likeness | None]:
        """For each new face the most similar known one, of the same name if there is one; then remember it.

        Args:
            names: N.
            rows: N x D of length 1.
            photos: N.
        """
        from pocketnet_fast.gallery.scoring import top_matches

        found: list[list[Likeness]] = [[] for _ in names]
        if self._gallery is not None and len(self._gallery):
            for place, matches in enumerate(self._gallery.search(rows, top=3, threshold=NEAR, by="face")):
                found[place] += [Likeness(match.name, match.photo, match.score) for match in matches]
        before = len(self._about)
        self._remember(names, rows, photos)
        if before:
            scores, places = top_matches(rows, self._rows[:before], 3)
            for place, (of_row, others) in enumerate(zip(scores.tolist(), places.tolist(), strict=True)):
                found[place] += [
                    self._likeness(o, s) for s, o in zip(of_row, others, strict=True) if s >= NEAR
                ]
        among = rows @ rows.T
        for place in range(len(names)):
            earlier = np.flatnonzero(among[place, :place] >= NEAR)
            found[place] += [self._likeness(before + int(o), float(among[place, o])) for o in earlier]
        return [
            max(like, key=lambda one: (one.cosine >= SAME, one.name == name, one.cosine), default=None)
            for name, like in zip(names, found, strict=True)
        ]

    def _likeness(self, row: int, cosine: float) -> Likeness:
        name, photo = self._about[row]
        return Likeness(name, photo, min(cosine, 1.0))

    def _remember(self, names: list[str], rows: Embeddings, photos: list[str]) -> None:
        end = len(self._about) + len(names)
        if end > len(self._rows):
            grown = np.zeros((max(2 * len(self._rows), end), self._rows.shape[1]), np.float32)
            grown[: len(self._about)] = self._rows[: len(self._about)]
            self._rows = grown
        self._rows[len(self._about) : end] = rows
        self._about += zip(names, photos, strict=True)
