"""Approximate search with faiss: an inverted file over a gallery's embeddings (arXiv 1702.08734).

Exact search reads every embedding; the index divides them into lists around centroids and reads the lists
whose centroids are nearest to the query. It is worth it for many millions of rows, or for many queries.
"""

from __future__ import annotations

import math
import secrets
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.gallery.manifest import Index
from pocketnet_fast.gallery.scoring import top_matches
from pocketnet_fast.gallery.store import Gallery, Match, file_crc, unit_rows

_RECALL_QUERIES: Final = 256
_RECALL_AT: Final = 10
# Rows per list that k-means learns from; faiss warns below 39.
_TRAINING_ROWS: Final = 64
# A query is another photo of somebody: its cosine to the photo in the gallery is about 0.7.
_QUERY_COSINE: Final = 0.7


def build_index(gallery: Gallery, *, probes: int = 16, lists: int | None = None, seed: int = 0) -> Index:
    """Build a gallery's index, measure its recall and record it in the gallery.

    Recall is measured on 256 of the gallery's rows, turned in a random direction to a cosine of 0.7.

    Args:
        gallery: What to index.
        probes: How many lists a search reads.
        lists: Number of lists; None for about four times the root of the number of rows.
        seed: Of the training rows and of the queries that recall is measured with.

    Raises:
        PocketNetError: faiss is not installed, the gallery is empty, a number is out of range, or the index
            cannot be written.
    """
    faiss = _faiss()
    rows = len(gallery)
    if rows == 0:
        raise PocketNetError(f"{gallery.path} is empty; there is nothing to index")
    most = max(rows // _TRAINING_ROWS, 1)
    if lists is None:
        lists = min(round(4 * math.sqrt(rows)), most)
    if not 1 <= lists <= most or probes < 1:
        raise PocketNetError(
            f"{lists} lists and {probes} probes: {rows} rows allow 1 to {most} lists, and probes are positive"
        )
    probes = min(probes, lists)
    rng = np.random.default_rng(seed)
    quantizer = faiss.IndexFlatIP(gallery.space.dimensions)
    index = faiss.IndexIVFFlat(quantizer, gallery.space.dimensions, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = seed + 1
    chosen = np.sort(rng.permutation(rows)[: lists * _TRAINING_ROWS])
    index.train(np.ascontiguousarray(gallery.embeddings[chosen]))
    step = 1 << 16
    for first in range(0, rows, step):
        index.add(np.ascontiguousarray(gallery.embeddings[first : first + step]))
    index.nprobe = probes

    queries = _other_photos(gallery.embeddings[np.sort(rng.permutation(rows)[:_RECALL_QUERIES])], rng)
    top = min(_RECALL_AT, rows)
    exact = top_matches(queries, gallery.embeddings, top)[1]
    found = index.search(queries, top)[1]
    recall = np.mean([len(np.intersect1d(a, b)) / top for a, b in zip(exact, found, strict=True)])

    data = faiss.serialize_index(index)
    about = Index(f"index-{secrets.token_hex(4)}.faiss", rows, lists, probes, float(recall), zlib.crc32(data))
    with atomic_write(gallery.path / about.file) as file:
        file.write(data.data)
    gallery.set_index(about)
    return about


class IndexedSearch:
    """A gallery's index, loaded.

    Args:
        gallery: A gallery with an index of all its rows.
        probes: How many lists a search reads; None for the number the recall was measured with.

    Raises:
        PocketNetError: faiss is not installed, or the index is absent, damaged or older than the last rows.
    """

    def __init__(self, gallery: Gallery, *, probes: int | None = None) -> None:
        faiss = _faiss()
        about = gallery.index
        if about is None:
            raise PocketNetError(f"{gallery.path} has no index; `pocketnet gallery index` builds one")
        if about.rows != len(gallery):
            raise PocketNetError(
                f"{gallery.path}: the index holds {about.rows} of {len(gallery)} rows; build it again"
            )
        path = gallery.path / about.file
        if not path.is_file():
            raise PocketNetError(f"{path}: missing; the gallery's manifest names it")
        if file_crc(path, path.stat().st_size) != about.crc32:
            raise PocketNetError(f"{path}: damaged: its checksum does not match")
        self._gallery = gallery
        self._index: Any = faiss.read_index(str(path))
        self._index.nprobe = about.probes if probes is None else probes

    def search(
        self, queries: npt.ArrayLike, *, top: int = 5, threshold: float | None = None
    ) -> list[list[Match]]:
        """Find rows similar to each query; see ``Gallery.search``, of whose matches some may be missed."""
        if top < 1:
            raise PocketNetError(f"the number of matches must be positive, got {top}")
        unit = unit_rows(queries, self._gallery.space.dimensions)
        scores, rows = self._index.search(unit, min(top, len(self._gallery)))
        return self._gallery.named(scores, rows, threshold)


def _other_photos(embeddings: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    noise = rng.standard_normal(embeddings.shape)
    noise -= embeddings * (noise * embeddings).sum(1, keepdims=True)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    turned = _QUERY_COSINE * embeddings + math.sqrt(1 - _QUERY_COSINE**2) * noise
    return np.ascontiguousarray(turned, np.float32)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise PocketNetError(
            'faiss is not installed; install it with pip install "pocketnet_fast[faiss]"'
        ) from None
    return faiss
