"""Making a gallery: all of it in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.database import Database
from pocketnet_fast.gallery.schema import is_unfinished, make_tables
from pocketnet_fast.gallery.store import NewGallery, already_there
from pocketnet_fast.gallery.vectors_cache import lock_path, locked, remove_cache

Fill = Callable[[sqlite3.Connection], object]


def fill_new(path: Path, new: NewGallery, fill: Fill) -> None:
    """Make a gallery and fill it; see ``Gallery.create``.

    Raises:
        PocketNetError: There is such a file, or it cannot be written.
    """
    try:
        with locked(path, new.timeout) as held:
            if not held:
                raise PocketNetError(
                    f"{path}: another process has been making it for {new.timeout:g} seconds"
                )
            _make(path, new, fill)
    except OSError as error:
        raise PocketNetError(f"cannot write {path}: {error.strerror}") from None


def _make(path: Path, new: NewGallery, fill: Fill) -> None:
    was_there = path.exists()
    try:
        database = Database(path, timeout=new.timeout, create=True)
        try:
            with database.writing() as connection:
                if not is_unfinished(connection) and not new.overwrite:
                    raise already_there(path)
                make_tables(connection, new.space, new.name_by)
                fill(connection)
            # One of the gallery that was replaced is never taken for the new one's; it only takes room.
            remove_cache(path)
        finally:
            database.close()
    except BaseException:
        if not was_there:
            for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
                file.unlink(missing_ok=True)
            lock_path(path).unlink(missing_ok=True)
        raise


def require_free(path: Path, overwrite: bool) -> None:
    """Refuse a place where no gallery may be made, before time is spent on what it is to hold.

    Raises:
        PocketNetError: There is a gallery and ``overwrite`` is not set, or something else.
    """
    if not path.exists():
        if not path.absolute().parent.is_dir():
            raise PocketNetError(f"cannot write {path}: {path.absolute().parent} is no folder")
        return
    database = Database(path, create=True)
    try:
        with database.reading() as connection:
            if not is_unfinished(connection) and not overwrite:
                raise already_there(path)
    finally:
        database.close()
