"""Runs killed at any moment: each goes on, nothing is half written, and the end is the unbroken run's."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from training_runs import lines, same_bits, tiny_recipe, weights, write_faces

from pocketnet_fast.training.checkpoint import RunFolder
from pocketnet_fast.training.recipe import Recipe
from pocketnet_fast.training.trainer import train

KILLS = 12


def work(recipe: Recipe, folder: Path, begun: Event | None = None) -> None:
    """What the killed process does; it starts or goes on."""
    if begun is not None:
        begun.set()
    run = RunFolder(folder)
    train(None if run.holds_run else recipe, folder, resume=run.holds_run)


def check_files(folder: Path) -> None:
    """Every file that bears its name is whole; of the log, the last line may be cut off."""
    for path in folder.glob("*.safetensors"):
        load_file(path)
    if (folder / "recipe.toml").exists():
        RunFolder(folder).recipe()
    if (folder / "log.jsonl").exists():
        for line in (folder / "log.jsonl").read_bytes().splitlines(keepends=True)[:-1]:
            json.loads(line)


def step_saved(folder: Path) -> int:
    """The step of the run's last checkpoint, 0 where there is none."""
    progress = RunFolder(folder).latest()[0]
    return 0 if progress is None else progress.step


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    faces = write_faces(tmp_path / "train.rec")
    values = {"schedule__epochs": 12, "run__save_steps": 2, "run__keep": 2, "optimizer__ema_decay": 0.9}
    recipe = tiny_recipe(faces, **values, data__crop=0.5, optimizer__accumulate=2, data__batch_size=3)
    started = time.monotonic()
    train(recipe, tmp_path / "unbroken")
    length = time.monotonic() - started

    # Children of a server that has imported everything begin at once, and inherit nothing of this process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_runs", "pocketnet_fast.training.trainer", "torch._dynamo"])
    rng = np.random.default_rng(0)
    folder = tmp_path / "run"
    reached = []
    for kill in range(KILLS):
        begun = context.Event()
        child = context.Process(target=work, args=(recipe, folder, begun))
        child.start()
        assert begun.wait(60)
        # Half of the kills come while a run starts or goes on, the others within the twentieth of it after
        # it got further.
        if kill % 2 == 0:
            child.join(rng.uniform(0.0, 0.3))
        else:
            before = step_saved(folder)
            while child.exitcode is None and step_saved(folder) == before:
                child.join(0.01)
            child.join(rng.uniform(0.0, length / 20))
        assert child.pid is not None
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        if folder.exists():
            check_files(folder)
        reached.append(step_saved(folder))
    assert reached == sorted(reached)
    assert len(set(reached)) > 3, reached

    work(recipe, folder)
    for kind in ("backbone", "ema", "header", "state"):
        assert same_bits(weights(tmp_path / "unbroken", kind), weights(folder, kind)), kind
    assert lines(tmp_path / "unbroken", "step", "epoch") == lines(folder, "step", "epoch")
    names = [{path.name for path in run.iterdir()} for run in (tmp_path / "unbroken", folder)]
    assert names[0] == names[1]
    print(f"steps reached at each of {KILLS} kills: {reached}")
