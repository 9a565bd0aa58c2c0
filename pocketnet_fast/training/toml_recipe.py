"""Settings of a run as TOML: a dataclass of sections, each a dataclass of values, read strictly."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.training.recipe_values import (
    check_name,
    checked_value,
    parse_toml,
    to_toml,
    value_from_text,
)

_SUFFIX: Final = ".toml"

RecipeT = TypeVar("RecipeT", bound="TomlRecipe")


class TomlRecipe:
    """Reading and writing for a dataclass whose fields are sections, of which TOML has one table each."""

    def to_toml(self) -> str:
        """Every value as TOML that ``from_toml`` reads back to an equal recipe; unset ones are left out."""
        tables = []
        for section in _fields(self):
            values = vars(getattr(self, section.name))
            lines = [f"{key} = {to_toml(value)}" for key, value in values.items() if value is not None]
            tables.append("\n".join([f"[{section.name}]", *lines]))
        return "\n\n".join(tables) + "\n"

    @classmethod
    def from_toml(
        cls: type[RecipeT], text: str, name: str, overrides: Mapping[str, str] | None = None
    ) -> RecipeT:
        """Read a recipe, strictly.

        Args:
            text: TOML, one table per section.
            name: How errors call it.
            overrides: Values by ``section.key``, as TOML writes them, except that text needs no quotes;
                "none" unsets a value that may be left out.

        Raises:
            PocketNetError: Broken TOML, an unknown section or key (with the closest ones), a value of the
                wrong type or out of its range (with what is accepted), or values that contradict each other.
        """
        sections = sections_of(cls)
        content = parse_toml(text, name)
        for section, table in content.items():
            check_name(section, sections, f"{name}: unknown section")
            if not isinstance(table, dict):
                raise PocketNetError(f"{name}: {section} is a table of values, not a value")
        chosen: dict[str, dict[str, Any]] = {}
        for section, kind in sections.items():
            hints = typing.get_type_hints(kind)
            chosen[section] = {}
            for key, value in content.get(section, {}).items():
                check_name(key, hints, f"{name}: unknown key", section)
                chosen[section][key] = checked_value(value, kind, key, f"{name}: {section}.{key}")
        for path, value in (overrides or {}).items():
            section, _, key = path.partition(".")
            if not key:
                raise PocketNetError(f"{path!r} is no key; expected section.key, such as optimizer.lr")
            check_name(section, sections, "unknown section")
            kind = sections[section]
            check_name(key, typing.get_type_hints(kind), "unknown key", section)
            chosen[section][key] = checked_value(value_from_text(value, kind, key), kind, key, path)
        return cls(**{section: kind(**chosen[section]) for section, kind in sections.items()})


def _fields(recipe: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(recipe)


def sections_of(kind: type[TomlRecipe]) -> dict[str, Any]:
    """The sections' dataclasses by name."""
    return typing.get_type_hints(kind)


def described_recipes(folder: Path) -> dict[str, str]:
    """The recipes of a folder and what each says of itself (the comment at its head)."""
    found = {}
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        head = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            head.append(line.removeprefix("#").strip())
        found[path.stem] = " ".join(head)
    return found


def recipe_text(name: str | os.PathLike[str], folder: Path) -> str:
    """The TOML of a recipe of a folder, by name, or of a file.

    Args:
        name: One of ``described_recipes(folder)``, or the path of a ``.toml`` file.
        folder: The package's recipes.

    Raises:
        PocketNetError: There is no such recipe (with the closest ones), or the file cannot be read.
    """
    text = os.fspath(name)
    if text.endswith(_SUFFIX):
        path = Path(text)
    else:
        check_name(text, described_recipes(folder), "unknown recipe")
        path = folder / f"{text}{_SUFFIX}"
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PocketNetError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PocketNetError(f"{path}: is no text in UTF-8") from None


def differences(old: RecipeT, new: RecipeT) -> dict[str, tuple[Any, Any]]:
    """The values that differ, old and new, by ``section.key``."""
    found = {}
    for section in sections_of(type(old)):
        before, after = vars(getattr(old, section)), vars(getattr(new, section))
        found.update({f"{section}.{k}": (v, after[k]) for k, v in before.items() if v != after[k]})
    return found
