"""Runs: what they write, resuming bit for bit anywhere, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import (
    IDENTITIES,
    IMAGES,
    break_off_at,
    lines,
    same_bits,
    stop_after,
    tiny_recipe,
    weights,
    write_faces,
)

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.resumable import interruption as interruption_module
from pocketnet_fast.resumable.interruption import Interruption
from pocketnet_fast.resumable.loop import DivergedError
from pocketnet_fast.training import step as step_module
from pocketnet_fast.training.checkpoint import RunFolder
from pocketnet_fast.training.recipe import Recipe
from pocketnet_fast.training.step import Stepper
from pocketnet_fast.training.trainer import Outcome, train

STEPS = IDENTITIES * IMAGES // 6

# All that lasts from step to step is in use: momentum, average, accumulation, augmentation, sampled classes.
EVERYTHING: dict[str, Any] = {
    "data__batch_size": 3,
    "optimizer__accumulate": 2,
    "optimizer__ema_decay": 0.9,
    "data__crop": 0.5,
    "data__color": 0.5,
    "data__cutout": 0.5,
    "loss__sample_rate": 0.6,
}


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces") / "train.rec")


def newest(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {
        kind: weights(folder, kind)
        for kind in ("backbone", "header", "ema", "state")
        if list(folder.glob(f"*{kind}.safetensors"))
    }


@pytest.fixture(scope="session")
def unbroken(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    outcome = train(tiny_recipe(faces, **EVERYTHING), folder)
    assert outcome.finished
    assert outcome.step == 2 * STEPS
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", [4, STEPS, STEPS + 1])
def test_resumes_bit_for_bit(
    faces: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, workers: int
) -> None:
    recipe = tiny_recipe(faces, **EVERYTHING, data__workers=workers)
    stop_after(stop, monkeypatch)
    first = train(recipe, tmp_path / "run")
    monkeypatch.undo()
    assert (first.finished, first.signal) == (False, signal.SIGTERM)
    assert first.step == stop
    assert first.weights.is_file()
    second = train(None, tmp_path / "run", resume=True)
    assert (second.finished, second.step) == (True, 2 * STEPS)
    for kind, tensors in newest(unbroken).items():
        assert same_bits(tensors, newest(tmp_path / "run")[kind]), kind
    assert lines(unbroken, "step", "epoch") == lines(tmp_path / "run", "step", "epoch")
    steps = [line["step"] for line in lines(tmp_path / "run", "step")]
    assert steps == list(range(1, 2 * STEPS + 1))
    assert [line["step"] for line in lines(tmp_path / "run", "resume")] == [first.step]


@pytest.mark.slow(seconds=5)
def test_half_precision_resumes_bit_for_bit(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(faces, **EVERYTHING, run__precision="bf16")
    train(recipe, tmp_path / "whole")
    stop_after(2, monkeypatch)
    train(recipe, tmp_path / "run")
    monkeypatch.undo()
    assert train(None, tmp_path / "run", resume=True).finished
    for kind, tensors in newest(tmp_path / "whole").items():
        assert same_bits(tensors, newest(tmp_path / "run")[kind]), kind


def test_resumes_from_the_last_save_and_forgets_what_came_after(
    faces: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off_at(6, monkeypatch)
    recipe = tiny_recipe(faces, **EVERYTHING, run__save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run")
    monkeypatch.undo()
    assert [line["step"] for line in lines(tmp_path / "run", "step")] == [1, 2, 3, 4, 5]
    train(None, tmp_path / "run", resume=True)
    assert [line["step"] for line in lines(tmp_path / "run", "resume")] == [4]
    assert lines(unbroken, "step", "epoch") == lines(tmp_path / "run", "step", "epoch")
    assert same_bits(weights(unbroken), weights(tmp_path / "run"))


def test_a_torn_checkpoint_costs_the_steps_since_the_one_before(
    faces: Path,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rich.console import Console

    stop_after(5, monkeypatch)
    train(tiny_recipe(faces, **EVERYTHING, run__save_steps=2), tmp_path / "run")
    monkeypatch.undo()
    last = max((tmp_path / "run").glob("*header.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    last.write_bytes(last.read_bytes()[:-8])
    train(None, tmp_path / "run", resume=True, console=Console())
    text = capsys.readouterr().out
    assert f"{last.name} is damaged" in text
    assert "going on after step 4 (epoch 1)" in text
    assert same_bits(weights(unbroken), weights(tmp_path / "run"))
    assert lines(unbroken, "step", "epoch") == lines(tmp_path / "run", "step", "epoch")


def test_no_checkpoint_that_can_be_read_is_an_error(faces: Path, tmp_path: Path) -> None:
    train(tiny_recipe(faces, schedule__epochs=1), tmp_path / "run")
    path = tmp_path / "run" / "6state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    files = sorted((tmp_path / "run").iterdir())
    with pytest.raises(PocketNetError, match=r"no checkpoint can be read: .*6state.safetensors is damaged"):
        train(None, tmp_path / "run", resume=True)
    assert sorted((tmp_path / "run").iterdir()) == files


def test_killed_before_the_first_checkpoint(
    faces: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(faces, **EVERYTHING), tmp_path / "run")
    monkeypatch.undo()
    train(None, tmp_path / "run", resume=True)
    assert lines(unbroken, "step", "epoch") == lines(tmp_path / "run", "step", "epoch")
    assert same_bits(weights(unbroken), weights(tmp_path / "run"))


def test_what_a_run_writes(unbroken: Path, faces: Path) -> None:
    assert RunFolder(unbroken).recipe() == tiny_recipe(faces, **EVERYTHING)
    steps = lines(unbroken, "step")
    assert [line["epoch"] for line in steps] == [1] * STEPS + [2] * STEPS
    assert [line["lr"] for line in steps] == pytest.approx([0.1] * STEPS + [0.01] * STEPS)
    for line in steps:
        assert line["loss"] > 0
        assert line["gradient_norm"] > 0
        assert line["skipped"] == 0
    start = lines(unbroken, "start")
    assert start == [
        {
            "event": "start",
            "step": 0,
            "images": IDENTITIES * IMAGES,
            "classes": IDENTITIES,
            "processes": 1,
            "device": "cpu",
        }
    ]
    epochs = lines(unbroken, "epoch")
    for epoch in (1, 2):
        losses = [line["loss"] for line in steps if line["epoch"] == epoch]
        assert epochs[epoch - 1]["loss"] == pytest.approx(sum(losses) / STEPS)
        assert epochs[epoch - 1]["step"] == epoch * STEPS
    names = {path.name for path in unbroken.iterdir()}
    kinds = ("backbone", "ema", "header", "state")
    assert names == {
        "recipe.toml",
        "log.jsonl",
        *(f"{step}{kind}.safetensors" for step in (STEPS, 2 * STEPS) for kind in kinds),
    }


def test_it_learns(faces: Path, tmp_path: Path) -> None:
    train(tiny_recipe(faces, schedule__epochs=6, schedule__milestones=[5]), tmp_path / "run")
    losses = [line["loss"] for line in lines(tmp_path / "run", "epoch")]
    assert losses[-1] < 0.6 * losses[0]


def test_seed_decides(faces: Path, tmp_path: Path) -> None:
    runs = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny_recipe(faces, schedule__epochs=1, run__seed=seed), tmp_path / name)
        runs[name] = weights(tmp_path / name)
    assert same_bits(runs["a"], runs["b"])
    assert not same_bits(runs["a"], runs["c"])


def test_finished_run(unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    before = {path.name: path.stat().st_mtime_ns for path in unbroken.glob("*.safetensors")}
    outcome = train(None, unbroken, resume=True, console=Console())
    assert (outcome.finished, outcome.step) == (True, 2 * STEPS)
    assert "all 2 epochs are done already" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in unbroken.glob("*.safetensors")} == before


def test_folder_in_use(faces: Path, unbroken: Path, tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match="holds a run already; --resume goes on with it"):
        train(tiny_recipe(faces), unbroken)
    with pytest.raises(PocketNetError, match="holds no training run"):
        train(None, tmp_path, resume=True)
    with pytest.raises(PocketNetError, match="a new run needs a recipe"):
        train(None, tmp_path)


def test_bad_input_leaves_no_folder(faces: Path, tmp_path: Path) -> None:
    bad: dict[str, dict[str, Any]] = {
        "do not fill one batch": {"data__batch_size": 1000},
        "make 6 batches; a step takes 7": {"optimizer__accumulate": 7},
        "no such verification file": {"verification__bins": '["absent.bin"]'},
        "cannot be divided into 7 folds": {
            "verification__synthetic_identities": 2,
            "verification__pairs": 4,
            "verification__folds": 7,
        },
        "no fused blocks": {"model__fused": True, "model__name": "iresnet18", "model__channels": "none"}
        | {"model__layers": "none"},
    }
    for message, values in bad.items():
        with pytest.raises(PocketNetError, match=message):
            train(tiny_recipe(faces, **values), tmp_path / "run")
    with pytest.raises(PocketNetError, match="no such record file"):
        train(tiny_recipe("absent.rec"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def changed(recipe: Recipe, **values: str) -> Recipe:
    overrides = {key.replace("__", "."): value for key, value in values.items()}
    return Recipe.from_toml(recipe.to_toml(), "changed", overrides)


def test_resuming_with_another_recipe(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe(faces)
    stop_after(2, monkeypatch)
    train(recipe, tmp_path / "run")
    monkeypatch.undo()

    def go_on(force: bool = False, **values: str) -> Outcome:
        return train(changed(recipe, **values), tmp_path / "run", resume=True, force=force)

    with pytest.raises(PocketNetError, match=r"another recipe: data.workers 0 -> 1; --force"):
        go_on(data__workers="1")
    for force in (False, True):
        with pytest.raises(PocketNetError, match=r"another recipe: optimizer.lr 0.1 -> 0.2; start a new run"):
            go_on(force, optimizer__lr="0.2", data__workers="1")
    with pytest.raises(PocketNetError, match="steps have 6 images over all processes, and would now have 4"):
        go_on(True, data__batch_size="4")
    other = write_faces(tmp_path / "more.rec", IDENTITIES, IMAGES + 1)
    with pytest.raises(PocketNetError, match=r"have 6 steps, and would now have 7: the data has changed"):
        go_on(True, data__source=str(other))
    assert RunFolder(tmp_path / "run").recipe() == recipe
    outcome = go_on(True, data__workers="1", run__keep="1", schedule__epochs="3")
    assert (outcome.epoch, outcome.finished) == (3, True)
    assert RunFolder(tmp_path / "run").recipe().schedule.epochs == 3


def break_steps(monkeypatch: pytest.MonkeyPatch, broken: set[int]) -> None:
    """Let the embeddings of some steps be NaN."""
    plain = Stepper._embed
    calls = [0]

    def poisoned(self: Stepper, pixels: torch.Tensor) -> Any:
        calls[0] += 1
        embedding, target = plain(self, pixels)
        return (embedding * math.nan if calls[0] in broken else embedding), target

    monkeypatch.setattr(step_module.Stepper, "_embed", poisoned)


def test_skipped_steps_are_counted(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_steps(monkeypatch, {2, 3, 5})
    outcome = train(tiny_recipe(faces, run__max_skipped=3, optimizer__ema_decay=0.9), tmp_path / "run")
    assert (outcome.finished, outcome.skipped) == (True, 3)
    skipped = lines(tmp_path / "run", "skipped")
    assert [line["step"] for line in skipped] == [2, 3, 5]
    assert {line["reason"] for line in skipped} == {"an embedding is not finite"}
    assert [line["step"] for line in lines(tmp_path / "run", "step")][:4] == [1, 4, 6, 7]
    assert lines(tmp_path / "run", "epoch")[1]["skipped"] == 3
    for tensor in weights(tmp_path / "run").values():
        assert tensor.float().isfinite().all()
    progress = RunFolder(tmp_path / "run").latest()[0]
    assert progress is not None
    assert progress.ema_updates == 2 * STEPS - 3


def test_a_row_of_skipped_steps_ends_the_run(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_steps(monkeypatch, set(range(8, 99)))
    with pytest.raises(DivergedError, match=r"step 10 is the last of 3 in a row"):
        train(tiny_recipe(faces, run__max_skipped=3), tmp_path / "run")
    progress = RunFolder(tmp_path / "run").latest()[0]
    assert progress is not None
    assert progress.step == STEPS


def test_a_real_divergence(faces: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(faces, optimizer__lr=1e30, optimizer__clip_norm=0, run__max_skipped=2)
    with pytest.raises(DivergedError, match="training has diverged"):
        train(recipe, tmp_path / "run")


def test_verification_along_the_way(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, Any] = {
        "verification__synthetic_identities": 4,
        "verification__synthetic_images": 3,
        "verification__pairs": 20,
        "verification__every_steps": 4,
        "verification__every_epochs": 0,
    }
    outcome = train(tiny_recipe(faces, **values), tmp_path / "whole")
    found = lines(tmp_path / "whole", "verification")
    assert [line["step"] for line in found] == [4, 8, 12]
    assert {line["dataset"] for line in found} == {"synthetic"}
    result = outcome.verification["synthetic"]
    assert found[-1]["accuracy"] == pytest.approx(result.accuracy)
    assert (result.pairs, found[-1]["pairs"]) == (20, 20)
    assert result.xnorm > 0

    # A signal during a verification gives it up; the resumed run makes up for it before it goes on.
    stop_in_verification(monkeypatch)
    first = train(tiny_recipe(faces, **values), tmp_path / "run")
    monkeypatch.undo()
    assert first.step == 4
    assert lines(tmp_path / "run", "verification") == []
    train(None, tmp_path / "run", resume=True)
    assert lines(tmp_path / "run", "verification") == found
    assert same_bits(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def stop_in_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketnet_fast.evaluation import verification

    plain = verification.embed_both_ways

    def interrupted(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return plain(*arguments, **options)

    monkeypatch.setattr(verification, "embed_both_ways", interrupted)


def test_verification_leaves_training_alone(faces: Path, tmp_path: Path) -> None:
    train(tiny_recipe(faces, verification__synthetic_identities=2, verification__pairs=20), tmp_path / "a")
    train(tiny_recipe(faces), tmp_path / "b")
    assert same_bits(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_unseen_identities_are_unseen(tmp_path: Path) -> None:
    source = "synthetic:identities=9,images=2,first_identity=999992"
    with pytest.raises(PocketNetError, match="identities from 1,000,000 on are kept for verification"):
        train(tiny_recipe(source, verification__synthetic_identities=2), tmp_path / "run")


def test_epochs_choose_their_teachers(
    faces: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**EVERYTHING, "optimizer__ema_decay": 0, "loss__objective": "margin_kd"}
    values |= {"distillation__teacher": str(unbroken), "distillation__multi_step": True}
    from pocketnet_fast.training import teacher as teacher_module

    loaded: list[str] = []
    plain = teacher_module.load_weights
    monkeypatch.setattr(
        teacher_module, "load_weights", lambda model, path: loaded.append(path.name) or plain(model, path)
    )
    train(tiny_recipe(faces, **values), tmp_path / "student")
    last = f"{2 * STEPS}backbone.safetensors"
    assert loaded == [last, f"{STEPS}backbone.safetensors", last]
    for line in lines(tmp_path / "student", "step"):
        assert line["loss"] == pytest.approx(line["margin"] + 100 * line["kd"], rel=1e-5)
        assert line["kd"] > 0
    with pytest.raises(PocketNetError, match="lacks the weights after epoch 3;"):
        train(tiny_recipe(faces, **values, schedule__epochs=3), tmp_path / "longer")


def test_features_alone_need_no_labels(tmp_path: Path, unbroken: Path) -> None:
    source = write_faces(tmp_path / "one.rec", 36, 1)
    values: dict[str, Any] = {"loss__objective": "features", "distillation__teacher": str(unbroken)}
    values |= {"distillation__mixup": 0.5, "schedule__epochs": 3, "optimizer__lr": 0.02}
    train(tiny_recipe(source, **values), tmp_path / "run")
    assert not list((tmp_path / "run").glob("*header*"))
    losses = [line["loss"] for line in lines(tmp_path / "run", "epoch")]
    assert losses[-1] < losses[0]


def test_starting_weights(faces: Path, unbroken: Path, tmp_path: Path) -> None:
    start = unbroken / f"{2 * STEPS}backbone.safetensors"
    values = {"model__weights": str(start), "optimizer__lr": 1e-12, "schedule__epochs": 1}
    train(tiny_recipe(faces, **values), tmp_path / "run")
    assert torch.allclose(weights(tmp_path / "run")["stem.0.weight"], weights(unbroken)["stem.0.weight"])


def test_second_signal_interrupts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(interruption_module.time, "monotonic", lambda: clock[0])
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert interruption.signal == signal.SIGTERM
        clock[0] += 0.9
        signal.raise_signal(signal.SIGTERM)
        clock[0] += 0.2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outcome_is_plain_data(unbroken: Path) -> None:
    outcome = train(None, unbroken, resume=True)
    assert dataclasses.asdict(outcome)["weights"] == unbroken / f"{2 * STEPS}backbone.safetensors"
