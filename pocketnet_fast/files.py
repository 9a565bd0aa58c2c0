"""Writing files so that a reader sees either the old content or the whole new one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from pocketnet_fast.errors import PocketNetError

WRITE_ERRORS: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
"""What a write meets: no space or quota left, a limit on sizes, a failing or read-only disk."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a binary file whose content appears at ``path`` when the block ends without an exception.

    The bytes go to a temporary file in the same folder, are synced to the disk, and the file is renamed;
    an exception (an interrupt included) removes it and leaves what was at ``path`` untouched. A symbolic
    link is followed, so its target is replaced and the link stays. Devices and pipes, which cannot be
    replaced, are written directly.

    Raises:
        PocketNetError: ``path`` is a folder, its folder does not exist, no file may be created there, or the
            disk does not take the content.
    """
    try:
        with _atomic_write(path) as stream:
            yield stream
    except OSError as error:
        # An error with a file name is about another file, which the block reads.
        if error.errno in WRITE_ERRORS and error.filename is None:
            raise PocketNetError(f"cannot write {path}: {error.strerror}") from error
        raise


@contextlib.contextmanager
def _atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise PocketNetError(f"{path} is a folder, not a file to write")
    if target.exists() and not target.is_file():
        with _opened(path, target, os.O_WRONLY) as stream:
            yield stream
            stream.flush()
        return

    temporary = target.with_name(f".pocketnet-{secrets.token_hex(6)}.tmp")
    stream = _opened(path, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _opened(requested: str | os.PathLike[str], path: Path, flags: int) -> BinaryIO:
    try:
        return os.fdopen(os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o666), "wb")
    except OSError as error:
        raise PocketNetError(f"cannot write {requested}: {error.strerror}") from error


def make_folder(folder: Path, *, parents: bool = True) -> None:
    """Make a folder, if asked to with those above it; one that is there is left as it is.

    Raises:
        PocketNetError: It cannot be made.
    """
    try:
        folder.mkdir(parents=parents, exist_ok=True)
    except OSError as error:
        raise PocketNetError(f"cannot make the folder {folder}: {error.strerror}") from None


def _sync_folder(folder: Path) -> None:
    # Without this a crash of the machine may lose the rename, though never the old file.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
