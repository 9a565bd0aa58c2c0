"""The loss with its classes divided among processes, and the sampling of classes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from torch import Tensor

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.losses import ShardedMargin, margin_cross_entropy, sample_classes, shard_range

DIMS, CLASSES, SIZES = 24, 101, (5, 8)


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    samples = sum(SIZES)
    embedding = torch.randn(samples, DIMS, generator=generator)
    label = torch.randint(0, CLASSES, (samples,), generator=generator)
    label[:4] = torch.tensor([0, 49, 50, 100])  # both sides of the border between two ranks
    kernel = torch.randn(DIMS, CLASSES, generator=generator) * 0.01
    return embedding, kernel, label, torch.randn(samples, DIMS, generator=generator)


def evaluate(head: ShardedMargin, kernel: Tensor, rows: slice, **options: Any) -> dict[str, Tensor]:
    embedding, _, label, teacher = batch()
    part = embedding[rows].requires_grad_()
    first, end = head.first, head.first + head.kernel.shape[1]
    with torch.no_grad():
        head.kernel.copy_(kernel[:, first:end])
    loss = head(part, label[rows], teacher[rows], 100.0)
    loss.backward()
    assert part.grad is not None
    assert head.kernel.grad is not None
    return {"loss": loss.detach(), "embedding": part.grad, "kernel": head.kernel.grad}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=len(SIZES))
    _, kernel, _, _ = batch()
    rows = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
    results = {}
    for name, options in {
        "fused": {},
        "reference": {"implementation": "reference"},
        "averaged": {"average_gradients": True},
        "sampled": {"sample_rate": 0.4, "seed": 7},
    }.items():
        results[name] = evaluate(ShardedMargin(DIMS, CLASSES, **options), kernel, rows)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    return run_ranks(worker, tmp_path_factory.mktemp("ranks"), len(SIZES))


def whole() -> dict[str, Tensor]:
    embedding, kernel, label, teacher = batch()
    embedding.requires_grad_()
    kernel.requires_grad_()
    loss = margin_cross_entropy(embedding, kernel, label, teacher=teacher, kd_weight=100.0)
    loss.backward()
    assert embedding.grad is not None
    assert kernel.grad is not None
    return {"loss": loss.detach(), "embedding": embedding.grad, "kernel": kernel.grad}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fused", "reference", "averaged"])
def test_two_ranks_are_one(two_ranks: list[dict[str, dict[str, Tensor]]], name: str) -> None:
    expected = whole()
    found = [results[name] for results in two_ranks]
    for part in found:
        assert torch.allclose(part["loss"], expected["loss"], rtol=1e-6)
    embedding = torch.cat([part["embedding"] for part in found])
    if name == "averaged":
        embedding = embedding / len(SIZES)
    kernel = torch.cat([part["kernel"] for part in found], 1)
    for actual, true in ((embedding, expected["embedding"]), (kernel, expected["kernel"])):
        assert float((actual - true).norm() / true.norm()) < 1e-5


def test_two_ranks_sample_their_slices(two_ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    label = batch()[2]
    for rank, results in enumerate(two_ranks):
        first, end = shard_range(CLASSES, rank, len(SIZES))
        taught = results["sampled"]["kernel"].any(0).nonzero().flatten() + first
        local = label[(label >= first) & (label < end)].unique()
        assert len(taught) == round(0.4 * (end - first))
        assert torch.isin(local, taught).all()
    assert torch.equal(two_ranks[0]["sampled"]["loss"], two_ranks[1]["sampled"]["loss"])
    assert two_ranks[0]["sampled"]["loss"] < two_ranks[0]["fused"]["loss"]


def test_one_process_needs_no_group() -> None:
    _, kernel, _, _ = batch()
    expected = whole()
    found = evaluate(ShardedMargin(DIMS, CLASSES), kernel, slice(None))
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-5, atol=1e-5)


def test_sampling_is_repeatable_and_exact() -> None:
    embedding, kernel, label, teacher = batch()
    heads = [ShardedMargin(DIMS, CLASSES, sample_rate=0.3, seed=seed) for seed in (1, 1, 2)]
    runs = [[evaluate(head, kernel, slice(None)) for _ in range(2)] for head in heads]
    for step in range(2):
        assert torch.equal(runs[0][step]["loss"], runs[1][step]["loss"])
        assert not torch.equal(runs[0][step]["loss"], runs[2][step]["loss"])
    assert not torch.equal(runs[0][0]["loss"], runs[0][1]["loss"])

    chosen, position = sample_classes(label, CLASSES, 0.3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(chosen[position], label)
    sub = margin_cross_entropy(embedding, kernel[:, chosen], position, teacher=teacher, kd_weight=100.0)
    assert torch.allclose(sub, runs[0][0]["loss"])

    heads[0].eval()
    assert torch.allclose(evaluate(heads[0], kernel, slice(None))["loss"], whole()["loss"])


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 1.0])
def test_sample_classes(rate: float) -> None:
    label = torch.tensor([3, -1, 99, 3, 0])
    chosen, position = sample_classes(label, 100, rate, generator=torch.Generator().manual_seed(0))
    assert len(chosen) == max(3, round(rate * 100))
    assert (chosen.diff() > 0).all()
    assert position[1] == -1
    present = label >= 0
    assert torch.equal(chosen[position[present]], label[present])


def test_no_label_here() -> None:
    chosen, position = sample_classes(torch.tensor([-1, -1]), 10, 0.01)
    assert len(chosen) == 1
    assert position.tolist() == [-1, -1]


@pytest.mark.parametrize(("classes", "ranks"), [(10, 3), (7, 7), (1_000_003, 8)])
def test_shards_cover_all_classes(classes: int, ranks: int) -> None:
    ranges = [shard_range(classes, rank, ranks) for rank in range(ranks)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == classes
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    sizes = {end - first for first, end in ranges}
    assert max(sizes) - min(sizes) <= 1


def test_errors() -> None:
    with pytest.raises(PocketNetError, match="sampling rate"):
        ShardedMargin(4, 10, sample_rate=0.0)
    with pytest.raises(PocketNetError, match="sampling rate"):
        sample_classes(torch.tensor([1]), 10, 1.5)
    with pytest.raises(PocketNetError, match="0 classes"):
        ShardedMargin(4, 0)
    head = ShardedMargin(4, 10)
    with pytest.raises(PocketNetError, match=r"labels must lie in 0\.\.9"):
        head(torch.randn(1, 4), torch.tensor([10]))
    assert "rank 0 of 1" in repr(head)
