"""Feature maps: the same ones fused and eager, what their regression computes, and runs that use it."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import randomize_
from torch import Tensor, nn
from training_runs import (
    assert_resumes_bit_for_bit,
    learning_from,
    lines,
    same_bits,
    tiny_recipe,
    write_faces,
)

import pocketnet_fast
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.training.maps import MapObjective, copy_tail, make_pupil, map_weights
from pocketnet_fast.training.recipe import DistillationRecipe
from pocketnet_fast.training.teacher import Teacher
from pocketnet_fast.training.trainer import train

SIDES = ("56", "28", "14", "7")


def small(channels: int = 2, dims: int = 8, seed: int = 0) -> EmbeddingModel:
    torch.manual_seed(seed)
    return pocketnet_fast.create_model("pocketnet", channels=channels, layers=4, embedding_dim=dims)


def teaching(model: EmbeddingModel) -> Teacher:
    return Teacher("t", model, model.input_spec, model.embedding_dim)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 112, 112, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "maps"),
    [("pocketnet_m128", (*SIDES, "tail")), ("mobilefacenet", (*SIDES, "tail")), ("iresnet18", SIDES)],
)
def test_maps_of_every_architecture(name: str, maps: tuple[str, ...]) -> None:
    model = randomize_(pocketnet_fast.create_model(name), 0)
    with torch.no_grad():
        embedding, found = model.forward_maps(images(2), maps)
        assert torch.allclose(embedding, model(images(2)), atol=1e-5)
    assert tuple(found) == maps
    for key in SIDES:
        assert found[key].shape[0] == 2
        assert found[key].shape[2:] == (int(key), int(key))
    if "tail" in maps:
        assert found["tail"].shape == (2, 512, 7, 7)
        depthwise, norm, pointwise, last = model.tail_layers()
        with torch.no_grad():
            rest = last(pointwise(norm(depthwise(found["tail"]))))
        assert torch.allclose(rest.flatten(1), embedding, atol=1e-5)
    else:
        with pytest.raises(PocketNetError, match="iresnet18 has no tail of a global depthwise"):
            model.tail_layers()
    with pytest.raises(PocketNetError, match=f"{name} has no feature map 13, 5"):
        model.forward_maps(images(1), ("7", "13", "5"))


def test_fused_and_eager_maps_agree() -> None:
    """Values, and gradients that reach the network through the maps alone."""
    source, results = small(channels=4), []
    for fused in (True, False):
        model: Any = copy.deepcopy(source).train()
        model.fused = fused
        embedding, maps = model.forward_maps(images(), (*SIDES, "tail"))
        for name, value in maps.items():
            seed = torch.Generator().manual_seed(len(name))
            value.backward(torch.randn(value.shape, generator=seed) / value[0].numel(), retain_graph=True)
        results.append((embedding, maps, {name: p.grad for name, p in model.named_parameters()}))
    (one, ours, gradients), (two, theirs, expected) = results
    assert torch.allclose(one, two, atol=1e-4)
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], atol=1e-4), name
    for name, gradient in expected.items():
        if gradient is None:
            assert gradients[name] is None, name
        else:
            # Of 1e5 activations one may lie so near zero that its sign, and its slope, is one of rounding:
            # such a step moves gradients by 2e-3.
            assert float((gradients[name] - gradient).norm() / gradient.norm()) < 2e-2, name
    assert gradients["stem.0.weight"] is not None
    assert gradients["tail.4.weight"] is None


def test_the_losses_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = {name: torch.randn(3, 5, 4, 4, generator=generator, requires_grad=True) for name in ("7", "tail")}
    targets = {name: 3 + 2 * torch.randn(3, 5, 4, 4, generator=generator) for name in maps}
    loss, parts = MapObjective({"7": 0.5, "tail": 2.0})(maps, targets)
    channels = targets["7"].double().transpose(0, 1).flatten(1)
    standard = (channels - channels.mean(1, keepdim=True)) / channels.std(1, correction=0, keepdim=True)
    seven = (maps["7"].detach().double().transpose(0, 1).flatten(1) - standard).square().mean()
    tail = (maps["tail"].detach() - targets["tail"]).square().sum() / targets["tail"].square().sum()
    assert math.isclose(float(parts["map 7"]), float(seven), rel_tol=1e-5)
    assert math.isclose(float(parts["map tail"]), float(tail), rel_tol=1e-5)
    assert math.isclose(float(loss.detach()), 0.5 * float(seven) + 2 * float(tail), rel_tol=1e-5)
    loss.backward()
    assert all(value.grad is not None for value in maps.values())


def test_a_constant_channel_of_the_teacher_gives_no_infinity() -> None:
    loss, _ = MapObjective({"7": 1.0, "tail": 1.0})(
        {"7": torch.ones(2, 1, 7, 7), "tail": torch.ones(2, 1, 7, 7)},
        {"7": torch.full((2, 1, 7, 7), 5.0), "tail": torch.zeros(2, 1, 7, 7)},
    )
    assert math.isfinite(float(loss))


def test_recipes_name_the_maps() -> None:
    assert map_weights(DistillationRecipe()) == {}
    assert map_weights(DistillationRecipe(map_weight=0.5, maps=("7",))) == {"7": 0.5}
    assert map_weights(DistillationRecipe(tail_weight=2.0)) == {"tail": 2.0}


def test_projections_fit_the_teacher() -> None:
    model = small().train()
    kept = copy.deepcopy(model.state_dict())
    teacher = teaching(randomize_(pocketnet_fast.create_model("mobilefacenet"), 1))
    pupil = make_pupil(model, teacher, ("28", "7", "tail"), seed=3)
    assert model.training
    assert same_bits(kept, model.state_dict())
    assert list(pupil.projections) == ["28", "7"]
    _, maps = pupil(images(2))
    _, targets = teacher.with_maps(torch.zeros(2, 112, 112, 3, dtype=torch.uint8), ("28", "7", "tail"))
    assert {name: value.shape for name, value in maps.items()} == {k: v.shape for k, v in targets.items()}
    again = make_pupil(model, teacher, ("28", "7"), seed=3)
    assert same_bits(pupil.projections.state_dict(), again.projections.state_dict())
    with pytest.raises(PocketNetError, match="iresnet18 has no feature map tail"):
        make_pupil(model, teaching(pocketnet_fast.create_model("iresnet18")), ("tail",), 0)


def test_tails_of_other_widths_are_refused() -> None:
    wide = small(dims=512)
    with pytest.raises(PocketNetError, match=r"map tail is \(512, 7, 7\) in the pupil and \(1024, 7, 7\)"):
        make_pupil(small(), teaching(wide), ("tail",), 0)
    with pytest.raises(PocketNetError, match="the tail of t does not fit the pupil's: size mismatch"):
        copy_tail(small(), teaching(wide))


def test_a_copied_tail_gives_the_teachers_embedding() -> None:
    teacher = teaching(randomize_(pocketnet_fast.create_model("mobilefacenet"), 2))
    model = small(dims=128).eval()
    copy_tail(model, teacher)
    expected, maps = teacher.with_maps(torch.zeros(2, 112, 112, 3, dtype=torch.uint8), ("tail",))
    x = maps["tail"]
    with torch.no_grad():
        for layer in model.tail_layers():
            x = layer(x)
    assert torch.allclose(x.flatten(1), expected, atol=1e-4)


class Coarse(EmbeddingModel):
    """A teacher whose last map is smaller than any of a PocketNet's."""

    def __init__(self) -> None:
        super().__init__(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_maps(x, ())[0]

    def forward_maps(self, x: Tensor, names: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        last = torch.cat([nn.functional.adaptive_avg_pool2d(x, 3)] * 2, 1)
        self._check_maps(("3",), names)
        return last.flatten(1)[:, :8], dict.fromkeys(names, last)


def test_smaller_maps_than_the_pupil_has() -> None:
    """A mean of 2x2 of the pupil's last map stands for each place of 3x3, as 7 // 3 is 2."""
    model = small()
    pupil = make_pupil(model, teaching(Coarse()), ("3",), seed=3)
    x = images(2)
    with torch.no_grad():
        found = pupil(x)[1]["3"]
        tail = model.forward_maps(x, ("tail",))[1]["tail"]
    assert found.shape == (2, 6, 3, 3)
    _, convolution, norm = pupil.projections["3"]
    squares = tail[:, :, :6, :6].unflatten(3, (3, 2)).unflatten(2, (3, 2))
    expected = norm(convolution(squares.mean((3, 5))))
    assert torch.allclose(found, expected, atol=1e-5)
    with pytest.raises(PocketNetError, match="has no feature map tail"):
        make_pupil(pocketnet_fast.create_model("iresnet18"), teaching(Coarse()), ("3",), 0)


class Scripted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_a_foreign_teacher_has_no_maps() -> None:
    teacher = Teacher("foreign", Scripted(), small().input_spec, 3)
    with pytest.raises(PocketNetError, match="foreign shows no feature maps"):
        make_pupil(small(), teacher, ("7",), 0)
    with pytest.raises(PocketNetError, match="the tail of foreign cannot be copied"):
        copy_tail(small(), teacher)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces") / "one.rec", 24, 1)


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return learning_from(
        small(channels=3, seed=5),
        tmp_path_factory.mktemp("teacher"),
        distillation__map_weight=0.5,
        distillation__tail_weight=1.0,
        distillation__copy_tail=True,
        optimizer__lr=0.005,
        data__batch_size=6,
        schedule__epochs=3,
    )


def test_maps_are_learned(faces: Path, values: dict[str, Any], tmp_path: Path) -> None:
    train(tiny_recipe(faces, **values, schedule__kind="cosine"), tmp_path / "run")
    epochs = lines(tmp_path / "run", "epoch")
    for name in ("loss", "map 28", "map 14", "map 7", "map tail"):
        assert epochs[-1][name] < epochs[0][name], name
    first = lines(tmp_path / "run", "step")[0]
    total = 100 * first["unit"] + 0.5 * sum(first[f"map {side}"] for side in (28, 14, 7)) + first["map tail"]
    assert first["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_resumes_bit_for_bit(
    faces: Path, values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("backbone", "ema", "maps", "state")
    assert_resumes_bit_for_bit(tiny_recipe(faces, **values), 6, kinds, tmp_path, monkeypatch)
