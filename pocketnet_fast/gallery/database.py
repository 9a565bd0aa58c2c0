"""Connections to a gallery's database: read transactions, write transactions that wait, errors in words.

A database that was opened stays open, so that one whose file was renamed, moved or removed is read on. The
connections are pooled rather than made for each thread, because a file that has moved cannot be opened again.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.gallery.schema import PAGE_SIZE, is_unfinished, require_gallery, require_sqlite

TIMEOUT: Final = 30.0
"""Seconds that a writer waits for others, and a compaction for readers."""

_CONNECTIONS: Final = 8
# What SQLite itself waits: readers wait for nobody but who repairs the journal after a crash.
_BUSY_MS: Final = 2000
# Seconds between two tries to begin writing, at most. Random, so that all writers have the same chance.
_PAUSE: Final = 0.005
# Pages of the journal above which a writer waits for readers, so that it starts anew; else readers that
# follow each other without a gap would let it grow for ever.
_JOURNAL_PAGES: Final = 16_384


class Database:
    """A gallery's database.

    Args:
        path: The file.
        timeout: Seconds that writers wait for others.
        create: Make the file if it is missing, and take one that is unfinished.

    Attributes:
        path: As given.
        timeout: As given.
        read_only: Whether the file or its folder cannot be written.

    Raises:
        PocketNetError: There is no such file, or it is no gallery.
    """

    def __init__(self, path: Path, *, timeout: float = TIMEOUT, create: bool = False) -> None:
        require_sqlite()
        self.path = path
        self.timeout = timeout
        self._create = create
        self._local = threading.local()
        self._idle: list[sqlite3.Connection] = []
        self._count = 0
        self._closed = False
        self._condition = threading.Condition()
        self._process = os.getpid()
        if path.is_dir():
            raise PocketNetError(_about_folder(path))
        if not create and not path.exists():
            raise PocketNetError(f"{path}: no such gallery; `pocketnet gallery build` makes one")
        if path.exists() and _place(path) in _inherited:
            raise PocketNetError(_forked(path))
        self.read_only = path.exists() and not (
            os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK)
        )
        with self.translated():
            connection = self._connect()
        self._count = 1
        try:
            with self.translated():
                if create and is_unfinished(connection):
                    connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
                    self.begin(connection, "PRAGMA journal_mode = WAL")
                if not (create and is_unfinished(connection)):
                    require_gallery(connection, path)
            self._place = _place(path)
        except BaseException:
            connection.close()
            raise
        _open[self._place] += 1
        self._idle.append(connection)

    def __del__(self) -> None:
        if hasattr(self, "_place"):
            self.close()

    def close(self) -> None:
        """Close all connections; those that are being used, when they are given back."""
        with self._condition:
            idle, self._idle = self._idle, []
            self._count -= len(idle)
            if not self._closed and os.getpid() == self._process:
                _open[self._place] -= 1
            self._closed = True
        if os.getpid() != self._process:
            _never_closed.extend(idle)
            return
        for connection in idle:
            connection.close()

    def moved(self) -> bool:
        """Whether the path no longer leads to the file that was opened."""
        try:
            return _place(self.path) != self._place
        except OSError:
            return True

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection within a read transaction; one within another is the same.

        Raises:
            PocketNetError: The database is damaged or cannot be read.
        """
        current = getattr(self._local, "connection", None)
        if current is not None:
            yield current
            return
        with self._taken() as connection, self.translated():
            connection.execute("BEGIN")
            self._local.connection = connection
            try:
                yield connection
            finally:
                self._local.connection = None
                connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection within a write transaction, which is committed if the block ends without an exception.

        Raises:
            PocketNetError: It cannot be written, another process has been writing for longer than
                ``timeout``, or the file was moved.
        """
        if getattr(self._local, "connection", None) is not None:
            raise PocketNetError(f"{self.path}: nothing can be written while one state of it is being read")
        self._require_writable()
        with self._taken() as connection, self.translated():
            self.begin(connection, "BEGIN IMMEDIATE")
            self._local.connection = connection
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._local.connection = None
            self._checkpoint(connection)

    @contextlib.contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """A connection outside of any transaction, for what brings its own.

        Raises:
            PocketNetError: See ``writing``.
        """
        self._require_writable()
        with self._taken() as connection, self.translated():
            yield connection

    def wait_until(self, done: Callable[[], bool], reason: str) -> None:
        """Try until it is done.

        Raises:
            PocketNetError: It is not within ``timeout``; the message says ``reason``.
        """
        deadline = time.monotonic() + self.timeout
        while not done():
            if time.monotonic() >= deadline:
                raise PocketNetError(f"{self.path}: {reason} for {self.timeout:g} seconds")
            time.sleep(random.uniform(0, _PAUSE))

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Raise SQLite's errors as ``PocketNetError``."""
        try:
            yield
        except sqlite3.Error as error:
            raise PocketNetError(f"{self.path}: {_in_words(error)}") from error
        except UnicodeDecodeError as error:
            # SQLite keeps text as it was written, and quotes it in its messages.
            raise PocketNetError(f"{self.path}: damaged: it holds text that is not UTF-8") from error

    def _require_writable(self) -> None:
        if self.read_only:
            raise PocketNetError(f"cannot write {self.path}: it, or the folder that it lies in, is read-only")
        if self.moved():
            raise PocketNetError(
                f"cannot write {self.path}: it was moved or replaced since it was opened; open it again"
            )

    def begin(self, connection: sqlite3.Connection, statement: str) -> None:
        """Carry out a statement that needs the right to write, when others let go of it.

        Raises:
            PocketNetError: They do not within ``timeout``.
        """

        def done() -> bool:
            try:
                connection.execute(statement)
            except sqlite3.OperationalError as error:
                if not _is_busy(error):
                    raise
                return False
            return True

        connection.execute("PRAGMA busy_timeout = 0")
        try:
            self.wait_until(done, "another process has been writing to it")
        finally:
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        # What was committed soon lies in the file itself, and not in its journal alone. Where that fails, or
        # others hold it up, it stays committed, and whoever writes next tries again.
        with contextlib.suppress(sqlite3.Error):
            pages = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]
            if pages > _JOURNAL_PAGES:
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    @contextlib.contextmanager
    def _taken(self) -> Iterator[sqlite3.Connection]:
        connection = self._take()
        try:
            yield connection
        finally:
            with self._condition:
                if self._closed:
                    self._count -= 1
                else:
                    self._idle.append(connection)
                self._condition.notify()
            if self._closed:
                connection.close()

    def _take(self) -> sqlite3.Connection:
        if os.getpid() != self._process:
            raise PocketNetError(_forked(self.path))
        with self._condition:
            if self._closed:
                raise PocketNetError(f"{self.path}: this gallery was closed")
            while not self._idle and (self._count >= _CONNECTIONS or self.moved()):
                self._condition.wait(0.1)
            if self._idle:
                return self._idle.pop()
            self._count += 1
        try:
            with self.translated():
                return self._connect()
        except BaseException:
            with self._condition:
                self._count -= 1
            raise

    def _connect(self) -> sqlite3.Connection:
        mode = "rwc" if self._create else "rw"
        if self.read_only:
            # Without a folder for SQLite's files beside it, a database is read as it lies there.
            has_journal = self.path.with_name(f"{self.path.name}-wal").exists()
            mode = "ro" if has_journal else "ro&immutable=1"
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            isolation_level=None,
            check_same_thread=False,
            uri=True,
        )
        try:
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        except BaseException:
            connection.close()
            raise
        return connection


# Files that this process has open, and those that its parent had when it was forked: SQLite's state of them
# came along, without the locks that it stands for. Connections that came along may not even be closed.
_open: Counter[tuple[int, int]] = Counter()
_inherited: set[tuple[int, int]] = set()
_never_closed: list[sqlite3.Connection] = []


def _after_fork() -> None:
    _inherited.update(place for place, count in _open.items() if count)
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)


def _forked(path: Path) -> str:
    return (
        f"{path} was open when this process was forked, and SQLite's locks do not survive that; open it "
        "after the fork only, or start processes by spawn"
    )


def _place(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_dev, about.st_ino


def _about_folder(path: Path) -> str:
    if (path / "manifest.json").exists():
        return (
            f"{path}: a gallery in the folder format of earlier versions; "
            f"`pocketnet gallery migrate {path} NEW.gallery` converts it"
        )
    return f"{path}: a folder; a gallery is one file"


def _is_busy(error: sqlite3.Error) -> bool:
    return "locked" in str(error)


_WORDS: Final = {
    "locked": "busy: another process is writing to it",
    "readonly": "cannot be written: {}",
    "unable to open": "cannot be written, or read: {}",
    "full": "cannot be written: {}",
    "disk I/O": "cannot be written, or read: {}",
    "not a database": "no gallery: it is no SQLite database",
    "malformed": "damaged: {}",
}


def _in_words(error: sqlite3.Error) -> str:
    text = str(error)
    return next((words for part, words in _WORDS.items() if part in text), "{}").format(text)
