"""Every image body that is refused, and how: for whatever takes images from strangers.

``bodies()`` has the files that are damaged or of another kind (``image_files.refused``) and those that are
made to cost memory or time (``hostile_files.hostile``). Each must be refused with its own code, quickly, and
leave the program that was sent it alive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from hostile_files import hostile
from image_files import refused

Code = Literal["unread", "damaged", "pixels", "bytes"]
"""``unread``: of a kind that is not read; ``damaged``; ``pixels``, ``bytes``: more than the limits allow."""

# Words of the sentences of damaged files; those of all others say what they are instead.
_OF_DAMAGE: Final = ("truncated", "is damaged", "fails its checksum", "makes no sense", "112x0 pixels")

_HUGE: Final = {
    "png huge", "png of the most", "png beyond the most", "png one row", "png 16 bit interlaced", "jpeg huge",
    "jpeg progressive huge", "webp huge", "webp lossless huge", "avif huge", "avif of the most",
}  # fmt: skip

_OF_OTHER_KINDS: Final = {
    "gif huge", "gif frames", "jpeg 2000 huge", "heic huge", "heic boxes in boxes", "bmp large run lengths",
    "svg entities", "webp frames", "png frames", "zip bomb", "gzip bomb", "zip named png",
}  # fmt: skip


@dataclass(frozen=True)
class Body:
    """An image body that is refused.

    Attributes:
        name: Of the case.
        data: The file.
        code: How it is refused where the limits are the default ones.
        words: Of the sentence that says why, if it matters which of that code it is.
    """

    name: str
    data: bytes
    code: Code
    words: str = ""


def bodies() -> Iterator[Body]:
    """Every body that is refused; names are unique."""
    for name, data, words in refused():
        yield Body(name, data, "damaged" if words.startswith(_OF_DAMAGE) else "unread", words)
    for name, data in hostile().items():
        code: Code = "pixels" if name in _HUGE else "unread" if name in _OF_OTHER_KINDS else "damaged"
        yield Body(name, data, code)


def code_of(sentence: str) -> Code:
    """Which refusal a sentence of ``decode_image`` states, in Python or in C++."""
    signs: tuple[tuple[str, Code], ...] = (
        ("pixels; at most ", "pixels"),
        ("bytes; at most ", "bytes"),
        ("is damaged: ", "damaged"),
    )
    return next((code for words, code in signs if words in sentence), "unread")
