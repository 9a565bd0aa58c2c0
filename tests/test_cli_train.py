"""``pocketnet train`` and ``pocketnet distill``: options, errors, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from training_runs import tiny_recipe, write_faces, write_recipe
from typer.testing import CliRunner, Result

from pocketnet_fast.cli.main import app
from pocketnet_fast.training.recipe import Recipe, list_recipes
from pocketnet_fast.training.trainer import train


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces") / "train.rec")


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def start(*arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pocketnet_fast.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def test_list() -> None:
    result = invoke("train", "--list")
    assert result.exit_code == 0
    for name in list_recipes():
        assert name in result.stdout
    assert json.loads(invoke("distill", "--list", "--json").stdout) == list_recipes()


def test_dry_run_shows_the_resolved_recipe() -> None:
    result = invoke(
        *("train", "pocketnet_s128_kd", "--dry-run", "--data", "faces", "--epochs", 3, "--batch-size", 16),
        *("--lr", 0.05, "--seed", 9, "--workers", 2, "--teacher", "t.pt", "--device", "cpu"),
        *("--verify", "a.bin", "--verify", "b c.bin"),
        *("--set", "distillation.weight=7", "--set", "optimizer.lr=0.2"),
    )
    assert result.exit_code == 0
    recipe = Recipe.from_toml(result.stdout, "printed")
    assert (recipe.data.source, recipe.data.batch_size, recipe.data.workers) == ("faces", 16, 2)
    assert (recipe.schedule.epochs, recipe.optimizer.lr, recipe.run.seed) == (3, 0.2, 9)
    assert (recipe.distillation.teacher, recipe.distillation.weight) == ("t.pt", 7.0)
    assert recipe.verification.bins == ("a.bin", "b c.bin")
    assert recipe.run.device == "cpu"


def test_distill_has_a_recipe_of_its_own() -> None:
    result = invoke("distill", "--dry-run", "--teacher", "t.safetensors", "--teacher-model", "mobilefacenet")
    recipe = Recipe.from_toml(result.stdout, "printed")
    assert recipe.loss.objective == "features"
    assert recipe.distillation.teacher_model == "mobilefacenet"
    assert recipe.schedule.kind == "cosine"


def test_train_and_distill(faces: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.toml", faces, schedule__epochs=1)
    result = invoke("train", recipe, "--out", tmp_path / "teacher", "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["step"], content["epoch"], content["finished"], content["signal"]) == (6, 1, True, 0)
    assert Path(content["weights"]) == tmp_path / "teacher" / "6backbone.safetensors"

    features = tmp_path / "f.toml"
    features.write_text(recipe.read_text().replace('objective = "margin"', 'objective = "features"'))
    out = tmp_path / "student"
    result = invoke("distill", features, "--teacher", tmp_path / "teacher", "--out", out)
    assert result.exit_code == 0, result.output
    assert f"{out}/6backbone.safetensors: the weights after 1 epochs, 6 steps" in result.stdout
    assert "epoch 1/1: loss " in result.stderr
    again = invoke("train", "--resume", "--out", out)
    assert again.exit_code == 0
    assert "all 1 epochs are done already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "no recipe: expected one of iresnet100_arcface, "),
        (["train", "--resume"], "no --out: expected the run's folder"),
        (["train", "synthetic_tiny"], "no --out: expected the run's folder"),
        (["train", "synthetic_tyni", "--out", "x"], "recipe synthetic_tyni; did you mean synthetic_tiny?"),
        (["train", "synthetic_tiny", "--out", "x", "--set", "lr"], "--set lr: expected SECTION.KEY=VALUE"),
        (["train", "synthetic_tiny", "--out", "x", "--lr", "-1"], "optimizer.lr is -1.0; expected above 0"),
        (["train", "pocketnet_s128_arcface", "--out", "x"], "no training data: pass --data"),
        (["distill", "--out", "x", "--data", "synthetic"], "'features' needs a teacher: pass --teacher"),
        (["train", "--resume", "--out", "absent"], "absent holds no training run"),
    ],
)
def test_bad_input(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code != 0
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    process = start("train", "synthetic_tiny", "--out", tmp_path / "x", "--data", tmp_path / "absent")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert err.startswith("pocketnet: ")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 0), (signal.SIGTERM, 1)]
)
def test_a_signal_saves_and_says_how_to_go_on(
    faces: Path, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    recipe = write_recipe(tmp_path / "r.toml", faces, schedule__epochs=500, data__workers=workers)
    out = tmp_path / "run"
    process = start("train", recipe, "--out", out)
    while process.poll() is None and not (out.is_dir() and len(_steps(out)) >= 3):
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as terminals and job schedulers do
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    last = _steps(out)[-1]
    assert err.splitlines()[-1] == (
        f"pocketnet: stopped after step {last:,}; go on with: pocketnet train --resume --out {out}"
    )
    assert "Traceback" not in err
    assert (out / f"{last}state.safetensors").is_file()
    short = tiny_recipe(faces, schedule__epochs=last // 6 + 1, data__workers=workers)
    outcome = train(short, out, resume=True, force=True)
    assert outcome.finished
    assert _steps(out) == list(range(1, outcome.step + 1))


def test_a_dead_loader_is_one_line(faces: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.toml", faces, schedule__epochs=500, data__workers=1)
    out = tmp_path / "run"
    process = start("train", recipe, "--out", out)
    while process.poll() is None and not (out.is_dir() and len(_steps(out)) >= 3):
        time.sleep(0.02)
    children: list[str] = []
    while process.poll() is None and not children:
        # Between two epochs there is none.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "Traceback" not in err
    assert "pocketnet: a process that loads images has died" in err.splitlines()[-1]


def _steps(out: Path) -> list[int]:
    if not (out / "log.jsonl").is_file():
        return []
    # The last line may be on its way.
    whole = (out / "log.jsonl").read_bytes().rpartition(b"\n")[0]
    return [line["step"] for line in map(json.loads, whole.splitlines()) if line["event"] == "step"]


def test_help_has_examples() -> None:
    for command in ("train", "distill"):
        assert f"Example: pocketnet {command}" in " ".join(invoke(command, "--help").output.split())
