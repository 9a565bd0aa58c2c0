"""A step: what it computes, what it clips, and that one that is not finite changes nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pocketnet_fast.losses import ShardedMargin, margin_cross_entropy
from pocketnet_fast.models.base import InputSpec
from pocketnet_fast.resumable.distributed import Processes
from pocketnet_fast.training.inputs import float_images, network_input, uint8_images
from pocketnet_fast.training.objective import FeatureObjective, MarginObjective
from pocketnet_fast.training.optimizer import load_state_tensors, make_optimizer, state_tensors
from pocketnet_fast.training.recipe import OptimizerRecipe, Recipe
from pocketnet_fast.training.step import Batch, Stepper
from pocketnet_fast.training.teacher import Teacher

HERE = Processes(0, 1, torch.device("cpu"))
DIMS, CLASSES = 5, 9


def never() -> bool:
    return False


class Small(nn.Module):
    """Pools, normalises and projects; ``poison`` is added to the embedding."""

    def __init__(self, batch_norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(48) if batch_norm else nn.Identity()
        self.project = nn.Linear(48, DIMS)
        self.poison = 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)
        return self.project(self.norm(x)) + self.poison  # type: ignore[no-any-return]


def batch(seed: int, size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size, 112, 112, 3), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(0, CLASSES, (size,), generator=generator)


def recipe(**values: Any) -> Recipe:
    return Recipe.from_toml("", "r", {k.replace("__", "."): str(v) for k, v in values.items()})


class Setting:
    def __init__(self, *, batch_norm: bool = True, teacher: Teacher | None = None, **values: Any) -> None:
        torch.manual_seed(0)
        self.network = Small(batch_norm)
        self.head = ShardedMargin(DIMS, CLASSES, scale=8.0)
        rules = recipe(**values)
        objective: nn.Module = MarginObjective(self.head, 3.0 if teacher else 0.0)
        if rules.loss.objective == "features":
            objective = FeatureObjective(2.0, 0.5)
        self.parameters = dict(self.network.named_parameters()) | {"kernel": self.head.kernel}
        self.optimizer = make_optimizer(rules.optimizer, self.parameters)
        self.stepper = Stepper(self.network, InputSpec(), objective, self.optimizer, teacher, rules, HERE)

    def state(self) -> dict[str, Tensor]:
        found = self.network.state_dict() | {"kernel": self.head.kernel}
        found |= state_tensors(self.optimizer, self.parameters)
        return {name: value.detach().clone() for name, value in found.items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def by_hand(setting: Setting, batches: list[Batch], rate: float, clip: float) -> dict[str, Tensor]:
    """SGD's first step with momentum and weight decay, written out."""
    images = [network_input(pixels, InputSpec()) for pixels, _ in batches]
    losses = [
        margin_cross_entropy(setting.network(x), setting.head.kernel, label, scale=8.0)
        for x, (_, label) in zip(images, batches, strict=True)
    ]
    loss = torch.stack(losses).mean()
    parameters = setting.parameters
    gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    norm = math.sqrt(sum(float(g.double().square().sum()) for k, g in gradients.items() if k != "kernel"))
    factor = min(1.0, clip / norm)
    after = {}
    for name, gradient in gradients.items():
        clipped = gradient if name == "kernel" else gradient * factor
        after[name] = parameters[name] - rate * (clipped + 5e-4 * parameters[name])
    return {"norm": torch.tensor(norm), "loss": loss.detach(), **after}


@pytest.mark.parametrize("clip", [0.05, 1000.0])
def test_the_first_step_by_hand(clip: float) -> None:
    setting = Setting(batch_norm=False, optimizer__clip_norm=clip)
    batches = [batch(1), batch(2)]
    expected = by_hand(setting, batches, 0.1, clip)
    assert (float(expected["norm"]) > clip) == (clip < 1)
    report = setting.stepper(batches, 0.1, 0, stop=never)
    assert report.gradient_norm == pytest.approx(float(expected.pop("norm")), rel=1e-4)
    assert report.parts == {"loss": pytest.approx(float(expected.pop("loss")), rel=1e-5)}
    assert (report.problem, report.stop) == (None, False)
    for name, value in expected.items():
        assert torch.allclose(setting.parameters[name], value, atol=1e-6), name


def test_accumulated_batches_are_one_batch() -> None:
    """Without batch statistics, the mean over two batches is that over both together."""
    (pixels, label), (more, others) = batch(1), batch(2)
    apart, together = Setting(batch_norm=False), Setting(batch_norm=False)
    first = apart.stepper([(pixels, label), (more, others)], 0.1, 0, stop=never)
    second = together.stepper([(torch.cat([pixels, more]), torch.cat([label, others]))], 0.1, 0, stop=never)
    assert first.parts["loss"] == pytest.approx(second.parts["loss"], rel=1e-5)
    for name, value in apart.state().items():
        assert torch.allclose(value, together.state()[name], atol=1e-6)


@pytest.mark.parametrize("place", ["embedding", "teacher", "backbone", "kernel", "loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_changes_nothing(place: str, value: float) -> None:
    answer = torch.zeros(DIMS)
    teacher = Teacher("t", Fixed(answer), InputSpec(), DIMS) if place == "teacher" else None
    setting = Setting(teacher=teacher)
    if teacher is not None:
        answer += 1
    assert setting.stepper([batch(0)], 0.1, 0, stop=never).problem is None
    before = setting.state()
    handle = None
    if place == "embedding":
        setting.network.poison = value
    elif place == "teacher":
        answer += value
    elif place == "loss":
        setting.stepper.objective = Broken(setting.stepper.objective, value)
    else:
        target = setting.head.kernel if place == "kernel" else setting.network.project.weight
        handle = target.register_hook(lambda gradient: gradient * value)
    report = setting.stepper([batch(1), batch(2)], 0.1, 0, stop=lambda: True)
    words = {
        "embedding": "an embedding is not finite",
        "teacher": "a teacher's embedding is not finite",
        "backbone": "a gradient of the backbone is not finite",
        "kernel": "a gradient of the class centres is not finite",
        "loss": "the loss is not finite",
    }
    assert report.problem == words[place]
    assert report.stop
    assert report.parts == {}
    assert equal(before, setting.state())
    # And the next one goes on as if nothing had been.
    setting.network.poison = 0.0
    if place == "teacher":
        answer.copy_(torch.ones(DIMS))
    if place == "loss":
        setting.stepper.objective = setting.stepper.objective.inner  # type: ignore[assignment]
    if handle is not None:
        handle.remove()
    assert setting.stepper([batch(3)], 0.1, 0, stop=never).problem is None
    assert not equal(before, setting.state())


class Fixed(nn.Module):
    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Tensor:
        return self.answer.expand(len(x), -1)


class Broken(nn.Module):
    def __init__(self, inner: nn.Module, value: float) -> None:
        super().__init__()
        self.inner, self.value = inner, value

    def forward(self, *arguments: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, _ = self.inner(*arguments)
        return loss, {"loss": loss.detach() * self.value}


def test_distillation_parts() -> None:
    target = torch.arange(1.0, DIMS + 1)
    teacher = Teacher("t", Fixed(target), InputSpec(), DIMS)
    setting = Setting(teacher=teacher, batch_norm=False)
    pixels, label = batch(0)
    embedding = setting.network(network_input(pixels, InputSpec())).detach().double().numpy()
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    kd = np.mean((unit - target.numpy() / np.linalg.norm(target.numpy())) ** 2)
    margin = margin_cross_entropy(torch.from_numpy(embedding), setting.head.kernel.double(), label, scale=8.0)
    parts = setting.stepper([(pixels, label)], 0.1, 0, stop=never).parts
    assert parts["kd"] == pytest.approx(kd, rel=1e-4)
    assert parts["margin"] == pytest.approx(margin.item(), rel=1e-4)
    assert parts["loss"] == pytest.approx(parts["margin"] + 3 * kd, rel=1e-4)

    features = Setting(teacher=teacher, batch_norm=False, loss__objective="features")
    parts = features.stepper([(pixels, label)], 0.1, 0, stop=never).parts
    feature = np.mean((embedding - target.numpy()) ** 2)
    assert parts["unit"] == pytest.approx(kd, rel=1e-4)
    assert parts["feature"] == pytest.approx(feature, rel=1e-4)
    assert parts["loss"] == pytest.approx(2 * kd + 0.5 * feature, rel=1e-4)


class Recorder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x.mean((2, 3))[:, :1].expand(-1, DIMS)


def test_pupil_and_teacher_see_the_same_mixture() -> None:
    spec = InputSpec(mean=(0.1, 0.2, 0.3), std=(0.9, 0.8, 0.7), color="bgr")
    recorder = Recorder()
    teacher = Teacher("t", recorder, spec, DIMS)
    setting = Setting(teacher=teacher, loss__objective="features", distillation__mixup=1.0)
    pupils: list[Tensor] = []
    setting.network.register_forward_pre_hook(lambda _, inputs: pupils.append(inputs[0]))
    pixels, label = batch(0)
    for seed in (1, 1, 2):
        setting.stepper([(pixels, label)], 0.1, seed, stop=never)
    mixed = [(x + 1) * 127.5 for x in pupils]
    mean, std = torch.tensor(spec.mean).view(1, 3, 1, 1), torch.tensor(spec.std).view(1, 3, 1, 1)
    for x, y in zip(mixed, recorder.seen, strict=True):
        assert torch.allclose((y * std + mean) * 255, x.flip(1), atol=1e-3)
    assert torch.equal(mixed[0], mixed[1])
    assert not torch.equal(mixed[0], mixed[2])
    assert not torch.allclose(mixed[0], float_images(pixels), atol=1.0)


def test_bf16_runs_the_backbone_alone() -> None:
    setting = Setting(run__precision="bf16", batch_norm=False)
    seen: list[torch.dtype] = []
    setting.network.project.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    setting.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    report = setting.stepper([batch(0)], 0.1, 0, stop=never)
    assert seen == [torch.bfloat16, torch.float32]
    exact = Setting(batch_norm=False).stepper([batch(0)], 0.1, 0, stop=never)
    assert report.parts["loss"] == pytest.approx(exact.parts["loss"], rel=0.02)
    assert report.parts["loss"] != exact.parts["loss"]
    assert all(parameter.dtype == torch.float32 for parameter in setting.parameters.values())


@pytest.mark.parametrize("kind", ["sgd", "adamw", "muon"])
def test_optimizer_state_moves(kind: str) -> None:
    first, second = Setting(optimizer__kind=kind), Setting(optimizer__kind=kind)
    first.stepper([batch(0)], 0.1, 0, stop=never)
    tensors = state_tensors(first.optimizer, first.parameters)
    momentum, moments = ["momentum_buffer"], ["step", "exp_avg", "exp_avg_sq"]
    names = {"sgd": momentum, "adamw": moments, "muon": moments}[kind]
    slots = dict.fromkeys(first.parameters, names)
    if kind == "muon":
        slots["project.weight"] = slots["kernel"] = momentum
    assert tensors.keys() == {f"{slot}.{name}" for name, found in slots.items() for slot in found}
    second.network.load_state_dict(first.network.state_dict())
    second.head.load_state_dict(first.head.state_dict())
    load_state_tensors(second.optimizer, second.parameters, tensors, lambda name, tensor: tensor)
    for setting in (first, second):
        setting.stepper([batch(1)], 0.05, 0, stop=never)
    assert equal(first.state(), second.state())


def test_optimizer_state_that_does_not_fit() -> None:
    parameters = {"w": nn.Parameter(torch.zeros(3))}
    optimizer = make_optimizer(OptimizerRecipe(), parameters)
    from pocketnet_fast.errors import PocketNetError

    with pytest.raises(PocketNetError, match="no parameter v"):
        load_state_tensors(optimizer, parameters, {"m.v": torch.zeros(3)}, lambda name, tensor: tensor)
    with pytest.raises(PocketNetError, match=r"m.w has shape \(2,\); expected \(3,\)"):
        load_state_tensors(optimizer, parameters, {"m.w": torch.zeros(2)}, lambda name, tensor: tensor)


def test_pixels_survive_the_float_form() -> None:
    pixels, _ = batch(0)
    assert torch.equal(uint8_images(float_images(pixels)), pixels)
    assert uint8_images(pixels) is pixels
    for spec in (InputSpec(), InputSpec(mean=(0.1, 0.2, 0.3), std=(1, 2, 3), color="bgr")):
        found = network_input(float_images(pixels), spec)
        assert torch.allclose(found, network_input(pixels, spec), atol=1e-6)
