"""Many embeddings on disk, and the best matches among them.

The names below are loaded on first use.
"""

from typing import TYPE_CHECKING

from pocketnet_fast.lazy import lazy_names

if TYPE_CHECKING:
    from pocketnet_fast.gallery.manifest import EmbeddingSpace as EmbeddingSpace
    from pocketnet_fast.gallery.store import Gallery as Gallery
    from pocketnet_fast.gallery.store import Match as Match

_NAMES = {
    "EmbeddingSpace": "pocketnet_fast.gallery.manifest",
    "Gallery": "pocketnet_fast.gallery.store",
    "Match": "pocketnet_fast.gallery.store",
}

__all__ = [
    "EmbeddingSpace",
    "Gallery",
    "Match",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
