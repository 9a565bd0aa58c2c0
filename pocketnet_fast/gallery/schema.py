"""The tables of a gallery's database: how they are made, and how another file is told from them."""

from __future__ import annotations

import re
import sqlite3
import uuid
from importlib import resources
from typing import Final

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.space import EmbeddingSpace

APPLICATION_ID: Final = 0x504E4647
VERSION: Final = 1
NAMED_BY: Final = ("", "file", "folder")
PAGE_SIZE: Final = 4096

# Tables that SQLite makes for itself.
_OF_SQLITE: Final = {
    "CREATE TABLE sqlite_sequence(name,seq)",
    "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
}
# STRICT tables.
_OLDEST_SQLITE: Final = (3, 37)


def schema_text() -> str:
    """The statements that make the tables, as ``docs/gallery_format.md`` shows them."""
    return resources.files("pocketnet_fast.gallery").joinpath("schema.sql").read_text(encoding="utf-8")


def statements() -> list[str]:
    """The same one by one, without the semicolons that end them: as SQLite keeps them."""
    parts = re.split(r"\n\n(?=CREATE )", schema_text().strip())
    return [part.removesuffix(";") for part in parts]


def require_sqlite() -> None:
    """Refuse an SQLite that does not know the schema.

    Raises:
        PocketNetError: It is too old.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise PocketNetError(
            f"galleries need SQLite {_OLDEST_SQLITE[0]}.{_OLDEST_SQLITE[1]} or newer; this Python has "
            f"{sqlite3.sqlite_version}"
        )


def require_name_by(name_by: str) -> None:
    """Refuse what a gallery does not take as the way of naming people.

    Raises:
        PocketNetError: It is none of ``NAMED_BY``.
    """
    if name_by not in NAMED_BY:
        raise PocketNetError(f"unknown name_by {name_by!r}; expected one of {', '.join(map(repr, NAMED_BY))}")


def make_tables(connection: sqlite3.Connection, space: EmbeddingSpace, name_by: str) -> None:
    """Make the tables, in place of those that are there, in the transaction that has begun.

    Raises:
        PocketNetError: ``name_by`` is none of ``NAMED_BY``.
    """
    require_name_by(name_by)
    # Faces first: dropping a person's table deletes what refers to it, row by row.
    for table in ("face", "person", "change", "gallery"):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    for statement in statements():
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute(
        "INSERT INTO gallery (id, uuid, model, weights_sha256, flip, dimensions, name_by) "
        "VALUES (1,?,?,?,?,?,?)",
        (str(uuid.uuid4()), space.model, space.weights_sha256, int(space.flip), space.dimensions, name_by),
    )


def is_unfinished(connection: sqlite3.Connection) -> bool:
    """Whether the database is one that was about to become a gallery: it has no tables at all."""
    return connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0


def require_gallery(connection: sqlite3.Connection, where: object) -> None:
    """See that a database is a gallery of this version, with the schema of one and no other.

    Raises:
        PocketNetError: Says what it is instead.
    """
    if is_unfinished(connection):
        raise PocketNetError(f"{where}: unfinished, or no gallery; `pocketnet gallery build` makes one")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        raise PocketNetError(f"{where}: a database, but no gallery (its application_id is {application:#x})")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise PocketNetError(f"{where}: a gallery of version {version}; this program knows version {VERSION}")
    # By what they say alone: any trigger may be called sqlite_x in a file that was written past SQLite.
    held = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql NOT NULL")}
    odd = held.symmetric_difference(statements()) - _OF_SQLITE
    if odd:
        raise PocketNetError(
            f"{where}: damaged, or changed by another program: its schema differs in {min(map(str, odd))!r}"
        )
    rows = connection.execute("SELECT count(*) FROM gallery").fetchone()[0]
    if rows != 1:
        raise PocketNetError(f"{where}: damaged: it states {rows} times what it holds, instead of once")
