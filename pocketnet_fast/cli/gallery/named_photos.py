"""Photos with the names of whom they show, checked before any of them is opened."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pocketnet_fast.cli.loading import all_photos
from pocketnet_fast.errors import PocketNetError

NAMED_BY: Final = ("file", "folder")


def named_photos(
    photos: list[Path],
    table: Path | None,
    name_by: str,
    *,
    passed_over: list[tuple[Path, str]],
    on_error: Callable[[Path, PocketNetError], None] | None,
) -> list[tuple[str, Path]]:
    """Names and files.

    Args:
        photos: Files and folders of them.
        table: A CSV file with the columns file and name, instead.
        name_by: "file" or "folder".
        passed_over: Takes the files of folders that are no images that are read, with what they are.
        on_error: Given a photo whose name no gallery takes, which is then left out; without it that is an
            error.

    Raises:
        PocketNetError: Both or neither are given, ``name_by`` is none, the table cannot be read, or a name is
            not taken.
    """
    from pocketnet_fast.gallery.people import check_name

    if name_by not in NAMED_BY:
        raise PocketNetError(f"unknown --name-by {name_by!r}; expected one of {', '.join(NAMED_BY)}")
    if bool(photos) == (table is not None):
        raise PocketNetError("pass either photos or --csv FILE")
    if table is not None:
        pairs = list(_read_table(table))
    else:
        # Resolved, so that a photo given by its file name alone has the folder it lies in.
        pairs = [
            (path.stem if name_by == "file" else path.resolve().parent.name, path)
            for path in all_photos(photos, passed_over)
        ]
    named = []
    for name, path in pairs:
        try:
            check_name(name)
        except PocketNetError as error:
            named_error = PocketNetError(f"{path}: {error}")
            if on_error is None:
                raise named_error from None
            on_error(path, named_error)
        else:
            named.append((name, path))
    return named


def _read_table(path: Path) -> Iterator[tuple[str, Path]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"file", "name"} <= set(reader.fieldnames or ()):
                raise PocketNetError(f"{path}, line 1: expected the columns file and name")
            for row in reader:
                if not row["file"] or not row["name"]:
                    raise PocketNetError(f"{path}, line {reader.line_num}: expected a file and a name")
                yield row["name"], path.parent / row["file"]
    except OSError as error:
        raise PocketNetError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise PocketNetError(f"{path} is no CSV file in UTF-8: {error}") from None
