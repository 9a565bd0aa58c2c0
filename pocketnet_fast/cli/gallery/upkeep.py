"""``pocketnet gallery compact``, ``stats`` and ``check``."""

from __future__ import annotations

from dataclasses import asdict

import typer

from pocketnet_fast.cli.gallery.options import Where, day
from pocketnet_fast.cli.options import JsonOption
from pocketnet_fast.cli.output import print_json, print_result
from pocketnet_fast.cli.progress import progress, waiting
from pocketnet_fast.cli.remarks import note


def compact(where: Where, *, as_json: JsonOption = False) -> None:
    """Erase from the disk what was deleted, and return its space.

    Deleted embeddings and names are then in none of the gallery's files. Copies of the files, and what a file
    system or a disk keeps of older content, are beyond its reach. A gallery on Milvus is not compacted here:
    Milvus does that by itself.

    Example: [bold]pocketnet gallery compact people.gallery[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery

    gallery = Gallery(where)
    before = gallery.stats().bytes or 0
    with waiting("compacting"):
        gallery.compact()
    after = gallery.stats().bytes or 0
    print_result(
        {"gallery": str(where), "bytes_before": before, "bytes": after},
        f"{where}: {after:,} bytes, {before - after:,} fewer",
        as_json,
    )


def stats(where: Where, *, as_json: JsonOption = False) -> None:
    """Say what a gallery holds.

    Example: [bold]pocketnet gallery stats people.gallery[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery

    gallery = Gallery(where)
    numbers, space = gallery.stats(), gallery.space
    if as_json:
        about = {"gallery": str(where), "name_by": gallery.name_by} | asdict(space)
        print_json(about | asdict(numbers))
        return
    typer.echo(
        f"{where}: {numbers.people:,} people, {numbers.faces:,} faces, at most {numbers.most_faces:,} of "
        f"one; {numbers.people_without_faces:,} people without a face"
    )
    typer.echo(
        f"embeddings: {space.dimensions} dimensions of {space.model}, mirror image added: {space.flip}"
    )
    typer.echo(f"weights: SHA-256 {space.weights_sha256}")
    if numbers.first_added is not None and numbers.last_added is not None:
        typer.echo(f"added: {day(numbers.first_added)} to {day(numbers.last_added)}, UTC")
    if numbers.bytes is not None:
        typer.echo(
            f"files: {numbers.bytes:,} bytes, {numbers.free_bytes:,} of them free, journal "
            f"{numbers.journal_bytes:,}, cache {numbers.cache_bytes:,}"
        )


def check(where: Where, *, as_json: JsonOption = False) -> None:
    """Read everything and see that it is whole: tables, embeddings, texts, changes, and the cache.

    A damaged cache is removed and made again when it is needed. On Milvus, what writers left that were killed
    is named, and what mends it.

    Example: [bold]pocketnet gallery check people.gallery[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery

    gallery = Gallery(where)
    with progress(gallery.stats().faces, "checking") as advance:
        found = gallery.check(advance)
    if found.cache not in ("whole", "absent"):
        note(f"{where}-vectors, the cache, was damaged ({found.cache}) and has been removed")
    print_result(
        {"gallery": str(where)} | asdict(found),
        f"{where}: {found.people:,} people and {found.faces:,} faces are whole",
        as_json,
    )


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (compact, stats, check):
        app.command(command.__name__)(command)
