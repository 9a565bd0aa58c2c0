"""A full disk, a closed pipe, a folder that takes no file, a terminal without Unicode: one line, exit 2."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Result, Run, refused, runner
from faces import crop, write_folder
from pair_files import drawn_pairs
from training_runs import tiny_recipe, write_faces

from pocketnet_fast.cli import main as cli
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.evaluation.pair_files import write_pairs
from pocketnet_fast.models.genotypes import SOFTMAX_CASIA
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.models.weights import save_weights

LIMIT = 8 << 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    save_weights(PocketNet(SOFTMAX_CASIA, 2, 4, 8), folder / "w.safetensors")
    write_pairs(folder / "pairs.bin", drawn_pairs(40))
    write_folder(folder / "people", {"a": 30, "b": 30})
    (folder / "0.png").write_bytes(encode_image(crop(0), ".png"))
    write_faces(folder / "train.rec")
    (folder / "tiny.toml").write_text(tiny_recipe(folder / "train.rec", schedule__epochs=1).to_toml())
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def commands(folder: Path, out: Path) -> dict[str, list[object]]:
    """Each command that writes files, as arguments of the command line."""
    many = sorted((folder / "people" / "a").glob("*")) * 10
    weights = ["--weights", folder / "w.safetensors"]
    aligned = ["--aligned", *weights]
    (out / "list.txt").write_text("".join(f"{i}.png\n" for i in range(30)))
    extract = ["megaface", "extract", out / "list.txt", "--root", folder / "people" / "a"]
    return {
        "embed": ["embed", *many, *aligned, "-o", out / "o.npz"],
        "embed csv": [
            "embed",
            *many,
            *aligned,
            "-o",
            out / "o.csv",
        ],
        "verify": ["verify", folder / "0.png", folder / "0.png", *aligned, "--show", out / "o.png"],
        "eval": ["eval", folder / "pairs.bin", *weights, "-o", out / "eval"],
        "calibrate": ["calibrate", "--far", 0.5, folder / "pairs.bin", *weights, "-o", out / "o.safetensors"],
        "gallery": ["gallery", "build", folder / "people", *aligned, "-o", out / "g", "--duplicates"],
        "data make": ["data", "make", out / "o.rec", "--identities", 2, "--images", 2],
        "data convert": ["data", "convert", folder / "people", out / "o.rec"],
        "data convert back": ["data", "convert", folder / "train.rec", out / "made"],
        "data pairs": ["data", "pairs", folder / "pairs.bin", out / "o.npz"],
        "data inspect": ["data", "inspect", folder / "people", "--show", out / "o.png"],
        "megaface": [*extract, *aligned, "-o", out / "o.bin"],
        "export": ["export", *weights, "--kernels", "aten", "-o", out / "o.pt"],
        "train": ["train", folder / "tiny.toml", "--out", out / "run"],
    }


NAMES = [
    *("embed", "embed csv", "verify", "eval", "calibrate", "gallery", "data make", "data convert"),
    *("data convert back", "data pairs", "data inspect", "megaface", "export", "train"),
]
# Their files are below any limit that the others' lists and logs would keep.
SMALL = {"megaface": 512, "gallery": 1024, "data convert back": 2048, "eval": 1024}


def limited(run: Run, size: int, arguments: list[object]) -> Result:
    """Run a command whose files cannot grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        return run(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(run: Run, folder: Path, tmp_path: Path, name: str) -> None:
    command = commands(folder, tmp_path)[name]
    result = limited(run, SMALL.get(name, LIMIT), command)
    # SQLite tells no more than that.
    said = "disk I/O error" if name == "gallery" else "File too large"
    assert refused(result, said), result.err
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != "list.txt")
    # A run keeps what it had; nothing else leaves anything.
    assert left == [] or name == "train", left
    if name == "train":
        again = run(*command, "--resume")
        assert again.code == 0, again.err


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_takes_no_file(run: Run, folder: Path, tmp_path: Path, name: str) -> None:
    # No file can be made below /proc, not even by root.
    place = Path("/proc/self/fdinfo")
    command = [
        place / argument.relative_to(tmp_path)
        if isinstance(argument, Path) and argument.is_relative_to(tmp_path) and argument.name != "list.txt"
        else argument
        for argument in commands(folder, tmp_path)[name]
    ]
    assert refused(run(*command)), name


def printed_to(stream: int, run: Run, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Result:
    """Run a command whose output goes to a file descriptor, which is closed then."""
    with os.fdopen(stream, "w") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        return run(*arguments)


@pytest.mark.parametrize("arguments", [("info", "mobilefacenet"), ("train", "--help"), ("train", "--list")])
def test_a_closed_pipe(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = printed_to(writer, run, monkeypatch, *arguments)
    assert refused(result, "the output was closed before all of it was written")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("info", "mobilefacenet"), ("train", "--help"), ("train", "--list")])
def test_a_full_device(run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    result = printed_to(os.open("/dev/full", os.O_WRONLY), run, monkeypatch, *arguments)
    assert refused(result, "No space left on device")
    assert result.err.count("\n") == 1


def test_the_end_of_a_process_adds_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pocketnet_fast.cli", "train", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.returncode == 2
    assert done.stderr == b"pocketnet: the output was closed before all of it was written\n"


def test_a_terminal_without_unicode(folder: Path, tmp_path: Path) -> None:
    photo = tmp_path / "Zoë.png"
    photo.write_bytes((folder / "0.png").read_bytes())
    command = [
        sys.executable,
        "-m",
        "pocketnet_fast.cli",
        "embed",
        photo,
        "--aligned",
        "-o",
        tmp_path / "ë.csv",
    ]
    done = subprocess.run(
        [*map(str, command), "--weights", str(folder / "w.safetensors")],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert b"wrote 1 embeddings of 8 dimensions to " in done.stderr
    assert (tmp_path / "ë.csv").read_text().splitlines()[1].startswith(str(photo))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "cannot write: No space left on device"),
        (PermissionError(13, "Permission denied", "a.png"), "a.png: Permission denied"),
    ],
)
def test_what_no_command_foresees(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert refused(run("info"), message)


class TestTraining:
    def test_a_batch_of_one(self, run: Run, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "run"
        refusal = run("train", folder / "tiny.toml", "--out", out, "--batch-size", 1)
        assert refused(refusal, "data.batch_size is 1, and batch normalisation needs at least 2 images")
        assert not out.exists()
        accumulated = ("--batch-size", 2, "--set", "optimizer.accumulate=3")
        assert run("train", folder / "tiny.toml", "--out", out, *accumulated).code == 0

    def test_one_identity(self, run: Run, folder: Path, tmp_path: Path) -> None:
        write_folder(tmp_path / "one", {"ann": 8})
        refusal = run("train", folder / "tiny.toml", "--out", tmp_path / "run", "--data", tmp_path / "one")
        assert refused(
            refusal, "one holds one identity; a network learns to tell identities apart from at least 2"
        )
        refusal = run(
            "search", "--recipe", "synthetic_tiny", "--out", tmp_path / "s", "--data", tmp_path / "one"
        )
        assert refused(refusal, "one holds one identity")
        assert not (tmp_path / "run").exists()
        assert not (tmp_path / "s").exists()

    def test_a_run_whose_first_step_fails_leaves_no_folder(
        self, run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from pocketnet_fast.training.step import Stepper

        command = ("train", folder / "tiny.toml", "--out", tmp_path / "run")

        def fail(*_: object) -> None:
            raise ValueError("a defect")

        with monkeypatch.context() as patch, pytest.raises(ValueError, match="a defect"):
            patch.setattr(Stepper, "__call__", fail)
            run(*command)
        assert not (tmp_path / "run").exists()
        assert run(*command).code == 0


def test_an_empty_index(run: Run, folder: Path, tmp_path: Path) -> None:
    for suffix in (".rec", ".idx"):
        (tmp_path / f"train{suffix}").write_bytes((folder / f"train{suffix}").read_bytes())
    for content in (b"", b"\n\n"):
        (tmp_path / "train.idx").write_bytes(content)
        message = "train.idx is empty; without it, the index is made anew from the records"
        assert refused(run("data", "inspect", tmp_path / "train.rec"), message)
    (tmp_path / "train.idx").unlink()
    assert run("data", "inspect", tmp_path / "train.rec", "--quick").code == 0


def test_one_pair(run: Run, folder: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "one.bin", drawn_pairs(1))
    result = run("eval", tmp_path / "one.bin", "--weights", folder / "w.safetensors")
    assert refused(result, "one.bin: 1 pair cannot be judged by folds; expected at least 2")


def test_a_list_is_no_array(folder: Path) -> None:
    from pocketnet_fast.errors import PocketNetError
    from pocketnet_fast.faces.pipeline import Embedder
    from pocketnet_fast.models.loading import load_model

    embedder = Embedder(load_model(folder / "w.safetensors"), engine="eager")
    with pytest.raises(PocketNetError, match="uint8 crops as one numpy array, got a list"):
        embedder([crop(0)])  # type: ignore[arg-type]
    assert embedder(np.stack([crop(0)])).shape == (1, 8)


def test_photos_with_several_faces_are_mentioned(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pocketnet_fast.data.alignment import TEMPLATE
    from pocketnet_fast.faces.detector import Face, FaceDetector

    faces = [Face((0.0, 0.0, 100.0, 100.0), TEMPLATE, 0.95), Face((0.0, 0.0, 40.0, 40.0), TEMPLATE / 2, 0.9)]
    detect: Callable[..., list[Face]] = lambda self, image: faces  # noqa: E731
    monkeypatch.setattr(FaceDetector, "__init__", lambda self, path=None, **options: None)
    monkeypatch.setattr(FaceDetector, "detect", detect)
    options = ("--weights", folder / "w.safetensors")
    photos = [folder / "people" / "a" / f"{i}.png" for i in range(7)]
    message = "0.png shows 2 faces; the most prominent was taken"
    result = run("embed", *photos, *options, "--json")
    assert message in result.err
    assert "so do 2 more photos" in result.err
    assert result.json["embeddings"][0]["faces"] == 2
    assert message in run("gallery", "build", photos[0], "-o", tmp_path / "g", *options).err
    found = run("gallery", "search", tmp_path / "g", photos[0], *options, "--json")
    assert message in found.err
    assert found.json["results"][0]["faces"] == 2
    assert message in run("gallery", "add", tmp_path / "g", photos[0], *options).err
    (tmp_path / "list.txt").write_text("0.png\n")
    extract = ("megaface", "extract", tmp_path / "list.txt", "--root", photos[0].parent)
    assert message in run(*extract, "-o", tmp_path / "f.bin", *options).err
    assert "1 less prominent left aside" in run("verify", photos[0], photos[1], *options).out
