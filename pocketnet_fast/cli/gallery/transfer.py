"""``pocketnet gallery export``, ``import`` and ``migrate``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pocketnet_fast.cli.gallery.options import PLACE, Where
from pocketnet_fast.cli.options import JsonOption
from pocketnet_fast.cli.output import print_result
from pocketnet_fast.cli.progress import waiting

_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the gallery that is there.")]


def export(
    where: Where,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An .npz, .csv or .parquet (extra parquet).")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Write people, faces and embeddings to a file that other programs read, and `import`.

    Example: [bold]pocketnet gallery export people.gallery people.npz[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery
    from pocketnet_fast.gallery.transfer import check_format, export_gallery

    check_format(file)
    with waiting("exporting"):
        faces = export_gallery(Gallery(where), file)
    print_result(
        {"gallery": str(where), "file": str(file), "faces": faces}, f"{file}: {faces:,} faces", as_json
    )


def import_file(
    where: Where,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `gallery export` wrote.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Add what was exported to a gallery: all of it, or after an error nothing.

    A gallery that is missing is made. People of one name become one person. Embeddings of another space are
    refused.

    Example: [bold]pocketnet gallery import people.gallery people.npz[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery
    from pocketnet_fast.gallery.transfer import import_into, import_table

    table = import_table(file)
    with waiting("importing"):
        if Gallery.exists(where):
            gallery = Gallery(where)
            gallery.space.require_same(table.space, where)
            with gallery.adding() as writer:
                import_into(writer, table)
        else:
            gallery = Gallery.create(where, table.space, fill=lambda writer: import_into(writer, table))
    stats = gallery.stats()
    about = {"gallery": str(where), "people": stats.people, "faces": stats.faces}
    print_result(
        about | {"added": len(table.name)},
        f"{where}: added {len(table.name):,} faces; it holds {stats.faces:,}",
        as_json,
    )


def migrate(
    folder: Annotated[Path, typer.Argument(metavar="OLD", help="A gallery of earlier versions, a folder.")],
    where: Annotated[str, typer.Argument(metavar="NEW", help=PLACE)],
    *,
    overwrite: _Overwrite = False,
    as_json: JsonOption = False,
) -> None:
    """Make a gallery of one of the earlier format, a folder, which stays; then compare the two.

    Counts, names, photos and every bit of the embeddings have to be equal. Rows of one name become one
    person.

    Example: [bold]pocketnet gallery migrate gallery/ people.gallery[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery
    from pocketnet_fast.gallery.migration import migrate as migrate_folder

    Gallery.require_free(where, overwrite)
    with waiting("migrating"):
        gallery = migrate_folder(folder, where, overwrite=overwrite)
    stats = gallery.stats()
    about = {"gallery": str(where), "from": str(folder), "people": stats.people, "faces": stats.faces}
    print_result(
        about | asdict(gallery.space),
        f"{where}: {stats.people:,} people with {stats.faces:,} faces, equal to {folder}",
        as_json,
    )


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("export")(export)
    app.command("import")(import_file)
    app.command("migrate")(migrate)
