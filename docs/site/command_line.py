"""The reference of the command line, made from the application that parses it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from typer.main import get_command

from pocketnet_fast.cli.help import PANELS
from pocketnet_fast.cli.main import app

# Of every command, and said once.
_COMMON = {"help", "install_completion", "show_completion"}


def command_line_page() -> str:
    """Every command in its group, with its arguments, options and examples, as Markdown."""
    root = get_command(app)
    with typer.Context(root, info_name="pocketnet") as context:
        parts = ["## Options of every command\n", *_parameters(root, context)]
        for panel, names in PANELS.items():
            parts.append(f"## {panel}\n")
            for name in names:
                parts += _command(root.commands[name], context, name, 3)  # type: ignore[attr-defined]
    return "\n".join(parts)


def _command(command: Any, parent: typer.Context, name: str, level: int) -> Iterator[str]:
    with typer.Context(command, info_name=name, parent=parent) as context:
        yield f"{'#' * level} {context.command_path}\n"
        for paragraph in (command.help or "").split("\n\n"):
            yield _prose(paragraph) + "\n"
        inner = getattr(command, "commands", {})
        if not inner:
            pieces = " ".join(command.collect_usage_pieces(context))
            yield f"```text\n{context.command_path} {pieces}\n```\n"
        yield from _parameters(command, context)
        for name_, one in inner.items():
            yield from _command(one, context, name_, level + 1)


def _parameters(command: Any, context: typer.Context) -> Iterator[str]:
    rows = []
    for parameter in command.get_params(context):
        if parameter.name in _COMMON or parameter.hidden:
            continue
        if parameter.param_type_name == "argument":
            names = f"`{parameter.metavar or parameter.name.upper()}`"
        else:
            names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
            names += f" {_cell(parameter.metavar or '')}"
        rows.append(f"| {names} | {_prose(_cell(_about(parameter)))} |")
    if rows:
        yield "\n".join(["| | |", "|---|---|", *rows]) + "\n"


def _about(parameter: Any) -> str:
    text = parameter.help or ""
    default = parameter.default
    if parameter.show_default and default not in (None, False, ()) and not callable(default):
        text += f" Default: `{parameter.opts[0] if default is True else default}`."
    return text + (" Required." if parameter.required else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _prose(text: str) -> str:
    """Rich's marks as Markdown's; commands that are meant to be typed are code."""
    text = re.sub(r"\[bold\](.*?)\[/bold\]", r"`\1`", text)
    return " ".join(re.sub(r"\[/?[a-z]+\]", "", text).split())
