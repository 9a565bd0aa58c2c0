"""Numbers about a gallery, and whether it is whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.database import Database
from pocketnet_fast.gallery.space import EmbeddingSpace, rows_of_other_length
from pocketnet_fast.gallery.vectors import newest_state
from pocketnet_fast.gallery.vectors_cache import cache_path, damage_of_cache, locked, remove_cache

_BATCH: Final = 8192


@dataclass(frozen=True)
class Stats:
    """Numbers about a gallery.

    Attributes:
        uuid: The uuid of this gallery.
        people: How many there are.
        people_without_faces: How many of them have no face.
        faces: How many there are.
        most_faces: The largest number of faces of a person.
        lowest_quality: The lowest quality of its faces; None if no quality is known.
        first_added: When the oldest of its faces was added, seconds since 1970, UTC; None without faces.
        last_added: The newest; likewise.
        changes: How many faces and people were ever added, changed or deleted; None where nobody counts, as
            on Milvus.
        bytes: Size of the database; None if it is no file, like those that follow.
        free_bytes: The part of them that ``compact`` returns.
        journal_bytes: Size of SQLite's journal.
        cache_bytes: Size of the vectors' cache.
    """

    uuid: str
    people: int
    people_without_faces: int
    faces: int
    most_faces: int
    lowest_quality: float | None
    first_added: int | None
    last_added: int | None
    changes: int | None = None
    bytes: int | None = None
    free_bytes: int | None = None
    journal_bytes: int | None = None
    cache_bytes: int | None = None


@dataclass(frozen=True)
class Checked:
    """What was found whole.

    Attributes:
        people: How many.
        faces: How many.
        cache: "whole", "absent", or what was wrong with it; it was removed then, and is made again when it is
            needed.
    """

    people: int
    faces: int
    cache: str


def stats_of(database: Database) -> Stats:
    """Count; see ``Stats``."""
    with database.reading() as connection:
        uuid = connection.execute("SELECT uuid FROM gallery").fetchone()[0]
        people = connection.execute("SELECT count(*) FROM person").fetchone()[0]
        with_faces, most = connection.execute(
            "SELECT count(*), coalesce(max(faces), 0) FROM "
            "(SELECT count(*) AS faces FROM face GROUP BY person)"
        ).fetchone()
        faces, lowest, first, last = connection.execute(
            "SELECT count(*), min(quality), min(added), max(added) FROM face"
        ).fetchone()
        changes = connection.execute("SELECT coalesce(max(number), 0) FROM change").fetchone()[0]
        page, pages, free = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
    sizes = [_size(database.path.with_name(f"{database.path.name}-wal")), _size(cache_path(database.path))]
    return Stats(
        uuid,
        people,
        people - with_faces,
        faces,
        most,
        lowest,
        first,
        last,
        changes,
        page * pages,
        page * free,
        *sizes,
    )


def check_gallery(database: Database, space: EmbeddingSpace, on_faces: Callable[[int], None]) -> Checked:
    """Read everything; see ``Gallery.check``.

    Raises:
        PocketNetError: The database is damaged.
    """
    where = database.path
    with database.reading() as connection:
        state = newest_state(connection, space, where)
        problems = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
        if problems != ["ok"]:
            raise PocketNetError(f"{where}: damaged: {'; '.join(problems)}")
        lost = connection.execute("PRAGMA foreign_key_check").fetchone()
        if lost is not None:
            raise PocketNetError(f"{where}: damaged: face {lost[1]} is of a person who is not there")
        _check_texts(connection, where)
        faces = _check_faces(connection, space, where, on_faces)
        people = connection.execute("SELECT count(*) FROM person").fetchone()[0]
        _check_changes(connection, where)
    if not cache_path(where).exists():
        return Checked(people, faces, "absent")
    problem = damage_of_cache(where, space.dimensions, state.uuid)
    if problem is not None and not database.read_only:
        try:
            with locked(where, database.timeout) as held:
                if held:
                    remove_cache(where)
        except OSError as error:
            raise PocketNetError(f"cannot remove {cache_path(where)}: {error.strerror}") from None
    return Checked(people, faces, problem or "whole")


def _check_texts(connection: sqlite3.Connection, where: Path) -> None:
    for table, columns in (("person", ("name", "notes")), ("face", ("photo",))):
        for column in columns:
            try:
                for _ in connection.execute(f"SELECT {column} FROM {table}"):
                    pass
            except sqlite3.OperationalError as error:
                raise PocketNetError(f"{where}: damaged: a {column} of a {table}: {error}") from None


def _check_faces(
    connection: sqlite3.Connection, space: EmbeddingSpace, where: Path, on_faces: Callable[[int], None]
) -> int:
    count = 0
    cursor = connection.execute("SELECT id, embedding FROM face ORDER BY id")
    while batch := cursor.fetchmany(_BATCH):
        for face, blob in batch:
            if not isinstance(blob, bytes) or len(blob) != 4 * space.dimensions:
                size = len(blob) if isinstance(blob, bytes) else "no"
                raise PocketNetError(f"{where}: damaged: the embedding of face {face} has {size} bytes")
        rows = np.frombuffer(b"".join(blob for _, blob in batch), "<f4").reshape(len(batch), -1)
        wrong = rows_of_other_length(rows)
        if len(wrong):
            raise PocketNetError(
                f"{where}: damaged: the embedding of face {batch[wrong[0]][0]} has no length of 1"
            )
        count += len(batch)
        on_faces(len(batch))
    return count


def _check_changes(connection: sqlite3.Connection, where: Path) -> None:
    for kind in ("face", "person"):
        missing = connection.execute(
            f"SELECT id FROM {kind} WHERE id NOT IN "
            f"(SELECT {kind} FROM change WHERE {kind} IS NOT NULL) LIMIT 1"
        ).fetchone()
        if missing is not None:
            raise PocketNetError(f"{where}: damaged: no change tells of {kind} {missing[0]}")
    count, newest = connection.execute("SELECT count(*), coalesce(max(number), 0) FROM change").fetchone()
    if count != newest:
        raise PocketNetError(
            f"{where}: damaged: {count} changes are there, and the newest has number {newest}"
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
