"""The reference of recipes, made from the dataclasses that read them."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from pocketnet_fast.search.recipe import SearchRecipe, list_search_recipes
from pocketnet_fast.training.recipe import Recipe, list_recipes
from pocketnet_fast.training.recipe_meanings import meanings
from pocketnet_fast.training.recipe_values import to_toml
from pocketnet_fast.training.toml_recipe import TomlRecipe, sections_of

_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def recipes_page() -> str:
    """The package's recipes and every value of both kinds, as Markdown."""
    parts: list[str] = []
    for title, kind, listed in (
        ("Training", Recipe, list_recipes()),
        ("Search", SearchRecipe, list_search_recipes()),
    ):
        parts.append(f"## {title}\n")
        parts.append(_table(("recipe", ""), ((f"`{name}`", text) for name, text in listed.items())))
        for name, section in sections_of(kind).items():
            (about, *_) = (section.__doc__ or "").split("\n\n")
            parts += [f"### {title}: [{name}]\n", about.replace("``", "`") + "\n"]
            parts.append(_table(("key", "default", "accepted", "meaning"), _rows(kind, name, section)))
    return "\n".join(parts)


def _rows(kind: type[TomlRecipe], name: str, section: Any) -> Iterator[tuple[str, str, str, str]]:
    defaults = getattr(kind(), name)
    hints = typing.get_type_hints(section)
    texts = meanings(section)
    for field in dataclasses.fields(section):
        value = getattr(defaults, field.name)
        default = "" if value is None else f"`{to_toml(value)}`"
        yield f"`{field.name}`", default, _accepted(hints[field.name], field.metadata), texts[field.name]


def _accepted(hint: Any, limits: Any) -> str:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    words = []
    for option in options:
        if typing.get_origin(option) is Literal:
            words += [f"`{choice}`" for choice in typing.get_args(option)]
        elif typing.get_origin(option) is tuple:
            words.append(f"list, each a {_WORDS[typing.get_args(option)[0]]}")
        elif option is not type(None):
            words.append(_WORDS[option])
    text = ", ".join(words[:-1]) + " or " + words[-1] if len(words) > 1 else words[0]
    if limits:
        low, high = limits["low"], limits["high"]
        if low > -math.inf:
            text += f", {'above' if limits['above'] else 'from'} {low:g}"
        if high < math.inf:
            text += f" to {high:.12g}"
    return text


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return (
        "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        + "\n"
    )
