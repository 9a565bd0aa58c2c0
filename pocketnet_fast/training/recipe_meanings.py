"""What the values of a recipe mean, from the texts beside its fields."""

from __future__ import annotations

import dataclasses
import textwrap
import typing
from typing import Any, Final

from pocketnet_fast.training.recipe_values import to_toml
from pocketnet_fast.training.toml_recipe import TomlRecipe, sections_of

_WIDTH: Final = 110
# Values of more characters do not move the column of the meanings.
_LONGEST: Final = 34


def meanings(section: type[Any]) -> dict[str, str]:
    """The meaning of each value of a section, by its key: the text that its annotation carries."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in dataclasses.fields(section)}


def explained_toml(recipe: TomlRecipe) -> str:
    """Every value of a recipe as TOML, with its meaning beside it; unset ones are comments."""
    tables = []
    for name, kind in sections_of(type(recipe)).items():
        texts = meanings(kind)
        values = vars(getattr(recipe, name))
        lines = {
            key: f"# {key} is not set" if value is None else f"{key} = {to_toml(value)}"
            for key, value in values.items()
        }
        column = 2 + max(len(line) for line in lines.values() if len(line) <= _LONGEST)
        shown = [f"[{name}]"]
        for key, line in lines.items():
            first, *others = textwrap.wrap(texts[key], _WIDTH - column - 2)
            if len(line) > _LONGEST:
                shown += [line, f"{'':{column}}# {first}"]
            else:
                shown.append(f"{line:{column}}# {first}")
            shown += [f"{'':{column}}# {other}" for other in others]
        tables.append("\n".join(shown))
    return "\n\n".join(tables) + "\n"
