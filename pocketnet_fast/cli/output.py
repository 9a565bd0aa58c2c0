"""What commands write: JSON for other programs, tables, and pictures by their file's name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import typer

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.strict_json import to_json

if TYPE_CHECKING:
    from rich.console import Console

_PICTURES: Final = (".png", ".jpg", ".jpeg")
# Of tables, where the output is no terminal and tells no width.
_WIDTH: Final = 160


def print_json(content: Any, *, indent: int | None = 2) -> None:
    """Print a command's result as JSON, in which what is not finite is ``null``."""
    typer.echo(to_json(content, indent=indent))


def print_result(content: Any, text: str, as_json: bool) -> None:
    """Print a command's result as JSON or, unless that is asked for, as text."""
    if as_json:
        print_json(content)
    else:
        typer.echo(text)


def print_report(content: Any, show: Callable[[Any], None], as_json: bool) -> None:
    """Print a command's result as JSON or, unless that is asked for, as ``show`` prints it."""
    if as_json:
        print_json(content)
    else:
        show(content)


def check_picture(path: Path | None) -> None:
    """Refuse a file whose name is no picture's.

    Raises:
        PocketNetError: It names the kinds there are.
    """
    if path is not None and path.suffix.lower() not in _PICTURES:
        raise PocketNetError(f"{path}: unknown kind of picture; expected one of {', '.join(_PICTURES)}")


def wide_console() -> Console:
    """What prints wide tables: whole, where the output is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _WIDTH)


def write_json(stream: BinaryIO, content: Any, *, indent: int = 2) -> None:
    """Write JSON to a file, with a line's end."""
    stream.write((to_json(content, indent=indent) + "\n").encode())
