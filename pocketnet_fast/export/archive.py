"""Exported archives without traces of the machine that made them."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch


def rewritten(content: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """Return a ZIP archive, as torch writes them, with other members.

    Args:
        content: The archive.
        change: Given the name and content of a member, what it becomes, or None to leave it out.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            changed = change(name, old.read(name))
            if changed is not None:
                # ZipInfo's own date, so that equal models give equal files.
                new.writestr(zipfile.ZipInfo(name), changed)
    return stream.getvalue()


def local_folders() -> list[str]:
    """Folders of this machine whose names compilers and torch write into what they make, longest first."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    places = [
        Path(torch.__file__).parent.parent,
        Path(__file__).parent.parent.parent,
        Path.home(),
        Path(cache_dir()),
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path.cwd(),
    ]
    found = {os.fspath(place) for path in places for place in (path, path.resolve())}
    return sorted((place for place in found if place.count("/") > 1 or place == str(Path.home())), key=len)[
        ::-1
    ]


def without_folders(binary: bytes) -> bytes:
    """Return a program with the names of this machine's folders blanked out, in place: its layout stays."""
    for folder in local_folders():
        name = os.fsencode(folder) + b"/"
        binary = binary.replace(name, b"." + b"/" * (len(name) - 1))
    return binary
