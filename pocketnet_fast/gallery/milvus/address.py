"""Where on Milvus a gallery is: a server's address or the file of Milvus Lite, and a name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pocketnet_fast.errors import PocketNetError

TOKEN: Final = "POCKETNET_MILVUS_TOKEN"
"""The environment's variable with what a server asks for: a token, or USER:PASSWORD."""

_EXPECTED: Final = (
    "expected milvus:http://HOST:PORT/NAME, milvus:http://HOST:PORT/DATABASE/NAME (https, too) or "
    "milvus:FILE.db#NAME"
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")


@dataclass(frozen=True)
class Address:
    """A gallery on Milvus.

    Attributes:
        text: As it was given; errors say it.
        uri: The address of the server, or the path of Milvus Lite's file.
        database: The database of the server; empty for the default one.
        name: The name of the gallery, a collection.
        file: Milvus Lite's; None for a server.
    """

    text: str
    uri: str
    database: str
    name: str
    file: Path | None


def parse_address(location: str | os.PathLike[str]) -> Address:
    """Take an address apart.

    Raises:
        PocketNetError: It is none, or holds a user or a password, which messages would show.
    """
    text = os.fspath(location)
    place = text.removeprefix("milvus:")
    if re.match(r"https?:", place):
        return _of_server(text, place)
    path, separator, name = place.rpartition("#")
    if not separator or not path.endswith(".db"):
        raise PocketNetError(f"{text}: no address of a gallery on Milvus; {_EXPECTED}")
    # Absolute, because Milvus Lite keeps files open by their paths.
    file = Path(path).absolute()
    return Address(text, str(file), "", _checked_name(text, name), file)


def _of_server(text: str, place: str) -> Address:
    try:
        parts = urlsplit(place)
        known = parts.hostname is not None and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if "@" in place:
        raise PocketNetError(
            "an address of Milvus holds no user and no password, as messages show it; put a token, or "
            f"USER:PASSWORD, into the environment as {TOKEN}"
        )
    segments = parts.path.strip("/").split("/") if known else []
    if len(segments) not in (1, 2) or parts.query or parts.fragment:
        raise PocketNetError(f"{text}: no address of a gallery on Milvus; {_EXPECTED}")
    database = _checked_name(text, segments[0]) if len(segments) == 2 else ""
    uri = f"{parts.scheme}://{parts.netloc}"
    return Address(text, uri, database, _checked_name(text, segments[-1]), None)


def _checked_name(text: str, name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise PocketNetError(
            f"{text}: {name!r} is no name on Milvus; expected a letter or underscore, then at most 199 "
            "letters, digits and underscores, all ASCII"
        )
    return name
