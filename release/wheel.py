"""What a wheel consists of, and changes to it that keep its record true."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# The first moment that a zip file can state, where nothing says when a release was made.
_EPOCH: Final = 315_532_800


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel, by their paths in it."""
    with zipfile.ZipFile(wheel) as archive:
        return {member.filename: archive.read(member) for member in archive.infolist() if not member.is_dir()}


def dist_info(names: Mapping[str, bytes]) -> str:
    """The folder of a wheel's own facts."""
    (name,) = {path.partition("/")[0] for path in names if path.partition("/")[0].endswith(".dist-info")}
    return name


def digest_of_record(content: bytes) -> str:
    """A file's SHA-256 as a wheel's RECORD states it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def wrong_in_record(files: Mapping[str, bytes]) -> list[str]:
    """Files that RECORD lacks, has besides, or states another content of."""
    record = f"{dist_info(files)}/RECORD"
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(files[record].decode()))}
    wrong = set(files) ^ set(rows)
    for path, content in files.items():
        if path != record and path in rows and rows[path] != [digest_of_record(content), str(len(content))]:
            wrong.add(path)
    return sorted(wrong)


def with_files(wheel: Path, added: Mapping[str, bytes]) -> None:
    """Put files into a wheel, or replace them, and write its record anew.

    Everything bears the time of ``SOURCE_DATE_EPOCH``, so that the same content makes the same wheel.
    """
    with zipfile.ZipFile(wheel) as archive:
        modes = {member.filename: member.external_attr for member in archive.infolist()}
    files = {**contents(wheel), **added}
    record = f"{dist_info(files)}/RECORD"
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for path in sorted(files):
        known = ("", "") if path == record else (digest_of_record(files[path]), len(files[path]))
        writer.writerow((path, *known))
    files[record] = lines.getvalue().encode()
    moment = time.gmtime(max(int(os.environ.get("SOURCE_DATE_EPOCH", _EPOCH)), _EPOCH))[:6]
    temporary = wheel.with_suffix(".tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        # Facts last, as the format recommends.
        for path in sorted(files, key=lambda path: (path.startswith(dist_info(files)), path)):
            member = zipfile.ZipInfo(path, moment)
            member.external_attr = modes.get(path, 0o100644 << 16)
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, files[path])
    temporary.replace(wheel)
