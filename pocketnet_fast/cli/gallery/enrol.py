"""``pocketnet gallery build`` and ``add``: from photos to faces with names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from pocketnet_fast.cli.gallery.enrolment import Enrolment
from pocketnet_fast.cli.gallery.options import PLACE, ManyGalleryFaces, Where, matching_source, space_of
from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import JsonOption, SkipOption

# Below it faces are decided wrongly most often: docs/models/quality.md.
_MIN_QUALITY: Final = 0.05

_Photos = Annotated[
    list[Path] | None,
    typer.Argument(metavar="PHOTOS", help="Photos, and folders whose photos are all taken."),
]


@dataclass(frozen=True)
class _Enrolled:
    """Which photos are enrolled, under which names."""

    table: Annotated[
        Path | None,
        typer.Option("--csv", help="Take photos and names from this file with the columns file and name."),
    ] = None
    name_by: Annotated[
        str | None,
        typer.Option(
            "--name-by",
            help="Name a photo by its file, or by the folder that it lies in. Default: file; where photos "
            "are added, as the gallery was built.",
            show_default=False,
        ),
    ] = None
    min_quality: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Refuse faces of a lower quality; 0 takes all. Crops have none."),
    ] = _MIN_QUALITY
    skip: SkipOption = False
    duplicates: Annotated[
        bool,
        typer.Option(
            "--duplicates", help="Keep photos whose embedding the gallery holds under the same name."
        ),
    ] = False

    def enrolment(self) -> Enrolment:
        """What collects them."""
        return Enrolment(self.skip, self.duplicates, self.min_quality)


@grouped
def build(
    photos: _Photos = None,
    *,
    output: Annotated[str, typer.Option("--output", "-o", help=PLACE)],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the gallery that is there.")
    ] = False,
    enrolled: _Enrolled,
    faces: ManyGalleryFaces,
    as_json: JsonOption = False,
) -> None:
    """Make a gallery of the most prominent face of each photo.

    Photos of one name are photos of one person. The gallery appears when all photos are done. It keeps the
    model's name, the hash of its weights and whether mirror images were added, and takes no embeddings or
    queries made in another way.

    Example: [bold]pocketnet gallery build people/ --name-by folder -o people.gallery[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery

    Gallery.require_free(output, overwrite)
    name_by = enrolled.name_by or "file"
    enrolment = enrolled.enrolment()
    named = enrolment.named(photos or [], enrolled.table, name_by)
    source = faces.source()
    enrolment.embed(named, source, None)
    new = enrolment.new_faces()
    gallery = Gallery.create(
        output,
        space_of(source.embedder),
        name_by="" if enrolled.table is not None else name_by,
        overwrite=overwrite,
        fill=lambda writer: writer.insert_faces(new),
    )
    enrolment.report(gallery, as_json)


@grouped
def add(
    where: Where,
    photos: _Photos = None,
    *,
    enrolled: _Enrolled,
    faces: ManyGalleryFaces,
    as_json: JsonOption = False,
) -> None:
    """Add photos to a gallery: all of them, or after an error or a kill none.

    Example: [bold]pocketnet gallery add people.gallery new/*.jpg[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery

    gallery = Gallery(where)
    enrolment = enrolled.enrolment()
    named = enrolment.named(photos or [], enrolled.table, enrolled.name_by or gallery.name_by or "file")
    source = matching_source(faces, gallery, where)
    enrolment.embed(named, source, gallery)
    enrolment.add_to(gallery)
    enrolment.report(gallery, as_json)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("build")(build)
    app.command("add")(add)
