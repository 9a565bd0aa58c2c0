"""Embedding part of many images: the same in this process, in one of several, and on a worker of Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.faces.several_faces import SeveralFaces

if TYPE_CHECKING:
    from pocketnet_fast.data.stored_images import AnyImage
    from pocketnet_fast.faces.sources import EmbeddedFace, FaceSource

# What may differ among parts of one result: how they were computed, and what became of their images.
_OF_ONE_PART: Final = ("engine", "part", "images", "images_sha256", "left_out", "several")


class SourceSettings(Protocol):
    """What builds a ``FaceSource`` here or, pickled, in another process, and says how it was built."""

    @property
    def threads(self) -> int | None:
        """Threads of a call; None for torch's number."""
        ...

    def source(self) -> FaceSource:
        """Build what faces are taken from."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a file of embeddings says of it beside the network's name and weights."""
        ...


@dataclass(frozen=True)
class Job:
    """How images are embedded.

    Attributes:
        settings: What embeds them.
        every_face: Whether every face of a photo that can be recognised is embedded.
        skip: Leave out images that cannot be used.
    """

    settings: SourceSettings
    every_face: bool
    skip: bool

    def about(self, source: FaceSource) -> dict[str, Any]:
        """What a file of embeddings says of how they were made."""
        embedder = source.embedder
        about: dict[str, Any] = {"model": embedder.model_name, "weights_sha256": embedder.weights_sha256}
        about |= {"dimensions": embedder.embedding_dim, "engine": embedder.engine}
        return about | self.settings.facts() | {"all_faces": self.every_face}


@dataclass
class Embedded:
    """The faces of some images, and what there is to say about the others.

    Attributes:
        faces: In the order of the images.
        left_out: What is wrong with the images that could not be used.
        several: The photos with several faces, of which one was taken.
    """

    faces: list[EmbeddedFace] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    several: SeveralFaces = field(default_factory=SeveralFaces)


def embed_images(
    job: Job,
    source: FaceSource,
    images: Sequence[AnyImage],
    *,
    on_image: Callable[[], None] = lambda: None,
    on_left_out: Callable[[str], None] = lambda reason: None,
) -> Embedded:
    """Embed images.

    Args:
        job: How.
        source: What the job's settings built.
        images: Which.
        on_image: Called after each, for progress.
        on_left_out: Called with what is wrong with an image that cannot be used.

    Raises:
        PocketNetError: One cannot be used and ``job.skip`` is not set.
    """
    found = Embedded()

    def left_out(error: PocketNetError) -> None:
        found.left_out.append(str(error))
        on_left_out(str(error))

    for face in source.faces(
        images, every_face=job.every_face, on_photo=on_image, on_error=left_out if job.skip else None
    ):
        found.faces.append(face)
        if not job.every_face:
            found.several.add(face)
    return found


def about_part(
    about: dict[str, Any], images: Sequence[AnyImage], number: int, parts: int, found: Embedded
) -> dict[str, Any]:
    """What the file of a part says; see ``Job.about``."""
    from pocketnet_fast.faces.parquet_part import images_sha256

    return about | {
        "part": [number, parts],
        "images": len(images),
        "images_sha256": images_sha256(images),
        "left_out": found.left_out,
        "several": asdict(found.several),
    }


def require_same(
    path: Path,
    found: dict[str, Any],
    about: dict[str, Any],
    images: Sequence[AnyImage],
    number: int,
    parts: int,
) -> None:
    """Refuse a part that was made otherwise, or of other images.

    Raises:
        PocketNetError: Says what differs.
    """
    from pocketnet_fast.faces.parquet_part import images_sha256

    for key, value in about.items():
        if key not in _OF_ONE_PART and found.get(key) != value:
            raise PocketNetError(
                f"{path}: was made with {key} {found.get(key)!r}, not {value!r}; remove it, or choose "
                "another folder"
            )
    expected = {"part": [number, parts], "images": len(images), "images_sha256": images_sha256(images)}
    if any(found.get(key) != value for key, value in expected.items()):
        raise PocketNetError(
            f"{path}: is of other images than are given; remove it, or choose another folder"
        )
