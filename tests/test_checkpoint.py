"""A run's folder: whole or not at all, torn sets passed over, what is kept, and what others read."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pocketnet_fast
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.weights import load_weights
from pocketnet_fast.resumable.folder import Progress
from pocketnet_fast.resumable.state_file import write_state
from pocketnet_fast.training.checkpoint import Contents, RunFolder, epoch_weights
from pocketnet_fast.training.recipe import Recipe, load_recipe


def network(seed: int) -> EmbeddingModel:
    torch.manual_seed(seed)
    return pocketnet_fast.create_model("pocketnet", channels=1, layers=4, embedding_dim=4)


def made(step: int, *, epochs: dict[int, int] | None = None, ema: bool = True) -> Contents:
    progress = Progress(10, 6, step=step, epoch=len(epochs or {}), epoch_weights=dict(epochs or {}))
    progress.epoch_sums = {"loss": 0.1 + 0.2 * step}
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "momentum_buffer.stem.0.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "step.x": torch.tensor(3.0),
    }
    kernel = torch.randn(4, 11, generator=generator)
    return Contents(network(step), kernel, network(step + 1) if ema else None, tensors, progress)


def recipe(**values: str) -> Recipe:
    return load_recipe("synthetic_tiny", {k.replace("__", "."): v for k, v in values.items()})


def names(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


def of_step(step: int) -> list[str]:
    """What a folder holds that has one step's checkpoint."""
    files = [f"{step}{kind}.safetensors" for kind in ("backbone", "ema", "header", "state")]
    return [*files, "recipe.toml"]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.write_recipe(recipe())
    return run


def test_round_trip(folder: RunFolder) -> None:
    contents = made(7, epochs={1: 7})
    folder.save(contents, recipe())
    progress, problems = folder.latest()
    assert problems == []
    assert progress == contents.progress
    assert folder.progress(7) == contents.progress
    tensors = folder.optimizer_tensors(7)
    assert tensors.keys() == contents.optimizer.keys()
    assert all(torch.equal(tensors[name], value) for name, value in contents.optimizer.items())
    assert contents.kernel is not None
    assert torch.equal(folder.columns(7, 3, 8), contents.kernel[:, 3:8])
    assert folder.recipe() == recipe()
    assert names(folder) == of_step(7)


def test_others_read_the_weights(folder: RunFolder) -> None:
    contents = made(7)
    folder.save(contents, recipe())
    fresh = load_weights(network(99), folder.file(7, "backbone"))
    for name, value in contents.backbone.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)
    assert list(load_file(folder.file(7, "header"))) == ["kernel"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["backbone", "header", "ema", "state"])
@pytest.mark.parametrize("damage", ["absent", "short", "changed", "empty"])
def test_a_torn_set_is_passed_over(folder: RunFolder, kind: str, damage: str) -> None:
    folder.save(made(7), recipe())
    folder.save(made(9), recipe())
    path = folder.file(9, kind)
    content = path.read_bytes()
    if damage == "absent":
        path.unlink()
    else:
        changed = content[:-1] + bytes([content[-1] ^ 1])
        path.write_bytes({"short": content[:-1], "changed": changed, "empty": b""}[damage])
    progress, problems = folder.latest()
    assert progress is not None
    assert progress.step == 7
    if (kind, damage) == ("state", "absent"):
        assert problems == []
    else:
        assert len(problems) == 1
        assert path.name in problems[0]


def test_changed_progress_is_found(folder: RunFolder) -> None:
    folder.save(made(7), recipe())
    path = folder.file(7, "state")
    content = path.read_bytes()
    assert content.count(b'\\"step\\": 7') == 1
    path.write_bytes(content.replace(b'\\"step\\": 7', b'\\"step\\": 8'))
    progress, problems = folder.latest()
    assert progress is None
    assert "does not match its SHA-256" in problems[0]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "names no files of a checkpoint"),
        ({"files": "[]"}, "names no files of a checkpoint"),
        ({"files": '{"../7backbone.safetensors": ""}'}, "names no files of a checkpoint"),
        ({"files": "{}"}, "states no progress of this version: KeyError"),
        ({"files": "{}", "progress": "[" * 100_000}, "states no progress of this version: RecursionError"),
        ({"files": "{}", "progress": '{"epoch_weights": {}, "pace": 1}'}, "states no progress .*TypeError"),
        ({"files": "{}", "progress": '{"epoch_weights": []}'}, "states no progress .*AttributeError"),
    ],
)
def test_a_state_of_another_version_is_passed_over(
    folder: RunFolder, metadata: dict[str, str], message: str
) -> None:
    folder.save(made(7), recipe())
    write_state(folder.file(9, "state"), {}, {"format": "pocketnet_fast.training.1", **metadata})
    progress, problems = folder.latest()
    assert progress is not None
    assert progress.step == 7
    assert len(problems) == 1
    assert re.search(rf"9state\.safetensors {message}", problems[0])


def test_what_is_kept(folder: RunFolder) -> None:
    rules = recipe(run__keep="2")
    epochs: dict[int, int] = {}
    for step in (5, 10, 15, 20):
        if step % 10 == 0:
            epochs[step // 10] = step
        folder.save(made(step, epochs=epochs), rules)
    assert [name for name in names(folder) if "backbone" in name] == [
        f"{step}backbone.safetensors" for step in (10, 15, 20)
    ]
    assert [name for name in names(folder) if "state" in name] == [
        "15state.safetensors",
        "20state.safetensors",
    ]
    assert [name for name in names(folder) if "header" in name] == [
        "15header.safetensors",
        "20header.safetensors",
    ]
    folder.save(made(25, epochs=epochs), recipe(run__keep="1", run__keep_epochs="false"))
    assert names(folder) == of_step(25)


def test_a_second_save_of_a_step_replaces_the_state_alone(folder: RunFolder) -> None:
    contents = made(7)
    folder.save(contents, recipe())
    before = {kind: folder.file(7, kind).stat().st_ino for kind in ("backbone", "header", "ema", "state")}
    contents.progress.verified_step = 7
    folder.save(contents, recipe())
    after = {kind: folder.file(7, kind).stat().st_ino for kind in before}
    assert [kind for kind in before if before[kind] != after[kind]] == ["state"]
    progress = folder.latest()[0]
    assert progress is not None
    assert progress.verified_step == 7


class Killed(BaseException):
    pass


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let the n-th change of the file system from now on never happen, nor any after it."""
    left = [10**9]
    replace, unlink, fsync = Path.replace, Path.unlink, os.fsync

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return call(*arguments, **options)

        return run

    monkeypatch.setattr(Path, "replace", counted(replace))
    monkeypatch.setattr(Path, "unlink", counted(unlink))
    monkeypatch.setattr(os, "fsync", counted(fsync))

    def arm(count: int) -> None:
        left[0] = count

    yield arm
    monkeypatch.undo()


def test_a_save_killed_anywhere_leaves_a_whole_set(
    folder: RunFolder, tmp_path: Path, killer: Callable[[int], None]
) -> None:
    rules = recipe(run__keep="1")
    contents = {step: made(step, epochs={1: 5} if step == 5 else {1: 5, 2: 10}) for step in (5, 10)}
    folder.save(contents[5], rules)
    found = []
    for count in range(60):
        copy = RunFolder(tmp_path / f"copy{count}")
        shutil.copytree(folder.path, copy.path)
        killer(count)
        try:
            copy.save(contents[10], rules)
            done = True
        except Killed:
            done = False
        killer(10**9)
        progress, _ = copy.latest()
        assert progress is not None
        found.append(progress.step)
        for path in copy.path.glob("*.safetensors"):
            load_file(path)
        copy.forget_after(progress.step)
        assert not [name for name in names(copy) if name.endswith(".tmp")]
        if done:
            break
    assert done
    assert found == sorted(found)
    assert set(found) == {5, 10}


def test_forget_after(folder: RunFolder) -> None:
    for step in (7, 9):
        folder.save(made(step), recipe())
    (folder.path / ".pocketnet-0123.tmp").write_bytes(b"half")
    (folder.path / "notes.txt").write_text("mine")
    folder.forget_after(7)
    assert all(name.startswith("7") or name in ("recipe.toml", "notes.txt") for name in names(folder))
    assert folder.latest()[0] is not None


def test_epoch_weights(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match="holds no checkpoint"):
        epoch_weights(folder.path)
    folder.save(made(10, epochs={1: 10}), recipe())
    folder.save(made(15, epochs={1: 10}), recipe())
    folder.save(made(20, epochs={1: 10, 2: 20}), recipe())
    assert epoch_weights(folder.path) == {1: folder.file(10, "backbone"), 2: folder.file(20, "backbone")}
    folder.file(10, "backbone").unlink()
    assert list(epoch_weights(folder.path)) == [2]

    published = tmp_path / "published"
    published.mkdir()
    with pytest.raises(PocketNetError, match=r"neither a training run nor files named STEPbackbone.pth"):
        epoch_weights(published)
    for step in (300, 100, 400):
        (published / f"{step}backbone.pth").write_bytes(b"")
    (published / "100header.pth").write_bytes(b"")
    assert epoch_weights(published) == {e: published / f"{100 * e}backbone.pth" for e in (1, 3, 4)}
    (published / "250backbone.pth").write_bytes(b"")
    with pytest.raises(PocketNetError, match=r"250backbone.pth was not written at the end of an epoch"):
        epoch_weights(published)


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match="holds no training run"):
        RunFolder(tmp_path).recipe()
    (tmp_path / "file").write_text("")
    with pytest.raises(PocketNetError, match="cannot be a folder"):
        RunFolder(tmp_path / "file").write_recipe(recipe())
    assert not RunFolder(tmp_path).is_used
    RunFolder(tmp_path).save(made(1), recipe())
    assert RunFolder(tmp_path).is_used
