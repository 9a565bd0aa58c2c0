"""``pocketnet search``, and ``pocketnet train`` with what it found."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from search_runs import tiny_search
from training_runs import tiny_recipe, write_faces
from typer.testing import CliRunner, Result

from pocketnet_fast.cli.main import app
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.genotypes import SOFTMAX_CIFAR10, parse_genotype, read_genotype
from pocketnet_fast.search.recipe import SearchRecipe, list_search_recipes
from pocketnet_fast.search.step import SearchStepper
from pocketnet_fast.training.recipe import Recipe


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces") / "train.rec")


@pytest.fixture
def recipe(tmp_path: Path, faces: Path) -> Path:
    path = tmp_path / "search.toml"
    path.write_text(tiny_search(faces, weights__epochs=1).to_toml())
    return path


def test_list() -> None:
    assert json.loads(invoke("search", "--list", "--json").stdout) == list_search_recipes()
    shown = invoke("search", "--list").stdout
    assert all(name in shown for name in list_search_recipes())


def test_dry_run_shows_the_resolved_recipe() -> None:
    result = invoke(
        *("search", "--recipe", "casia", "--dry-run", "--data", "faces.rec", "--epochs", 3, "--order", 1),
        *("--batch-size", 8, "--seed", 5, "--workers", 1, "--device", "cpu", "--latency-weight", 0.2),
        *("--latency-table", "t.json", "--set", "weights.lr=0.2"),
    )
    assert result.exit_code == 0
    found = SearchRecipe.from_toml(result.stdout, "printed")
    assert (found.data.source, found.data.batch_size, found.data.workers) == ("faces.rec", 8, 1)
    assert (found.weights.epochs, found.weights.lr, found.run.seed, found.run.device) == (3, 0.2, 5, "cpu")
    architecture = found.architecture
    assert (architecture.order, architecture.latency_weight, architecture.latency_table) == (1, 0.2, "t.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no --recipe: expected one of casia, cifar10, synthetic_tiny"),
        (["--recipe", "casia"], "no --out"),
        (["--recipe", "nothing", "--out", "x"], "unknown recipe nothing"),
        (["--recipe", "casia", "--out", "x"], "no data: pass --data"),
        (["--recipe", "casia", "--out", "x", "--set", "lr"], "--set lr: expected SECTION.KEY=VALUE"),
        (["--recipe", "casia", "--out", "x", "--latency-weight", "1"], "needs architecture.latency_table"),
        (["--resume", "--out", "absent"], "absent holds no search"),
    ],
)
def test_bad_input(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("search", *arguments)
    assert isinstance(result.exception, PocketNetError)
    assert message in str(result.exception)


def test_what_a_search_finds_can_be_trained(recipe: Path, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = invoke("search", "--recipe", recipe, "--out", out, "--json", "--set", "run.drawings=true")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["finished"]
    genotype = read_genotype(report["genotype_file"])
    assert parse_genotype(report["genotype"]) == genotype
    for name in ("epochs/1.png", "epochs/1.svg", "alphas_normal.png", "alphas_reduce.svg"):
        assert (out / name).stat().st_size > 1000

    settings = tmp_path / "train.toml"
    settings.write_text(tiny_recipe(faces, schedule__epochs=1, schedule__milestones=[1]).to_toml())
    result = invoke(
        *("train", settings, "--genotype", report["genotype_file"], "--channels", 3, "--layers", 5),
        *("--out", tmp_path / "trained"),
    )
    assert result.exit_code == 0, result.output
    trained = Recipe.from_toml((tmp_path / "trained" / "recipe.toml").read_text(), "saved").model
    assert parse_genotype(trained.genotype or "") == genotype
    assert (trained.name, trained.channels, trained.layers) == ("pocketnet", 3, 5)


def test_a_genotype_alone_is_trained_as_published() -> None:
    options = ("--genotype", "softmax_cifar10", "--channels", 16, "--layers", 18, "--data", "x", "--dry-run")
    result = invoke("train", *options)
    assert result.exit_code == 0, result.output
    found = Recipe.from_toml(result.stdout, "printed")
    assert parse_genotype(found.model.genotype or "") == SOFTMAX_CIFAR10
    assert found.schedule.milestones == (8, 14, 20, 25)


def test_a_signal_saves_and_says_how_to_go_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SearchStepper.__call__

    def interrupted(self: SearchStepper, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return plain(self, *arguments)

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(SearchStepper, "__call__", interrupted)
        result = invoke("search", "--recipe", recipe, "--out", out)
    assert result.exit_code == 128 + signal.SIGINT
    assert f"stopped after step 1; go on with: pocketnet search --resume --out {out}" in result.output
    result = invoke("search", "--resume", "--out", out)
    assert result.exit_code == 0
    assert str(read_genotype(out / "genotype.json")) in result.stdout
