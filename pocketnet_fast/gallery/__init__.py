"""People with names and faces in one file or on Milvus, and who a face looks most like.

The names below are loaded on first use.
"""

from typing import TYPE_CHECKING

from pocketnet_fast.lazy import lazy_names

if TYPE_CHECKING:
    from pocketnet_fast.gallery.checking import Checked as Checked
    from pocketnet_fast.gallery.checking import Stats as Stats
    from pocketnet_fast.gallery.gallery import Gallery as Gallery
    from pocketnet_fast.gallery.people import FaceEntry as FaceEntry
    from pocketnet_fast.gallery.people import Person as Person
    from pocketnet_fast.gallery.search import Claim as Claim
    from pocketnet_fast.gallery.search import Match as Match
    from pocketnet_fast.gallery.space import EmbeddingSpace as EmbeddingSpace

_NAMES = {
    "pocketnet_fast.gallery.checking": ("Checked", "Stats"),
    "pocketnet_fast.gallery.gallery": ("Gallery",),
    "pocketnet_fast.gallery.people": ("FaceEntry", "Person"),
    "pocketnet_fast.gallery.search": ("Claim", "Match"),
    "pocketnet_fast.gallery.space": ("EmbeddingSpace",),
}

__all__ = ["Checked", "Claim", "EmbeddingSpace", "FaceEntry", "Gallery", "Match", "Person", "Stats"]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
