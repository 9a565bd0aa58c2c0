"""The commands' help: an order, whole paragraphs, words for kinds, an example each."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from command_line import Run, runner
from typer.main import get_command

from pocketnet_fast.cli.help import PANELS
from pocketnet_fast.cli.main import app
from pocketnet_fast.search.recipe import SearchRecipe, load_search_recipe
from pocketnet_fast.training.recipe import Recipe, load_recipe


def every_command() -> list[tuple[str, ...]]:
    found = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        found += [(name, inner) for inner in command.commands] if hasattr(command, "commands") else [(name,)]
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("COLUMNS", "100")
    return runner(monkeypatch, capsys)


def test_commands_stand_in_groups_and_in_order(run: Run) -> None:
    text = run("--help").out
    expected = [name for panel, names in PANELS.items() for name in (panel, *names)]
    found = re.findall(r"^(?:╭─ ([A-Z][\w ]+?) ─|│ (\w+)  )", text, re.M)
    shown = [panel or name for panel, name in found]
    assert shown[shown.index("Faces") :] == expected


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_help_is_whole(run: Run, command: tuple[str, ...]) -> None:
    text = run(*command, "--help").out
    assert f"pocketnet {' '.join(command)} " in text or f"pocketnet {' '.join(command)}\n" in text
    assert re.search(r"Examples?:", text)
    for name in ("<str>", "<bool>", "<int", "<path>", "<list", "<float", "Path]"):
        assert name not in text
    prose = text.partition("╭")[0].rstrip().splitlines()[3:]
    lines = [line.rstrip() for line in prose]
    for line, following in pairwise(lines):
        # A line ends early only where its paragraph does, or the next word does not fit.
        if line.strip() and following.strip():
            assert len(line) + 1 + len(following.split()[0]) > 98, (line, following)


@pytest.mark.parametrize(
    ("command", "load"),
    [
        (("train", "synthetic_tiny"), load_recipe),
        (("search", "--recipe", "synthetic_tiny"), load_search_recipe),
    ],
)
def test_a_dry_run_prints_json(run: Run, command: tuple[str, ...], load: object) -> None:
    printed = run(*command, "--dry-run", "--json", "--epochs", 3).json
    recipe: Recipe | SearchRecipe = load("synthetic_tiny")  # type: ignore[operator]
    assert set(printed) == set(recipe.__dataclass_fields__)
    section = "schedule" if "schedule" in printed else "weights"
    assert printed[section]["epochs"] == 3
    assert printed["data"]["source"] == recipe.data.source
