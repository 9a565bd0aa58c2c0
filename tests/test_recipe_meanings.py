"""The meanings of a recipe's values: there for each, printed beside it, and no part of what is read back."""

from __future__ import annotations

import pytest

from pocketnet_fast.search.recipe import SearchRecipe, list_search_recipes, load_search_recipe
from pocketnet_fast.training.recipe import Recipe, list_recipes, load_recipe
from pocketnet_fast.training.recipe_meanings import explained_toml, meanings
from pocketnet_fast.training.toml_recipe import sections_of

RECIPES = [*map(load_recipe, list_recipes()), *map(load_search_recipe, list_search_recipes())]


@pytest.mark.parametrize("kind", [Recipe, SearchRecipe])
def test_every_value_has_a_meaning(kind: type[Recipe | SearchRecipe]) -> None:
    for section in sections_of(kind).values():
        texts = meanings(section)
        assert list(texts) == list(section.__dataclass_fields__)
        for text in texts.values():
            assert len(text) > 10
            assert text.endswith(".")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_explained_text_is_the_recipe(recipe: Recipe | SearchRecipe) -> None:
    text = explained_toml(recipe)
    assert type(recipe).from_toml(text, "again") == recipe
    words = " ".join(text.replace("#", " ").split())
    for section in sections_of(type(recipe)).values():
        for key, meaning in meanings(section).items():
            assert " ".join(meaning.split()) in words, key


def test_lines_stay_short_unless_a_value_is_long() -> None:
    source = "x" * 200
    lines = explained_toml(load_recipe("transfer_distill", {"data.source": source})).splitlines()
    assert [line for line in lines if len(line) > 110] == [f'source = "{source}"']
    # A meaning stands beside its value, and goes on below itself.
    (at,) = [number for number, line in enumerate(lines) if line.startswith("workers = ")]
    assert lines[at].index("#") == lines[at + 1].index("#")
