"""What commands print for other programs."""

from __future__ import annotations

from typing import Any

import typer

from pocketnet_fast.strict_json import to_json


def print_json(content: Any, *, indent: int | None = 2) -> None:
    """Print a command's result as JSON, in which what is not finite is ``null``."""
    typer.echo(to_json(content, indent=indent))
