"""Faces of files, embedded under a progress bar: the loop that commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pocketnet_fast.cli.progress import progress
from pocketnet_fast.cli.remarks import note_all, note_left_out

if TYPE_CHECKING:
    from pocketnet_fast.errors import PocketNetError
    from pocketnet_fast.faces.sources import EmbeddedFace, FaceSource


def embedded_faces(
    source: FaceSource, files: Sequence[Path], *, skip: bool = False
) -> Iterator[EmbeddedFace]:
    """Yield the most prominent face of each file; in the end, remark on photos that show several.

    Args:
        source: What embeds them.
        files: Photos, or aligned crops.
        skip: Name and leave out those that cannot be used.

    Raises:
        PocketNetError: One cannot be used and ``skip`` is not set.
    """
    from pocketnet_fast.faces.several_faces import SeveralFaces

    several = SeveralFaces()
    on_error: Callable[[PocketNetError], None] | None = note_left_out if skip else None
    with progress(len(files), "embedding") as advance:
        for face in source.faces(files, on_photo=advance, on_error=on_error):
            several.add(face)
            yield face
    note_all(several.remarks())
