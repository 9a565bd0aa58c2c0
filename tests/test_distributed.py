"""Several processes: two are one, one writes, sharded class centres move, an error of one ends all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import lines, tiny_recipe, weights, write_faces, write_recipe

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.losses import ShardedMargin
from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.resumable.distributed import Processes, processes
from pocketnet_fast.training.objective import MarginObjective
from pocketnet_fast.training.optimizer import make_optimizer
from pocketnet_fast.training.recipe import Recipe
from pocketnet_fast.training.step import Stepper
from pocketnet_fast.training.trainer import train

# Class centres of 7 identities lie unevenly on two processes; momentum and the average are in use. The rate
# is low because batches this small make training chaotic: at 0.1, rounding grows tenfold from step to step.
VALUES: dict[str, Any] = {
    "optimizer__lr": 0.002,
    "run__sync_bn": True,
    "model__fused": False,
    "optimizer__ema_decay": 0.5,
    "data__crop": 0.5,
    "loss__objective": "margin_kd",
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces") / "train.rec", 7, 6)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(tiny_recipe(faces, schedule__epochs=1), folder)
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(ranks: int, *arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.Popen(
        [*command, "--no-python", Path(sys.executable).with_name("pocketnet"), "train", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    )


def run(ranks: int, *arguments: Any) -> tuple[int, str]:
    process = start(ranks, *arguments)
    output = process.communicate(timeout=240)[0]
    return process.returncode, output


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Largest relative error of a tensor; shifts, which began as zeros, count as if their length was 0.1."""
    assert first.keys() == second.keys()
    return max(
        float((value.double() - second[name].double()).norm() / value.double().norm().clamp_min(0.1))
        for name, value in first.items()
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, faces: Path, teacher: Path) -> Path:
    folder = tmp_path_factory.mktemp("two")
    values = {**VALUES, "distillation__teacher": teacher, "data__batch_size": 6}
    recipe = write_recipe(folder / "recipe.toml", faces, **values)
    code, output = run(2, recipe, "--out", folder / "run")
    assert code == 0, output
    return folder / "run"


@pytest.mark.slow
def test_two_processes_are_one(two: Path, faces: Path, teacher: Path, tmp_path: Path) -> None:
    values = {**VALUES, "distillation__teacher": teacher, "data__batch_size": 12}
    train(tiny_recipe(faces, **values), tmp_path / "one")
    for kind in ("backbone", "ema", "header"):
        assert difference(weights(tmp_path / "one", kind), weights(two, kind)) < 1e-3, kind
    first, second = lines(tmp_path / "one", "step"), lines(two, "step")
    assert [line["step"] for line in first] == [line["step"] for line in second]
    for index, (mine, theirs) in enumerate(zip(first, second, strict=True)):
        # Rounding, then what batch statistics over twelve images make of it.
        for key in ("loss", "margin", "kd", "lr", "gradient_norm"):
            assert theirs[key] == pytest.approx(mine[key], rel=1e-4 if index < 2 else 1e-2), key
    assert lines(two, "start")[0]["processes"] == 2


@pytest.mark.slow
def test_own_statistics_are_others(two: Path, faces: Path, teacher: Path, tmp_path: Path) -> None:
    """The tolerance above means something: without shared statistics, two processes differ by more."""
    values = {**VALUES, "distillation__teacher": teacher, "data__batch_size": 6, "run__sync_bn": False}
    recipe = write_recipe(tmp_path / "recipe.toml", faces, **values)
    code, output = run(2, recipe, "--out", tmp_path / "run")
    assert code == 0, output
    assert "Warning" not in output, output
    assert difference(weights(two), weights(tmp_path / "run")) > 1e-2


def continuation(folder: Path, step: int) -> list[dict[str, Any]]:
    """The log's steps after one."""
    return [line for line in lines(folder, "step") if line["step"] > step]


def check_continuation(one: Path, two: Path, step: int) -> None:
    """That a run which went on with one process and a copy which went on with two learn the same."""
    first, second = continuation(one, step), continuation(two, step)
    assert [line["step"] for line in first] == [line["step"] for line in second]
    assert len(first) > 1
    for index, (mine, theirs) in enumerate(zip(first, second, strict=True)):
        for key in ("loss", "margin", "kd"):
            assert theirs[key] == pytest.approx(mine[key], rel=1e-4 if index < 2 else 1e-2), key
    for kind in ("backbone", "ema", "header"):
        assert difference(weights(one, kind), weights(two, kind)) < 2e-2, kind


@pytest.mark.slow
def test_runs_go_on_with_another_number_of_processes(faces: Path, teacher: Path, tmp_path: Path) -> None:
    values = {**VALUES, "distillation__teacher": teacher, "data__batch_size": 3, "schedule__epochs": 30}
    recipe = write_recipe(tmp_path / "recipe.toml", faces, **values, schedule__milestones=[30])
    process = start(2, recipe, "--out", tmp_path / "stopped")
    log = tmp_path / "stopped" / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count('"step", "step"') > 1):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    stopped = lines(tmp_path / "stopped", "step")[-1]["step"]
    assert f"stopped after step {stopped:,}; go on with: torchrun" in output
    assert weights(tmp_path / "stopped", "header")["kernel"].shape == (8, 7)
    with pytest.raises(PocketNetError, match="steps have 6 images over all processes, and would now have 3"):
        train(None, tmp_path / "stopped", resume=True)

    epochs = stopped // 7 + 1
    for ends in (epochs, epochs + 1):
        # From two processes to one and to two, then from one to one and to two.
        done = stopped if ends == epochs else epochs * 7
        source = tmp_path / ("stopped" if ends == epochs else f"one{epochs}")
        one, two = (Path(shutil.copytree(source, tmp_path / f"{name}{ends}")) for name in ("one", "two"))
        longer = {**values, "data__batch_size": 6, "schedule__epochs": ends, "schedule__milestones": [30]}
        train(tiny_recipe(faces, **longer), one, resume=True, force=True)
        options = ["--resume", "--force", "--epochs", ends, "--batch-size", 3]
        code, output = run(2, "--out", two, *options)
        assert code == 0, output
        check_continuation(one, two, done)


def skipping(rank: int, folder: str) -> None:
    """Steps of two batches each, of which one process's embeddings are NaN in some: what each reports."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = Poisoned()
    head = ShardedMargin(4, 6, average_gradients=True)
    parameters = dict(network.named_parameters()) | {"kernel": head.kernel}
    rules = Recipe()
    processes = Processes(rank, 2, torch.device("cpu"))
    stepper = Stepper(
        processes.average_gradients(network),
        InputSpec(),
        MarginObjective(head),
        make_optimizer(rules.optimizer, parameters),
        None,
        rules,
        processes,
    )
    found: list[Any] = []
    for step in range(4):
        before = {name: value.clone() for name, value in parameters.items()}
        generator = torch.Generator().manual_seed(10 * step + rank)
        batches = [
            (
                torch.randint(0, 256, (3, 112, 112, 3), generator=generator, dtype=torch.uint8),
                torch.randint(0, 6, (3,), generator=generator),
            )
            for _ in range(2)
        ]
        # The second batch of step 1 on one process, and the first of step 2 on the other.
        network.poisoned = {(1, 1): 1, (2, 0): 0}.get((step, rank), -1)
        network.calls = 0
        asked = (step, rank) == (2, 1)
        report = stepper(batches, 0.1, step, lambda asked=asked: asked)
        kept = all(torch.equal(before[name], value) for name, value in parameters.items())
        found.append((report.problem, report.stop, kept, network.weight.detach().clone()))
    torch.save(found, f"{folder}/{rank}.pt")
    # A process that leaves while the other still talks to it may abort, and so may one whose network outlives
    # its group.
    torch.distributed.barrier()
    del stepper
    torch.distributed.destroy_process_group()


class Poisoned(torch.nn.Linear):
    """Its answer to one of the calls is NaN."""

    def __init__(self) -> None:
        super().__init__(48, 4)
        self.poisoned, self.calls = -1, 0

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))
        self.calls += 1
        return out * (float("nan") if self.calls - 1 == self.poisoned else 1.0)


@pytest.mark.slow
def test_a_step_is_skipped_by_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    torch.multiprocessing.spawn(skipping, (str(tmp_path),), nprocs=2)
    reports = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    problem = "an embedding is not finite"
    for found in reports:
        assert [entry[0] for entry in found] == [None, problem, problem, None]
        assert [entry[1] for entry in found] == [False, False, True, False]
        assert [entry[2] for entry in found] == [False, True, True, False]
    for first, second in zip(*reports, strict=True):
        assert torch.equal(first[3], second[3])


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(faces: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.rec"
    content = bytearray(faces.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    damaged.write_bytes(content)
    damaged.with_suffix(".idx").write_bytes(faces.with_suffix(".idx").read_bytes())
    recipe = write_recipe(tmp_path / "recipe.toml", damaged, data__batch_size=3)
    begun = time.monotonic()
    code, output = run(2, recipe, "--out", tmp_path / "run")
    assert code != 0
    assert "damaged.rec" in output
    assert time.monotonic() - begun < 90


def test_one_process_needs_no_group() -> None:
    with processes("cpu") as group:
        assert group == Processes(0, 1, torch.device("cpu"))
        assert group.first
        assert not torch.distributed.is_initialized()
        assert group.sum_(torch.tensor([2.0])).item() == 2.0
        group.wait()


def test_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PocketNetError, match="finds no CUDA device"), processes("cuda"):
        pass
