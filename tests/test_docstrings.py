"""What the documentation of public names shows: an example each, in Python that can be read."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re

import pytest

ROOMS = ("pocketnet_fast", *(f"pocketnet_fast.{name}" for name in ("export", "losses", "search", "training")))
PLAIN = {"__version__", "Outcome", "Recipe", "list_recipes", "load_recipe"}
"""Facts and what recipes are, which docs/ and the command line show."""


def public_names() -> list[tuple[str, str]]:
    found = []
    for room in ROOMS:
        module = importlib.import_module(room)
        names = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if inspect.isclass(value) or inspect.isfunction(value)
        ]
        found += [(room, name) for name in names if name not in PLAIN and not name.startswith("_")]
    return found


@pytest.mark.parametrize(("room", "name"), public_names())
def test_examples(room: str, name: str) -> None:
    text = inspect.getdoc(getattr(importlib.import_module(room), name)) or ""
    assert "Examples:\n" in text
    examples = doctest.DocTestParser().get_examples(text)
    assert examples
    for example in examples:
        ast.parse(example.source)


@pytest.mark.parametrize(("room", "name"), public_names())
def test_errors_are_told_in_one_form(room: str, name: str) -> None:
    """What is wrong as a sentence: "PocketNetError: The file is damaged"."""
    text = inspect.getdoc(getattr(importlib.import_module(room), name)) or ""
    raised = re.search(r"Raises:\n((?:    .*\n?)+)", text)
    for line in re.findall(r"^    (\w+): (.*)", raised[1], re.M) if raised else []:
        assert not re.match(r"(If|On|When|in case)\b", line[1]), line
