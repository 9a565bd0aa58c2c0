"""Pickles read as nothing but data: what they name is refused, and never imported."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from pocketnet_fast.errors import PocketNetError

_MAX_SHOWN = 200

Names = Mapping[tuple[str, str], Callable[[], Any]]
"""By module and name, what makes the object that stands in for a class or function."""


class RefusedPickle(Exception):
    """A pickle asks for something else than data; for stand-ins to raise."""


class _DataUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, names: Names) -> None:
        super().__init__(file, encoding="bytes")
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        stand_in = self._names.get((module, name))
        if stand_in is None:
            raise RefusedPickle(f"it names {module}.{name}")
        return stand_in()

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedPickle("it refers to objects outside the file")


def load_plain(file: BinaryIO, name: str, kind: str, names: Names, advice: str = "") -> Any:
    """Build what a pickle of numbers, text, bytes, lists, tuples and dictionaries holds.

    Texts of Python 2 come as bytes.

    Args:
        file: Opened and seekable, at its start.
        name: How messages call it.
        kind: What it should be, such as "verification file".
        names: Stand-ins for the classes and functions that it may name; any other is refused by name. They
            must be safe with any arguments, and need ``__slots__``: a pickle may set attributes on them.
        advice: What to do with a file that is refused.

    Raises:
        PocketNetError: It is damaged or names anything else.
    """
    try:
        _check_memo(file)
        return _DataUnpickler(file, names).load()
    except RefusedPickle as error:
        raise PocketNetError(
            f"{name}: refused, {_line(error)}; a {kind} holds plain data only{advice and f'; {advice}'}"
        ) from None
    except MemoryError:
        raise PocketNetError(f"{name}: damaged: it states more data than fits into memory") from None
    except Exception as error:
        # A damaged pickle raises whatever its opcodes stumble over.
        raise PocketNetError(f"{name}: damaged or no {kind}: {_line(error)}") from None


def _check_memo(file: BinaryIO) -> None:
    """Refuse memo slots beyond the file's length.

    Picklers number them consecutively; the unpickler reserves memory up to the highest, so that ten bytes
    could take 64 GB.
    """
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > (position or 0):
            raise RefusedPickle(f"it keeps an object in slot {argument}")
    file.seek(0)


def _line(error: Exception) -> str:
    """What it says, on one line whatever the file put into it."""
    text = str(error)[:_MAX_SHOWN]
    return "".join(character if character.isprintable() else "?" for character in text)
