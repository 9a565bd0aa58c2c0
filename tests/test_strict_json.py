"""JSON without NaN and infinity, which no command prints and no file gets."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from pocketnet_fast.strict_json import to_json

PACKAGE = Path(__file__).resolve().parent.parent / "pocketnet_fast"


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("indent", [None, 1, 2])
def test_what_is_not_finite_becomes_null(indent: int | None) -> None:
    content = {
        "a": [1.5, float("nan"), (float("inf"), {"b": -np.inf})],
        "c": np.float64("nan"),
        "d": None,
        "e": True,
    }
    text = to_json(content, indent=indent)
    assert json.loads(text, parse_constant=refuse) == {
        "a": [1.5, None, [None, {"b": None}]],
        "c": None,
        "d": None,
        "e": True,
    }
    assert content["a"][2][0] == float("inf")


def test_text_is_ascii() -> None:
    assert to_json({"name": "Zoë \udcff"}).isascii()


def test_no_command_prints_json_by_itself() -> None:
    for path in sorted((PACKAGE / "cli").glob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        printed = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "echo"]
        dumped = [inner for call in printed for inner in ast.walk(call) if isinstance(inner, ast.Attribute)]
        assert not any(inner.attr == "dumps" for inner in dumped), path.name
