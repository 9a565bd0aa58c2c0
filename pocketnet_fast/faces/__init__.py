"""From a photo to faces with embeddings.

The names below are loaded on first use.
"""

from typing import TYPE_CHECKING

from pocketnet_fast.lazy import lazy_names

if TYPE_CHECKING:
    from pocketnet_fast.faces.analyzer import FaceAnalyzer as FaceAnalyzer
    from pocketnet_fast.faces.detector import FaceDetector as FaceDetector
    from pocketnet_fast.faces.detector import select_face as select_face
    from pocketnet_fast.faces.face import Face as Face

_NAMES = {
    "pocketnet_fast.faces.analyzer": ("FaceAnalyzer",),
    "pocketnet_fast.faces.detector": ("FaceDetector", "select_face"),
    "pocketnet_fast.faces.face": ("Face",),
}

__all__ = ["Face", "FaceAnalyzer", "FaceDetector", "select_face"]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
