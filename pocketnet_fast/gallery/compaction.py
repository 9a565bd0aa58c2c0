"""Erasing from a gallery's files what was deleted."""

from __future__ import annotations

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.database import Database
from pocketnet_fast.gallery.vectors_cache import locked, remove_cache


def compact(database: Database) -> None:
    """Write the database anew without what was deleted, empty its journal and remove the cache.

    Nobody may make a cache meanwhile: it could be of a state in which erased faces were still there.

    Raises:
        PocketNetError: It cannot be written, or others used it without a pause.
    """
    path = database.path
    try:
        with locked(path, database.timeout) as held:
            if not held:
                raise PocketNetError(f"{path}: its cache has been written for {database.timeout:g} seconds")
            with database.alone() as connection:
                database.begin(connection, "VACUUM")
                # Readers in the middle of an answer still need the journal.
                database.wait_until(
                    lambda: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0,
                    "others have been reading it, so that its journal could not be emptied",
                )
            remove_cache(path)
    except OSError as error:
        raise PocketNetError(f"cannot write beside {path}: {error.strerror}") from None
