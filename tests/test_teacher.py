"""Teachers of every kind, their own input, and what is refused before training starts."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from helpers import randomize_
from torch import Tensor, nn

import pocketnet_fast
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.weights import save_weights
from pocketnet_fast.resumable.folder import Progress
from pocketnet_fast.training.checkpoint import Contents, RunFolder
from pocketnet_fast.training.inputs import float_images
from pocketnet_fast.training.recipe import DistillationRecipe, Recipe
from pocketnet_fast.training.teacher import Teacher, load_teacher

CPU = torch.device("cpu")
_TINY = {"model.name": "pocketnet", "model.channels": "2", "model.layers": "4", "model.embedding_dim": "8"}


def tiny(seed: int) -> EmbeddingModel:
    return randomize_(pocketnet_fast.create_model("pocketnet", channels=2, layers=4, embedding_dim=8), seed)


def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 112, 112, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def load(teacher: str | Path, dims: int = 8, *, epochs: int = 3, model: str | None = None) -> Teacher:
    return load_teacher(DistillationRecipe(str(teacher), model), dims, epochs, CPU)


def expected(model: EmbeddingModel) -> Tensor:
    with torch.no_grad():
        return model(model.input_spec.normalize(pixels()))  # type: ignore[no-any-return]


def test_weight_file_of_the_package_names_its_network(tmp_path: Path) -> None:
    model = tiny(1)
    save_weights(model, tmp_path / "t.safetensors")
    teacher = load(tmp_path / "t.safetensors")
    assert torch.allclose(teacher(pixels()), expected(model), atol=1e-5)
    assert not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert torch.allclose(teacher(float_images(pixels())), expected(model), atol=1e-4)


def test_networks_with_a_fused_form_embed_by_it(tmp_path: Path) -> None:
    model = tiny(1)
    save_weights(model, tmp_path / "t.safetensors")
    teachers = {
        precision: load_teacher(
            DistillationRecipe(str(tmp_path / "t.safetensors"), teacher_precision=precision), 8, 3, CPU
        )
        for precision in ("fp32", "bf16")
    }

    def refuse(*_: object) -> None:
        raise AssertionError("the network itself was called")

    for precision, teacher in teachers.items():
        assert teacher.engine == f"fused kernels, {precision}"
        _, maps = teacher.with_maps(pixels(), ("28",))
        assert maps["28"].shape[2:] == (28, 28)
        teacher.network.register_forward_pre_hook(refuse)
        for images in (pixels(), float_images(pixels())):
            error = (teacher(images) - expected(model)).abs().max() / expected(model).abs().max()
            assert error < (1e-4 if precision == "fp32" else 0.1)
    exact, rounded = (teachers[precision](pixels()) for precision in ("fp32", "bf16"))
    assert not torch.equal(exact, rounded)


def test_networks_without_a_fused_form_embed_as_they_are(tmp_path: Path) -> None:
    model = randomize_(pocketnet_fast.create_model("iresnet18", embedding_dim=8), 2)
    save_weights(model, tmp_path / "t.safetensors")
    teacher = load(tmp_path / "t.safetensors")
    assert teacher.engine == "eager PyTorch"
    assert torch.allclose(teacher(pixels()), expected(model), atol=1e-4, rtol=1e-4)


def test_another_networks_input(tmp_path: Path) -> None:
    model = randomize_(pocketnet_fast.create_model("mobilefacenet"), 2)
    torch.save(model.state_dict(), tmp_path / "t.pth")
    teacher = load(tmp_path / "t.pth", 128, model="mobilefacenet")
    # Embeddings reach 8, and channels_last adds in another order.
    assert torch.allclose(teacher(pixels()), expected(model), atol=1e-4)
    assert torch.equal(load(tmp_path / "t.pth", 128)(pixels()), teacher(pixels()))
    with pytest.raises(PocketNetError, match=r"have 128 dimensions, the pupil's 256"):
        load(tmp_path / "t.pth", 256, model="mobilefacenet")
    with pytest.raises(PocketNetError, match=r"mobilefacenet"):
        load(tmp_path / "t.pth", 128, model="iresnet18")


@pytest.mark.parametrize(("kernels", "kind"), [("aten", "float"), ("aten", "uint8"), ("fused", "uint8")])
def test_torchscript_of_the_package(tmp_path: Path, kernels: str, kind: str) -> None:
    model = tiny(3)
    color = "bgr" if kind == "uint8" else "rgb"
    pocketnet_fast.export_torchscript(model, tmp_path / "t.pt", kernels=kernels, input=kind, color=color)
    teacher = load(tmp_path / "t.pt")
    assert torch.allclose(teacher(pixels()), expected(model), atol=1e-4)
    assert torch.allclose(teacher(float_images(pixels())), expected(model), atol=1e-4)


class Foreign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 3, 112 * 112)


def script(module: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), path)


def test_torchscript_of_others(tmp_path: Path) -> None:
    script(Foreign(), tmp_path / "t.pt")
    teacher = load(tmp_path / "t.pt", 3)
    assert teacher.embedding_dim == 3
    means = pixels().float().mean((1, 2)) / 127.5 - 1
    assert torch.allclose(teacher(pixels()), means, atol=1e-5)
    with pytest.raises(PocketNetError, match="have 3 dimensions, the pupil's 8"):
        load(tmp_path / "t.pt")
    script(Odd(), tmp_path / "odd.pt")
    with pytest.raises(PocketNetError, match=r"gives \(1, 3, 12544\) for one face"):
        load(tmp_path / "odd.pt")
    script(nn.Linear(3, 4), tmp_path / "wrong.pt")
    with pytest.raises(PocketNetError, match=r"wrong.pt does not embed a face of 112x112"):
        load(tmp_path / "wrong.pt")


def write_run(path: Path, epochs: dict[int, int]) -> dict[int, EmbeddingModel]:
    """A run's folder with random weights after each epoch."""
    recipe = Recipe.from_toml("", "r", {**_TINY, "data.source": "x", "run.keep": "1"})
    run = RunFolder(path)
    run.write_recipe(recipe)
    models = {}
    ended: dict[int, int] = {}
    for epoch, step in epochs.items():
        models[epoch] = tiny(10 + epoch)
        ended[epoch] = step
        progress = Progress(10, 6, step=step, epoch=epoch, epoch_weights=dict(ended))
        run.save(Contents(models[epoch], None, None, {}, progress), recipe)
    return models


def multi_step(path: Path, epochs: int) -> Teacher:
    return load_teacher(DistillationRecipe(str(path), multi_step=True), 8, epochs, CPU)


def test_each_epoch_has_its_own_teacher(tmp_path: Path) -> None:
    models = write_run(tmp_path / "run", {1: 10, 2: 20, 3: 30})
    last = load(tmp_path / "run")
    assert torch.allclose(last(pixels()), expected(models[3]), atol=1e-5)
    last.enter_epoch(1)
    assert torch.allclose(last(pixels()), expected(models[3]), atol=1e-5)
    teacher = multi_step(tmp_path / "run", 3)
    for epoch in (1, 3, 2):
        teacher.enter_epoch(epoch)
        assert torch.allclose(teacher(pixels()), expected(models[epoch]), atol=1e-5)
        assert not teacher.network.training


def test_a_gap_is_an_error_at_the_start(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {1: 10, 2: 20, 3: 30})
    with pytest.raises(PocketNetError, match=r"lacks the weights after epoch 4, 5; multi-step"):
        multi_step(tmp_path / "run", 5)
    (tmp_path / "run" / "20backbone.safetensors").unlink()
    with pytest.raises(PocketNetError, match=r"lacks the weights after epoch 2; multi-step"):
        multi_step(tmp_path / "run", 3)
    assert multi_step(tmp_path / "run", 1).epochs is not None


def test_published_folder(tmp_path: Path) -> None:
    models = {epoch: tiny(epoch) for epoch in (1, 2)}
    for epoch, model in models.items():
        save_weights(model, tmp_path / f"{50 * epoch}backbone.safetensors")
    teacher = multi_step(tmp_path, 2)
    teacher.enter_epoch(1)
    assert torch.allclose(teacher(pixels()), expected(models[1]), atol=1e-5)
    with pytest.raises(PocketNetError, match="lacks the weights after epoch 3;"):
        multi_step(tmp_path, 3)


def test_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match=r"no teacher absent.safetensors: expected a weight file"):
        load("absent.safetensors")
    with pytest.raises(PocketNetError, match="no pretrained weights ship for 'iresnet50'"):
        load("iresnet50")
    with pytest.raises(PocketNetError, match="multi-step distillation needs a training run's folder"):
        multi_step(tmp_path / "x.pt", 1)
    (tmp_path / "t.pt").write_bytes(b"nothing")
    with pytest.raises(PocketNetError, match=r"t.pt"):
        load(tmp_path / "t.pt", model="mobilefacenet")
    save_weights(tiny(1), tmp_path / "t.safetensors")
    with pytest.raises(PocketNetError, match="have 8 dimensions, the pupil's 16"):
        load(tmp_path / "t.safetensors", 16)
