"""``pocketnet gallery``: people with names and faces, and who a face looks most like."""

from __future__ import annotations

import typer

from pocketnet_fast.cli.gallery import enrol, evaluate, find, people, transfer, upkeep

_HELP = "Keep people with their faces, and find out who a face is."


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    commands = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=_HELP)
    for module in (enrol, find, people, upkeep, transfer, evaluate):
        module.register(commands)
    app.add_typer(commands, name="gallery")
