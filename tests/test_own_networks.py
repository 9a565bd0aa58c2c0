"""What was trained or found here, in every command: the network comes from the weights."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, refused, runner
from faces import crop, write_crops
from helpers import random_genotype, randomize_
from pair_files import drawn_pairs
from search_runs import tiny_search
from training_runs import tiny_recipe, write_faces

from pocketnet_fast.cli.main import app
from pocketnet_fast.evaluation.pair_files import write_pairs
from pocketnet_fast.faces.pipeline import Embedder
from pocketnet_fast.models.loading import load_model
from pocketnet_fast.models.mobilefacenet import MobileFaceNet
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.weights import load_weights, save_weights, weights_sha256
from pocketnet_fast.training.checkpoint import newest_weights
from pocketnet_fast.training.trainer import train

PAIRS = 24
OWN = ("run", "file of a run", "found", "foreign")
README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with averaged weights, a network of a genotype of its own, a foreign file, and data."""
    folder = tmp_path_factory.mktemp("own")
    write_faces(folder / "train.rec")
    recipe = tiny_recipe(folder / "train.rec", schedule__epochs=2, optimizer__ema_decay=0.5)
    train(recipe, folder / "run")
    model = PocketNet(random_genotype(7, nodes=3), channels=3, layers=5, embedding_dim=16)
    save_weights(randomize_(model, 7), folder / "found.safetensors")
    torch.save({"net": randomize_(MobileFaceNet(32), 7).state_dict()}, folder / "foreign.pth.tar")
    write_pairs(folder / "pairs.bin", drawn_pairs(PAIRS))
    write_crops(folder, 2)
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


@pytest.fixture(params=OWN)
def weights(request: pytest.FixtureRequest, folder: Path) -> Path:
    return {
        "run": folder / "run",
        "file of a run": folder / "run" / "12backbone.safetensors",
        "found": folder / "found.safetensors",
        "foreign": folder / "foreign.pth.tar",
    }[request.param]


def network(weights: Path) -> Embedder:
    return Embedder(load_model(newest_weights(weights) if weights.is_dir() else weights), engine="eager")


def test_a_run_gives_its_last_averaged_weights(folder: Path, tmp_path: Path) -> None:
    run = folder / "run"
    assert newest_weights(run) == run / "12ema.safetensors"
    for path in run.glob("12*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "recipe.toml").write_bytes((run / "recipe.toml").read_bytes())
    (tmp_path / "13backbone.safetensors").write_bytes(b"written by a run that was killed before its state")
    assert newest_weights(tmp_path) == tmp_path / "12ema.safetensors"


def test_eval(run: Run, weights: Path, folder: Path) -> None:
    report = run("eval", folder / "pairs.bin", "--folds", 2, "--weights", weights, "--json").json
    embedder = network(weights)
    assert report["weights_sha256"] == embedder.weights_sha256
    assert report["model"] == embedder.model_name
    assert report["engine"] == "fused"


def test_embed(run: Run, weights: Path, folder: Path) -> None:
    result = run("embed", folder / "0.png", "--aligned", "--no-flip", "--weights", weights, "--json")
    embedder = network(weights)
    row = embedder(crop(0)[None])[0]
    found = np.array(result.json["embeddings"][0]["embedding"])
    np.testing.assert_allclose(found, row / np.linalg.norm(row), atol=1e-4)


def test_embed_takes_folders(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/2.png", "a/b/1.png", "3.png"):
        (tmp_path / name).write_bytes((folder / "0.png").read_bytes())
    (tmp_path / "a" / "notes.txt").write_text("no image")
    options = ("--aligned", "--weights", folder / "found.safetensors", "--json")
    result = run("embed", tmp_path / "a", tmp_path / "3.png", *options)
    expected = [str(tmp_path / name) for name in ("a/2.png", "a/b/1.png", "3.png")]
    assert [entry["file"] for entry in result.json["embeddings"]] == expected
    (tmp_path / "empty").mkdir()
    assert refused(run("embed", tmp_path / "empty", *options), "empty holds no image")


def test_verify(run: Run, weights: Path, folder: Path) -> None:
    photos = folder / "0.png", folder / "0.png"
    result = run("verify", *photos, "--aligned", "--weights", weights, "--json").json
    assert result["cosine"] == pytest.approx(1, abs=1e-5)
    assert result["model"] == network(weights).model_name


@pytest.mark.slow
def test_calibrate_and_export(run: Run, weights: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "calibrated.safetensors"
    result = run("calibrate", folder / "pairs.bin", "--far", 0.25, "--weights", weights, "-o", output)
    assert result.code == 0, result.err
    model = load_model(output)
    assert weights_sha256(model) == network(weights).weights_sha256
    assert model.calibration is not None
    exported = run("export", "-o", tmp_path / "a.pt", "--kernels", "aten", "--weights", output, "--json").json
    assert exported["metadata"]["weights_sha256"] == weights_sha256(model)
    assert exported["metadata"]["calibration"]["threshold"] == model.calibration.threshold
    report = run("eval", folder / "pairs.bin", "--folds", 2, "--weights", tmp_path / "a.pt", "--json").json
    assert (report["engine"], report["model"]) == ("torchscript", model.model_name)


def test_gallery(run: Run, weights: Path, folder: Path, tmp_path: Path) -> None:
    options = ("--aligned", "--weights", weights)
    assert run("gallery", "build", folder / "0.png", "-o", tmp_path / "g", *options).code == 0
    assert run("gallery", "add", tmp_path / "g", folder / "1.png", *options).code == 0
    found = run("gallery", "search", tmp_path / "g", folder / "1.png", *options, "--json").json
    assert found["results"][0]["matches"][0]["name"] == "1"


def test_info(run: Run, weights: Path) -> None:
    about = run("info", "--weights", weights, "--json").json
    embedder = network(weights)
    assert about["weights"]["sha256"] == embedder.weights_sha256
    assert (about["model"], about["embedding_dim"]) == (embedder.model_name, embedder.embedding_dim)


def test_bench(run: Run, weights: Path) -> None:
    result = run("bench", "--weights", weights, "--repeat", 1, "--json")
    assert result.json["model"] == ("mobilefacenet" if "foreign" in weights.name else "pocketnet")


def test_what_was_taken_is_said(run: Run, folder: Path) -> None:
    command = ("embed", folder / "0.png", "--aligned", "--json", "--weights")
    assert f"taking the weights {folder}/run/12ema.safetensors" in run(*command, folder / "run").err
    assert "does not name its network; by its keys and shapes it is mobilefacenet, embedding 32" in (
        run(*command, folder / "foreign.pth.tar").err
    )
    assert run(*command, folder / "found.safetensors").err == ""


def test_refusals(run: Run, folder: Path, tmp_path: Path) -> None:
    def embed(weights: Path, *more: object) -> object:
        return run("embed", folder / "0.png", "--aligned", "--json", "--weights", weights, *more)

    found = folder / "found.safetensors"
    message = "holds a PocketNet of its own genotype, 3 channels, 5 cells, embedding 16, not pocketnet_m256"
    assert refused(embed(found, "--model", "pocketnet_m256"), message)
    assert refused(
        embed(folder / "foreign.pth.tar", "--model", "iresnet50"), "looks like mobilefacenet, embedding 32"
    )
    assert refused(embed(tmp_path), "holds neither a training run nor files named STEPbackbone.pth")
    assert refused(embed(tmp_path / "none"), "none: no such weight file")
    (tmp_path / "genotype.json").write_text("{}")
    assert refused(embed(tmp_path), f"pocketnet train --genotype {tmp_path}/genotype.json")
    (tmp_path / "started").mkdir()
    (tmp_path / "started" / "recipe.toml").write_bytes((folder / "run" / "recipe.toml").read_bytes())
    assert refused(embed(tmp_path / "started"), "started holds no checkpoint yet")


def test_a_found_genotype_goes_all_the_way(run: Run, folder: Path, tmp_path: Path) -> None:
    """As README's chapters: search, train what it found, evaluate, export."""
    recipe = tmp_path / "search.toml"
    recipe.write_text(tiny_search(folder / "train.rec", weights__epochs=1).to_toml())
    assert run("search", "--recipe", recipe, "--out", tmp_path / "search").code == 0
    recipe.write_text(tiny_recipe(folder / "train.rec", schedule__epochs=1).to_toml())
    trained = run(
        *(
            "train",
            recipe,
            "--genotype",
            tmp_path / "search" / "genotype.json",
            "--channels",
            2,
            "--layers",
            4,
        ),
        *("--out", tmp_path / "found"),
    )
    assert trained.code == 0, trained.err
    evaluated = run("eval", "--weights", tmp_path / "found", folder / "pairs.bin", "--folds", 2, "--json")
    assert evaluated.json["model"] == "pocketnet"
    exported = run(
        "export", "--weights", tmp_path / "found", "-o", tmp_path / "found.pt", "--input", "uint8", "--json"
    )
    assert exported.json["metadata"]["weights_sha256"] == evaluated.json["weights_sha256"]
    text = (tmp_path / "search" / "genotype.txt").read_text()
    model = load_model(newest_weights(tmp_path / "found"))
    assert str(model.genotype) == text.strip()
    assert load_weights(model, newest_weights(tmp_path / "found")) is model


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = (line.partition(" #")[0].strip() for line in lines)
    return [part.strip() for c in commands for part in c.split(";") if part.strip().startswith("pocketnet ")]


@pytest.mark.parametrize("command", readme_commands())
def test_commands_of_the_readme_are_understood(command: str) -> None:
    """Every command and option exists; nothing is run."""
    from typer.main import get_command

    context, arguments = None, shlex.split(command)[1:]
    group = get_command(app)
    while hasattr(group, "commands") and arguments != ["--help"]:
        group, arguments = group.commands[arguments[0]], arguments[1:]
    if "--help" not in arguments:
        context = group.make_context(command, arguments, resilient_parsing=False)
        assert context.params
