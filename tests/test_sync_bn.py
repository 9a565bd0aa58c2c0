"""Shared batch statistics: two processes normalise, and differentiate, as one with both batches."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from torch import Tensor, nn

from pocketnet_fast.training.sync_bn import ProcessBatchNorm1d, synchronize_statistics

SIZES = (2, 4)
SHAPES = {"2d": (3, 5, 4), "1d": (6,)}


def layer(kind: str) -> nn.Module:
    norm = nn.BatchNorm2d(3) if kind == "2d" else nn.BatchNorm1d(6)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return nn.Sequential(norm)


def data(kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    shape = (sum(SIZES), *SHAPES[kind])
    # A mean far from zero, where a variance from sums of squares would have lost half of its digits.
    return torch.randn(shape, generator=generator) + 30.0, torch.randn(shape, generator=generator)


def evaluate(model: nn.Module, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    (y * weight).sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "x": x.grad, **gradients, **dict(model.named_buffers())}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=len(SIZES))
    rows = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
    results = {}
    for kind in SHAPES:
        model = synchronize_statistics(layer(kind), torch.device("cpu"))
        x, weight = data(kind)
        results[kind] = evaluate(model, x[rows], weight[rows])
        results[f"{kind} eval"] = {"y": model.eval()(x[rows]).detach()}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    return run_ranks(worker, tmp_path_factory.mktemp("ranks"), len(SIZES))


@pytest.mark.parametrize("kind", list(SHAPES))
def test_two_processes_are_one(two_ranks: list[dict[str, dict[str, Tensor]]], kind: str) -> None:
    model = layer(kind).double()
    x, weight = data(kind)
    expected = evaluate(model, x.double(), weight.double())
    first, second = (results[kind] for results in two_ranks)
    for name in ("y", "x"):
        together = torch.cat([first[name], second[name]])
        assert torch.allclose(together.double(), expected[name], atol=2e-5), name
    for name in ("0.weight", "0.bias"):
        assert torch.allclose((first[name] + second[name]).double(), expected[name], atol=1e-4), name
    for name in ("0.running_mean", "0.running_var", "0.num_batches_tracked"):
        assert torch.allclose(first[name].double(), expected[name].double(), rtol=1e-5), name
        assert torch.equal(first[name], second[name])
    answer = torch.cat([results[f"{kind} eval"]["y"] for results in two_ranks])
    assert torch.allclose(answer.double(), model.eval()(x.double()), atol=2e-5)


def test_names_and_shapes_stay() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Conv2d(2, 2, 1))
    names = list(model.state_dict())
    synchronize_statistics(model, torch.device("cpu"))
    assert type(model[0]) is ProcessBatchNorm1d
    assert list(model.state_dict()) == names
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        model[0](torch.zeros(2, 2, 2, 2))
