"""Values of a recipe: checked against the fields of dataclasses, read from text, and written."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union

from pocketnet_fast.errors import PocketNetError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Auto = Literal["auto"] | bool
"""On, off, or ``"auto"``: on where it can be."""


def limited(default: Any, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Any:
    """A dataclass field whose number must lie in [low, high], or in (low, high] with ``above``."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "above": above})


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        PocketNetError: It is none; ``name`` is what the message calls it.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of too many digits, too, and nested lists
        raise PocketNetError(f"{name}: broken TOML: {error}") from None


def check_name(name: str, known: Iterable[str], problem: str, section: str = "") -> None:
    """Raise unless a name is known.

    Args:
        name: What was written.
        known: What could have been.
        problem: What the message starts with.
        section: The table that a key stands in.

    Raises:
        PocketNetError: Naming the closest known ones, or all.
    """
    names = list(known)
    if name in names:
        return
    prefix = f"{section}." if section else ""
    close = [prefix + entry for entry in difflib.get_close_matches(name, names)]
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"expected one of {', '.join(prefix + entry for entry in names)}"
    )
    raise PocketNetError(f"{problem} {prefix}{name}; {hint}")


def checked_value(value: Any, kind: Any, key: str, where: str) -> Any:
    """Return a value as the type of its field.

    Args:
        value: As TOML gave it.
        kind: The section's dataclass.
        key: The field.
        where: What the message calls it.

    Raises:
        PocketNetError: It is of another type or out of the field's limits, saying what is accepted.
    """
    hint = typing.get_type_hints(kind)[key]
    for option in _options(hint):
        fits, converted = _accepted(value, option)
        if fits:
            break
    else:
        raise PocketNetError(f"{where} is {_shown(value)}; expected {_described(hint)}")
    limits = next(entry.metadata for entry in dataclasses.fields(kind) if entry.name == key)
    if limits and converted is not None:
        low, high, above = limits["low"], limits["high"], limits["above"]
        if not (low < converted if above else low <= converted) or converted > high:
            start = f"above {low:g}" if above else f"at least {low:g}"
            end = f" and at most {high:.12g}" if high < math.inf else ""
            raise PocketNetError(f"{where} is {_shown(value)}; expected {start}{end}")
    return converted


def value_from_text(text: str, kind: Any, key: str) -> Any:
    """Read a value given on the command line, as TOML writes it, except that text needs no quotes.

    "none" unsets a value that may be left out. The result is still to be checked.
    """
    options = _options(typing.get_type_hints(kind)[key])
    if types.NoneType in options and text.lower() == "none":
        return None
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    # A path such as 2024 or true reads as something else, but where text is expected it is meant as text.
    is_text = str in options and not isinstance(value, str)
    return text if is_text else value


def to_toml(value: Any) -> str:
    """Write a value of a recipe as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's strings are TOML's but for the character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(to_toml, value))}]"
    return repr(value)


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _described(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    words = []
    for option in _options(hint):
        if typing.get_origin(option) is Literal:
            words += [repr(choice) for choice in typing.get_args(option)]
        elif typing.get_origin(option) is tuple:
            words.append("a list, each entry " + names[typing.get_args(option)[0]])
        elif option is not types.NoneType:
            words.append(names[option])
    return " or ".join(words)


def _accepted(value: Any, option: Any) -> tuple[bool, Any]:
    """Whether ``value`` is of the kind, and what it becomes; whole numbers are numbers, booleans are not."""
    if option is types.NoneType:
        return value is None, value
    if typing.get_origin(option) is Literal:
        return isinstance(value, str) and value in typing.get_args(option), value
    if typing.get_origin(option) is tuple:
        if not isinstance(value, (list, tuple)):
            return False, value
        entries = [_accepted(entry, typing.get_args(option)[0]) for entry in value]
        return all(fits for fits, _ in entries), tuple(entry for _, entry in entries)
    if option is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return fits, float(value) if fits else value
    return type(value) is option, value


def _shown(value: Any) -> str:
    return to_toml(value) if isinstance(value, (str, int, float, list, tuple)) else repr(value)
