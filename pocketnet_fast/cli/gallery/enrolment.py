"""From photos to the new faces of a gallery, with what there is to say about the photos left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from pocketnet_fast.cli.gallery.named_photos import named_photos
from pocketnet_fast.cli.gallery.options import shown
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.cli.remarks import note, note_all
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.faces.several_faces import SeveralFaces
    from pocketnet_fast.faces.sources import EmbeddedFace, FaceSource
    from pocketnet_fast.gallery.gallery import Gallery
    from pocketnet_fast.gallery.people import Box, NewFaces

_SHOWN: Final = 5


@dataclass(frozen=True)
class _NewFace:
    name: str
    face: EmbeddedFace
    box: Box | None
    quality: float | None


@dataclass
class Enrolment:
    """Collects the faces of photos, and what there is to say about the others.

    Attributes:
        skip: Leave out photos that cannot be used.
        keep_duplicates: Keep photos that the gallery holds under the same name.
        min_quality: Refuse faces of a lower quality.
        new: What is added.
        left_out: Photos that are not, with the reason.
        passed_over: Files of folders that are no images that are read, with what they are.
        near: Photos that are added although another one is nearly the same.
        remarks: What to say of photos that are in the gallery already, or nearly.
    """

    skip: bool
    keep_duplicates: bool
    min_quality: float
    new: list[_NewFace] = field(default_factory=list)
    left_out: list[dict[str, str | None]] = field(default_factory=list)
    passed_over: list[tuple[Path, str]] = field(default_factory=list)
    near: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def named(self, photos: list[Path], table: Path | None, name_by: str) -> list[tuple[str, Path]]:
        """Names and files; see ``named_photos``."""

        def left_out(path: Path, error: PocketNetError) -> None:
            self._leave_out(str(path), str(error))

        return named_photos(
            photos,
            table,
            name_by,
            passed_over=self.passed_over,
            on_error=left_out if self.skip else None,
        )

    def embed(self, named: list[tuple[str, Path]], source: FaceSource, gallery: Gallery | None) -> None:
        """Embed all photos and choose those to add.

        Raises:
            PocketNetError: A photo cannot be used and ``skip`` is not set, or none can.
        """
        import numpy as np

        from pocketnet_fast.faces.several_faces import SeveralFaces
        from pocketnet_fast.gallery.duplicates import Known
        from pocketnet_fast.gallery.people import as_text

        several, used = SeveralFaces(), 0
        known = Known(gallery, source.embedder.embedding_dim)
        # Files that cannot be used are missing from what comes back; their names are passed over.
        pending = iter(named)

        def failed(error: PocketNetError) -> None:
            self._leave_out(None, str(error))

        with progress(len(named), "embedding") as advance:
            found = source.faces(
                [path for _, path in named], on_photo=advance, on_error=failed if self.skip else None
            )
            good = self._good(found, pending, several)
            while batch := list(islice(good, source.embedder.batch_size)):
                used += len(batch)
                names, rows = [one.name for one in batch], np.stack([one.face.embedding for one in batch])
                photos = [as_text(one.face.path) for one in batch]
                for one, like in zip(batch, known.likenesses(names, rows, photos), strict=True):
                    if like is None or self._is_new(one, like.name, like.photo, like.cosine):
                        self.new.append(one)
        note_all(several.remarks())
        self._say()
        if used == 0:
            raise PocketNetError("none of the photos could be used; nothing was written")

    def _good(
        self, found: Iterable[EmbeddedFace], pending: Iterable[tuple[str, Path]], several: SeveralFaces
    ) -> Iterable[_NewFace]:
        for face in found:
            name = next(name for name, path in pending if str(path) == face.path)
            chosen = face.faces[0] if face.faces else None
            quality = chosen.quality if chosen is not None else None
            if quality is not None and quality < self.min_quality:
                reason = (
                    f"{face.path}: the quality of its face is {quality:.3f}, below {self.min_quality:g}; "
                    "--min-quality chooses another limit"
                )
                if not self.skip:
                    raise PocketNetError(reason)
                self._leave_out(face.path, reason)
                continue
            several.add(face)
            yield _NewFace(name, face, chosen.box if chosen is not None else None, quality)

    def _is_new(self, one: _NewFace, name: str, photo: str, cosine: float) -> bool:
        from pocketnet_fast.gallery.duplicates import SAME

        path = one.face.path
        if cosine >= SAME and name == one.name and not self.keep_duplicates:
            self.remarks.append(f"left out {path}: the gallery holds it as {shown(name)} ({photo})")
            self.left_out.append({"file": path, "reason": f"the gallery holds it as {name} ({photo})"})
            return False
        if cosine >= SAME and name != one.name:
            self.remarks.append(
                f"{path} is named {shown(one.name)}, and the same photo is {shown(name)} ({photo})"
            )
        elif cosine < SAME:
            self.remarks.append(
                f"{path}, named {shown(one.name)}, is nearly the photo {photo} of {shown(name)}: cosine "
                f"{cosine:.4f}"
            )
        self.near.append({"file": path, "name": one.name, "like": photo, "like_name": name, "cosine": cosine})
        return True

    def new_faces(self) -> NewFaces:
        """What is added, checked."""
        import numpy as np

        from pocketnet_fast.gallery.people import as_text, new_faces
        from pocketnet_fast.gallery.space import unit_rows

        rows = np.stack([one.face.embedding for one in self.new])
        return new_faces(
            [one.name for one in self.new],
            unit_rows(rows, rows.shape[1], [one.face.path for one in self.new]),
            [as_text(one.face.path) for one in self.new],
            [one.box for one in self.new],
            [one.quality for one in self.new],
        )

    def add_to(self, gallery: Gallery) -> None:
        """Add all to a gallery in one step."""
        if not self.new:
            return
        new = self.new_faces()
        gallery.add(new.people, new.embeddings, photos=new.photos, boxes=new.boxes, qualities=new.qualities)

    def report(self, gallery: Gallery, as_json: bool) -> None:
        """Say what was added."""
        stats = gallery.stats()
        if not as_json:
            typer.echo(f"{gallery.path}: added {len(self.new):,} faces; it holds {stats.faces:,}")
            return
        about = {"gallery": str(gallery.path), "people": stats.people, "faces": stats.faces}
        about |= asdict(gallery.space) | {"added": len(self.new), "left_out": self.left_out}
        passed = [{"file": str(path), "is": kind} for path, kind in self.passed_over]
        print_json(about | {"passed_over": passed, "near_duplicates": self.near})

    def _leave_out(self, path: str | None, reason: str) -> None:
        note(f"left out: {reason}")
        self.left_out.append({"file": path, "reason": reason})

    def _say(self) -> None:
        note_all(self.remarks[:_SHOWN])
        if len(self.remarks) > _SHOWN:
            note(f"and {len(self.remarks) - _SHOWN:,} more photos that are in the gallery already, or nearly")
        if self.skip and self.left_out:
            note(f"{len(self.left_out):,} photos were left out")
