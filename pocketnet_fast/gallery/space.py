"""Which embeddings may be compared, and what an embedding has to be like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError

Embeddings = npt.NDArray[np.float32]

MAX_DIMENSIONS: Final = 65536
"""As the schema of a gallery's file bounds them."""

# How far from 1 the length of an embedding may be that a gallery holds.
_LENGTH_TOLERANCE: Final = 1e-4
# float32 rounding of a row's length is below this; such a row is kept bit for bit.
_UNIT: Final = 1e-6


@dataclass(frozen=True)
class EmbeddingSpace:
    """Which embeddings may be compared: those of one model with one set of weights, made in one way.

    Attributes:
        model: The architecture's name.
        weights_sha256: Hash of the weights, ``models.weights.weights_sha256``.
        flip: Whether the embedding of the mirror image was added.
        dimensions: Length of an embedding.
    """

    model: str
    weights_sha256: str
    flip: bool
    dimensions: int

    def require_same(self, other: EmbeddingSpace, where: object) -> None:
        """Refuse embeddings of another space.

        Raises:
            PocketNetError: Says what differs: model, dimensions, weights or flip.
        """
        if self == other:
            return
        if self.model != other.model:
            found = f"of {self.model}, not of {other.model}"
        elif self.dimensions != other.dimensions:
            found = f"of {self.dimensions} dimensions, not {other.dimensions}"
        elif self.weights_sha256 != other.weights_sha256:
            mine, others = self.weights_sha256[:12], other.weights_sha256[:12]
            found = f"of {self.model} with the weights {mine}, not {others}"
        else:
            found = f"made {_flipped(self.flip)}, not {_flipped(other.flip)}"
        raise PocketNetError(f"{where}: its embeddings are {found}; the two cannot be compared")


def stated_space(content: object, where: object) -> EmbeddingSpace:
    """The space that a file states, as ``dataclasses.asdict`` gives it.

    Args:
        content: What was read from JSON.
        where: How messages call it.

    Raises:
        PocketNetError: It is none.
    """
    kinds = {"model": str, "weights_sha256": str, "flip": bool, "dimensions": int}
    if isinstance(content, dict) and content.keys() == kinds.keys():
        typed = all(type(content[key]) is kind for key, kind in kinds.items())
        printable = typed and (content["model"] + content["weights_sha256"]).isprintable()
        if printable and 1 <= content["dimensions"] <= MAX_DIMENSIONS:
            return EmbeddingSpace(**content)
    raise PocketNetError(
        f"{where} is no space of embeddings; expected model and weights_sha256 (text), flip (true or false) "
        f"and dimensions (1 to {MAX_DIMENSIONS})"
    )


def unit_rows(
    embeddings: npt.ArrayLike, dimensions: int, labels: Sequence[object] | None = None
) -> Embeddings:
    """Scale embeddings to length 1; those that have it up to rounding are kept bit for bit.

    Args:
        embeddings: N x D.
        dimensions: D.
        labels: How errors call the rows; None for their numbers.

    Returns:
        N x D float32.

    Raises:
        PocketNetError: Another shape, or a row that is not finite or is zero.
    """
    rows = np.asarray(embeddings, np.float32)
    if rows.ndim != 2 or rows.shape[1] != dimensions:
        raise PocketNetError(f"expected embeddings N x {dimensions}, got {rows.shape}")
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))[:, None]
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        row = int(wrong[0])
        label = labels[row] if labels is not None and row < len(labels) else f"row {row}"
        raise PocketNetError(f"the embedding of {label} is not finite, or zero")
    return np.asarray(rows / np.where(np.abs(lengths - 1) <= _UNIT, 1, lengths), np.float32)


def rows_of_other_length(rows: Embeddings) -> npt.NDArray[np.int64]:
    """The rows of N x D that no gallery may hold, as their length is not 1, or not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(np.linalg.norm(rows, axis=1) - 1)
    return np.flatnonzero(~(off <= _LENGTH_TOLERANCE))


def _flipped(flip: bool) -> str:
    return "with the mirror image (--flip)" if flip else "without the mirror image (--no-flip)"
