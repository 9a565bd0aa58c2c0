"""Reading an input, and judging what the reader did."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from pocketnet_fast.errors import PocketNetError


class Finding(AssertionError):
    """A reader did with some bytes what none may."""


def judge(name: str, read: Callable[[bytes, Path], None], data: bytes) -> bool:
    """Read an input; returns whether it was accepted.

    Raises:
        Finding: The reader neither gave a result nor refused.
    """
    folder = _folder()
    said = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with _listening() as printed:
                read(data, folder)
        accepted = True
    except PocketNetError as error:
        accepted, said = False, str(error)
    except Exception as error:
        raise Finding(f"{name}: {type(error).__name__}: {error}") from error
    finally:
        for entry in os.scandir(folder):
            if entry.is_dir():
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink()
    if printed():
        raise Finding(f"{name}: it printed {printed()!r}")
    if not accepted and not said.strip():
        raise Finding(f"{name}: refused without a word")
    return accepted


@functools.cache
def _folder() -> Path:
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="pocketnet-fuzz-", dir=memory if memory.is_dir() else None))


def remove_folder() -> None:
    """Remove what inputs were laid into, and what was heard of libraries."""
    shutil.rmtree(_folder(), ignore_errors=True)
    _ear().close()
    _folder().with_suffix(".said").unlink(missing_ok=True)
    _ear.cache_clear()
    _folder.cache_clear()


@functools.cache
def _ear() -> io.BufferedRandom:
    return open(_folder().with_suffix(".said"), "w+b", buffering=0)  # noqa: PTH123


@contextlib.contextmanager
def _listening() -> Iterator[Callable[[], bytes]]:
    """What libraries write to the terminal while this is open; yields what gives it afterwards."""
    ear = _ear()
    ear.seek(0)
    ear.truncate()
    kept = [os.dup(1), os.dup(2)]
    os.dup2(ear.fileno(), 1)
    os.dup2(ear.fileno(), 2)

    def heard() -> bytes:
        ear.seek(0)
        return ear.read(400)

    try:
        yield heard
    finally:
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)
