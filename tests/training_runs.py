"""A tiny dataset and recipe for the tests of training."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import randomize_
from safetensors.torch import load_file
from torch import Tensor

from pocketnet_fast.data.recordio import ImageRecord, RecordWriter, pack_image
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.weights import save_weights
from pocketnet_fast.resumable.log import read_log
from pocketnet_fast.training.recipe import Recipe
from pocketnet_fast.training.step import Stepper
from pocketnet_fast.training.trainer import train

IDENTITIES, IMAGES = 6, 6

RUN = """
[run]
device = "cpu"
threads = 1
log_steps = 1
save_steps = 0
tensorboard = false
"""
_RECIPE = """
[model]
name = "pocketnet"
channels = 2
layers = 4
embedding_dim = 8

[data]
batch_size = 6
workers = 0

[loss]
scale = 16.0
margins = [1.0, 0.2, 0.0]

[optimizer]
lr_batch = 0

[schedule]
epochs = 2
milestones = [2]
"""


def tiny_recipe(source: str | Path, **values: Any) -> Recipe:
    """The tiny recipe on a dataset; values by section__key."""
    overrides = {"data.source": str(source)}
    overrides |= {key.replace("__", "."): as_text(value) for key, value in values.items()}
    return Recipe.from_toml(_RECIPE + RUN, "tiny", overrides)


def as_text(value: Any) -> str:
    """As a command line gives it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_recipe(path: Path, source: str | Path, **values: Any) -> Path:
    """The same as a file."""
    path.write_text(tiny_recipe(source, **values).to_toml())
    return path


def write_faces(path: Path, identities: int = IDENTITIES, images: int = IMAGES) -> Path:
    """A record file of coloured patches, the same ones for a person, with noise of their own."""
    rng = np.random.default_rng(0)
    with RecordWriter(path) as writer:
        for label in range(identities):
            patches = rng.integers(0, 256, (7, 7, 3)).astype(np.float32)
            for image in range(images):
                pixels = cv2.resize(patches, (112, 112)) + rng.normal(0, 20, (112, 112, 3))
                encoded = cv2.imencode(".png", pixels.clip(0, 255).astype(np.uint8))[1].tobytes()
                key = label * images + image
                writer.write(key, pack_image(ImageRecord(np.float32([label]), encoded, key)))
    return path


def weights(folder: Path, kind: str = "backbone") -> dict[str, Tensor]:
    """The newest weights of a kind in a run's folder."""
    newest = max(folder.glob(f"*{kind}.safetensors"), key=lambda p: int(p.name.split(kind)[0]))
    return load_file(newest)


def same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights agree to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def lines(folder: Path, *events: str) -> list[dict[str, Any]]:
    """The log's lines of some events without what depends on the time."""
    clocks = ("time", "images_per_second")
    return [
        {key: value for key, value in line.items() if key not in clocks}
        for line in read_log(folder)
        if line["event"] in events
    ]


def at_step(number: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen where a step begins, which are counted from 1."""
    plain = Stepper.__call__
    left = [number]

    def counted(self: Stepper, *arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            act()
        return plain(self, *arguments, **options)

    monkeypatch.setattr(Stepper, "__call__", counted)


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a signal come during a step."""
    at_step(steps, lambda: signal.raise_signal(signal.SIGTERM), monkeypatch)


def break_off_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run end where a step begins, without a checkpoint."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    at_step(step, interrupt, monkeypatch)


def assert_resumes_bit_for_bit(
    recipe: Recipe, stop: int, kinds: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that a signal stops after some steps ends with the weights of one that nothing stopped."""
    train(recipe, folder / "unbroken")
    stop_after(stop, monkeypatch)
    assert not train(recipe, folder / "run").finished
    monkeypatch.undo()
    assert train(None, folder / "run", resume=True).finished
    for kind in kinds:
        assert same_bits(weights(folder / "unbroken", kind), weights(folder / "run", kind)), kind


def learning_from(teacher: EmbeddingModel, folder: Path, **values: Any) -> dict[str, Any]:
    """What a recipe says of a run that learns a teacher's embeddings, and ``values``; writes the teacher."""
    path = folder / "teacher.safetensors"
    save_weights(randomize_(teacher, 5), path)
    return {
        "loss__objective": "features",
        "distillation__teacher": str(path),
        "optimizer__kind": "muon",
        "optimizer__ema_decay": 0.9,
        **values,
    }
