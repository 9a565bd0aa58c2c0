"""Photos that show several faces, of which one was taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pocketnet_fast.faces.sources import EmbeddedFace

# Photos that are named; the others are counted.
_NAMED: Final = 5


@dataclass
class SeveralFaces:
    """Remembers the photos with several faces, of which one was taken.

    Attributes:
        shown: The first of them with their numbers of faces.
        count: How many there are.
    """

    shown: list[tuple[str, int]] = field(default_factory=list)
    count: int = 0

    def add(self, face: EmbeddedFace) -> None:
        """Take note of a photo."""
        if len(face.faces) > 1:
            self.join(SeveralFaces([(face.path, len(face.faces))], 1))

    def join(self, others: SeveralFaces) -> None:
        """Take note of photos that others took note of."""
        self.shown = [*self.shown, *others.shown][:_NAMED]
        self.count += others.count

    def remarks(self) -> Iterator[str]:
        """Name the first photos and count the rest."""
        for path, count in self.shown:
            yield f"{path} shows {count} faces; the most prominent was taken"
        if self.count > len(self.shown):
            yield f"so do {self.count - len(self.shown):,} more photos"
