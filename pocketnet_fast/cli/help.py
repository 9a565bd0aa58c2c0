"""How the commands' help looks: in groups, in an order, in whole paragraphs, and in words for types."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

PANELS: Final = {
    "Faces": ("verify", "faces", "embed", "gallery"),
    "Networks": ("info", "export", "calibrate"),
    "Evaluation": ("eval", "ijb", "megaface"),
    "Training and search": ("data", "train", "distill", "search"),
    "This machine": ("doctor", "bench", "cmake"),
}
_WORDS: Final = {Path: "PATH", str: "TEXT", int: "INTEGER", float: "NUMBER", bool: ""}


class _Group(TyperGroup):
    """A group whose options are described by ``_worded``."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _worded(super().get_params(ctx), self.callback)


class OrderedGroup(_Group):
    """Lists its commands in the order of ``PANELS``."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in order; those of no panel come last."""
        order = [name for names in PANELS.values() for name in names]
        named = super().list_commands(ctx)
        return sorted(named, key=lambda name: order.index(name) if name in order else len(order))


class _Command(TyperCommand):
    """A command whose options are described by ``_worded``."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _worded(super().get_params(ctx), self.callback)


def _worded(params: list[Any], callback: Any) -> list[Any]:
    """Call the kinds of values by words, where typer prints the names of Python's types."""
    hints = {} if callback is None else typing.get_type_hints(inspect.unwrap(callback))
    for param in params:
        word = _WORDS.get(_plain(hints.get(param.name, bool)))
        if word is None:
            continue
        if param.param_type_name == "argument":
            # An argument's own name says what it is.
            param.display_type_rich = lambda ctx: None
        elif param.metavar is None:
            param.metavar = word
    return params


def _plain(hint: Any) -> Any:
    """The type of a value that may be absent or given several times."""
    while (origin := typing.get_origin(hint)) is not None:
        arguments = [part for part in typing.get_args(hint) if part is not type(None)]
        if origin not in (list, typing.Union, types.UnionType) or len(arguments) != 1:
            return None
        hint = arguments[0]
    return hint


def dress(app: typer.Typer, panels: Mapping[str, tuple[str, ...]] = PANELS) -> None:
    """Give all commands of an application their help's form, and put them into panels."""
    panel_of = {name: panel for panel, names in panels.items() for name in names}
    for command in app.registered_commands:
        command.cls = _Command
        command.help = _flowed((command.callback and command.callback.__doc__) or "")
        command.rich_help_panel = panel_of.get(command.name or "", command.rich_help_panel)
    for group in app.registered_groups:
        group.cls = _Group
        if isinstance(group.name, str):
            group.rich_help_panel = panel_of.get(group.name, group.rich_help_panel)
        if group.typer_instance is not None:
            dress(group.typer_instance, {})


def _flowed(text: str) -> str:
    """Paragraphs as one line each, for the terminal to break where it ends."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
