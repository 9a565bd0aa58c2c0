"""``pocketnet gallery list``, ``show``, ``rename``, ``merge``, ``move`` and ``delete``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pocketnet_fast.cli.gallery.options import Where, Who, day, face_fields, on_one_line, person_key, shown
from pocketnet_fast.cli.options import JsonOption
from pocketnet_fast.cli.output import print_json, print_result
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.errors import PocketNetError


def list_people(
    where: Where,
    *,
    limit: Annotated[int | None, typer.Option(min=1, help="People at most; default: all.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only people with a larger id.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """List the people of a gallery: id, number of faces, name.

    Example: [bold]pocketnet gallery list people.gallery --limit 20[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery

    people = Gallery(where).people(after=after, limit=limit)
    if as_json:
        print_json({"gallery": str(where), "people": [asdict(person) for person in people]})
        return
    for person in people:
        typer.echo(f"id:{person.id:<8} {person.faces:>5}  {shown(person.name)}")


def show(where: Where, who: Who, *, as_json: JsonOption = False) -> None:
    """Show what a gallery knows of a person: notes and faces, with the ids that move and delete take.

    Example: [bold]pocketnet gallery show people.gallery "Ann Lee"[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery

    with Gallery(where).snapshot() as gallery:
        person = gallery.person(person_key(who))
        faces = gallery.faces(person.id)
    if as_json:
        print_json(
            {"gallery": str(where)} | asdict(person) | {"faces": [face_fields(face) for face in faces]}
        )
        return
    typer.echo(f"id:{person.id}  {shown(person.name)}" + (f"  {shown(person.notes)}" if person.notes else ""))
    for face in faces:
        quality = "" if face.quality is None else f"  quality {face.quality:.2f}"
        typer.echo(f"  face {face.id}  {day(face.added)}{quality}  {on_one_line(face.photo)}")


def rename(
    where: Where,
    who: Who,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The new name.")] = None,
    *,
    notes: Annotated[str | None, typer.Option(help="Replace the person's notes.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Give a person another name, or other notes.

    Example: [bold]pocketnet gallery rename people.gallery IMG_1234 "Ann Lee" --notes "second floor"[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery

    if name is None and notes is None:
        raise PocketNetError("pass a new name, --notes, or both")
    gallery = Gallery(where)
    person = gallery.person(person_key(who))
    gallery.change(person.id, name=name, notes=notes)
    person = gallery.person(person.id)
    print_result(
        {"gallery": str(where)} | asdict(person), f"{where}: id:{person.id} is {shown(person.name)}", as_json
    )


def merge(
    where: Where,
    source: Annotated[
        str, typer.Argument(metavar="PERSON", help="Whose faces are moved, and who then goes.")
    ],
    into: Annotated[str, typer.Argument(metavar="INTO", help="Who gets them.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Make one person of two: the second keeps name and id and gets all faces; notes are joined.

    Example: [bold]pocketnet gallery merge people.gallery IMG_1234 "Ann Lee"[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery

    person = Gallery(where).merge(person_key(source), person_key(into))
    print_result(
        {"gallery": str(where)} | asdict(person),
        f"{where}: {shown(person.name)} has {person.faces:,} faces now",
        as_json,
    )


def move(
    where: Where,
    face: Annotated[int, typer.Argument(metavar="FACE", help="The face's id, as `gallery show` tells it.")],
    to: Annotated[
        str, typer.Argument(metavar="PERSON", help="Who gets it; a name that nobody has makes a new person.")
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Give a face to another person.

    Example: [bold]pocketnet gallery move people.gallery 17 "Ann Lee"[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery

    gallery = Gallery(where)
    gallery.move(face, person_key(to))
    person = gallery.person(gallery.face(face).person)
    print_result(
        {"gallery": str(where), "face": face, "person": asdict(person)},
        f"{where}: face {face} is of {shown(person.name)} now",
        as_json,
    )


def delete(
    where: Where,
    who: Annotated[
        str | None, typer.Argument(metavar="[PERSON]", help="A person, who goes with all faces.")
    ] = None,
    *,
    face: Annotated[int | None, typer.Option(min=1, help="A face's id, instead.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a person with all faces, or one face. Nobody finds them any more.

    What erases them for good is said: of a file, `compact`.

    Example: [bold]pocketnet gallery delete people.gallery "Ann Lee"[/bold]
    """
    from pocketnet_fast.gallery.gallery import Gallery

    if (who is None) == (face is None):
        raise PocketNetError("pass either a person or --face ID")
    gallery = Gallery(where)
    if who is not None:
        person = gallery.delete_person(person_key(who))
        said, about = f"{shown(person.name)} with {person.faces:,} faces", {"person": asdict(person)}
    else:
        assert face is not None
        gallery.delete_face(face)
        said, about = f"face {face}", {"face": {"id": face}}
    if as_json:
        print_json({"gallery": str(where), "deleted": about})
        return
    typer.echo(f"{where}: deleted {said}")
    note(gallery.erasure)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("list")(list_people)
    for command in (show, rename, merge, move, delete):
        app.command(command.__name__)(command)
