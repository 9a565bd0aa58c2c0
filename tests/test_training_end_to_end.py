"""From rendered people to verification: a teacher, and pupils alone, with it, and with each of its epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pocketnet_fast.data.dataset import FaceDataset
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.data.opening import open_dataset
from pocketnet_fast.data.recordio import ImageRecord, RecordWriter, pack_image
from pocketnet_fast.training.recipe import Recipe, load_recipe
from pocketnet_fast.training.teacher import build_model
from pocketnet_fast.training.trainer import Outcome, train
from pocketnet_fast.training.validation import Validator

PEOPLE = "synthetic:identities=64,images=6,seed=1"
EPOCHS = 5
_TEACHER_CHANNELS, _PUPIL_CHANNELS = 4, 2


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered people as a record file, so that each is rendered once."""
    path = tmp_path_factory.mktemp("people") / "train.rec"
    source = open_dataset(PEOPLE)
    with RecordWriter(path) as writer:
        for index in range(len(source)):
            label = np.array([source.labels[index]], np.float32)
            writer.write(index, pack_image(ImageRecord(label, encode_image(source.image(index), ".png"))))
    return path


def recipe(people: Path, channels: int, **values: Any) -> Recipe:
    settings = {"data.source": people, "data.workers": 0, "model.channels": channels, "run.device": "cpu"}
    settings |= {"schedule.epochs": EPOCHS, "run.threads": 1, "run.tensorboard": "false"}
    settings |= {"verification.every_epochs": 0}
    settings |= {key.replace("__", "."): value for key, value in values.items()}
    return load_recipe("synthetic_tiny", {key: str(value) for key, value in settings.items()})


def accuracy(outcome: Outcome) -> float:
    assert outcome.finished
    assert outcome.skipped == 0
    return outcome.verification["synthetic"].accuracy


def untrained(people: Path, channels: int) -> float:
    """The better of two: with batch normalisation's statistics as they begin, and measured on the data."""
    rules = recipe(people, channels)
    data: FaceDataset = open_dataset(people)
    validator = Validator(rules.verification, data, torch.device("cpu"))
    torch.manual_seed(rules.run.seed)
    model = build_model(rules.model)
    found = [validator(model)["synthetic"].accuracy]
    pixels = torch.stack([torch.from_numpy(data.image(index)) for index in range(0, len(data), 10)])
    with torch.no_grad():
        for _ in range(20):
            model.train()(model.input_spec.normalize(pixels))
    found.append(validator(model)["synthetic"].accuracy)
    return max(found)


@pytest.mark.slow
def test_teacher_and_pupils(people: Path, tmp_path: Path) -> None:
    teacher = train(recipe(people, _TEACHER_CHANNELS), tmp_path / "teacher")
    found = {"teacher": accuracy(teacher)}
    by_teacher = {"loss__objective": "margin_kd", "distillation__teacher": tmp_path / "teacher"}
    pupils: dict[str, dict[str, Any]] = {
        "ArcFace": {},
        "ArcFace and distillation": by_teacher,
        "ArcFace and multi-step distillation": {**by_teacher, "distillation__multi_step": "true"},
    }
    for name, values in pupils.items():
        outcome = train(recipe(people, _PUPIL_CHANNELS, **values), tmp_path / name.replace(" ", "_"))
        found[name] = accuracy(outcome)
    floors = {channels: untrained(people, channels) for channels in (_TEACHER_CHANNELS, _PUPIL_CHANNELS)}
    print(f"\nverification of unseen synthetic people: untrained {floors}")
    for name, value in found.items():
        print(f"  {name}: {100 * value:.2f} %")
    for name, value in found.items():
        floor = floors[_TEACHER_CHANNELS if name == "teacher" else _PUPIL_CHANNELS]
        assert value > floor + 0.05, name
