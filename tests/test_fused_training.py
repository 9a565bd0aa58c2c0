"""A network that trains on the fused cells, against plain PyTorch."""

from __future__ import annotations

import copy
import importlib.util
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers import random_genotype
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pocketnet_fast import create_model
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.fused_training import fused_forward, obstacle
from pocketnet_fast.models.genotypes import Genotype
from pocketnet_fast.models.pocketnet import PocketNet
from pocketnet_fast.ops.native import compiled_isa

# No maximum takes part: where two pixels are equal up to rounding, float32 and float64 choose different
# ones, and all gradients before differ by the whole gradient of a pixel. PReLU's kink is alike, so the
# test of precision has slopes of one; the operator's own tests have all slopes and maxima.
SMOOTH = Genotype(
    [
        [("dw_conv_3x3", 0), ("dw_conv_1x1", 1)],
        [("dw_conv_5x5", 2), ("avg_pool_3x3", 0)],
        [("dw_conv_7x7", 3), ("skip_connect", 1)],
        [("skip_connect", 4), ("skip_connect", 0)],
    ],
    (2, 3, 4, 5),
    [
        [("dw_conv_3x3", 1), ("skip_connect", 0)],
        [("dw_conv_7x7", 0), ("avg_pool_3x3", 1)],
        [("dw_conv_5x5", 2), ("dw_conv_1x1", 0)],
        [("skip_connect", 2), ("dw_conv_3x3", 3)],
    ],
    (2, 3, 4, 5),
)


def network(channels: int = 8, layers: int = 4, genotype: Genotype = SMOOTH) -> PocketNet:
    torch.manual_seed(3)
    return PocketNet(genotype, channels, layers, 32)


def images(count: int = 4, seed: int = 5) -> Tensor:
    return torch.randn(count, 3, 112, 112, generator=torch.Generator().manual_seed(seed))


def train_once(model: PocketNet, x: Tensor, fused: bool | str) -> tuple[Tensor, PocketNet]:
    """Embeddings, and a copy of the network with gradients and updated running statistics."""
    model = copy.deepcopy(model).train()
    model.fused = fused
    embedding = model(x)
    target = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(7))
    (embedding * target.to(embedding.dtype)).sum().backward()
    return embedding.detach(), model


def gradient_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / (expected.double().norm() + 1e-300))


@pytest.mark.parametrize("channels", [6, 16])
def test_every_gradient_is_as_good_as_eagers(channels: int) -> None:
    model = network(channels)
    for module in model.modules():
        if isinstance(module, nn.PReLU):
            nn.init.ones_(module.weight)
    ratios = []
    # The rounding of one batch's moments is in all of its gradients, and may be lucky or not.
    for seed in (5, 6, 7):
        x = images(seed=seed)
        ours, fused = train_once(model, x, True)
        theirs, eager = train_once(model, x, False)
        true, exact = train_once(copy.deepcopy(model).double(), x.double(), False)
        assert distance(ours, true) <= max(2 * distance(theirs, true), 1e-6)
        true_gradients = [gradient_of(p) for p in exact.parameters()]
        largest = max(float(g.norm()) for g in true_gradients)
        parameters = zip(fused.named_parameters(), eager.parameters(), true_gradients, strict=True)
        for (name, p), q, true_gradient in parameters:
            error = float((gradient_of(p) - true_gradient).norm())
            eagers = float((gradient_of(q) - true_gradient).norm())
            # Eager's short vectors may be lucky; and some gradients vanish up to rounding, as those of what a
            # normalisation takes out again.
            assert error <= max(2 * eagers, 1e-5 * float(true_gradient.norm()) + 1e-6 * largest), name
            ratios.append(error / eagers)
        for (name, a), b in zip(fused.named_buffers(), exact.buffers(), strict=True):
            assert torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6), name
    # The scalar kernels round products and sums separately, where eager's have fused multiply-adds.
    most = 3.0 if compiled_isa() == "scalar" else 2.0
    assert sorted(ratios)[len(ratios) // 2] < most


@pytest.mark.parametrize("seed", range(4))
def test_random_genotypes(seed: int) -> None:
    model, x = network(4 + seed, 4 + seed, random_genotype(seed)), images(2)
    ours, fused = train_once(model, x, True)
    expected, eager = train_once(model, x, False)
    assert distance(ours, expected) < 1e-4
    for (name, p), q in zip(fused.named_parameters(), eager.parameters(), strict=True):
        expected_gradient = gradient_of(q)
        assert (
            float((gradient_of(p) - expected_gradient).norm()) < 0.05 * float(expected_gradient.norm()) + 1e-4
        ), name


@pytest.mark.slow
def test_published_network_trains() -> None:
    torch.manual_seed(0)
    model = create_model("pocketnet_s128")
    assert model.fused == "auto"
    x = images(6)
    ours, fused = train_once(model, x, "auto")  # type: ignore[arg-type]
    expected, eager = train_once(model, x, False)  # type: ignore[arg-type]
    assert distance(ours, expected) < 1e-4
    pairs = [
        (gradient_of(p), gradient_of(q)) for p, q in zip(fused.parameters(), eager.parameters(), strict=True)
    ]
    squares = [(float((p - q).norm()) ** 2, float(q.norm()) ** 2) for p, q in pairs]
    assert sum(s for s, _ in squares) < 0.05**2 * sum(s for _, s in squares)


def test_running_statistics_after_several_batches() -> None:
    fused, eager = network(), network()
    fused.fused, eager.fused = True, False
    for norm in (m for model in (fused, eager) for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None if norm.num_features == 16 else 0.3
    with torch.no_grad():
        for seed in range(3):
            x = images(2 + seed)
            fused(x)
            eager(x)
    for (name, a), b in zip(fused.named_buffers(), eager.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), name


def test_empty_and_single_batches() -> None:
    model = network()
    before = {k: v.clone() for k, v in model.named_buffers()}
    assert model(images(0)).shape == (0, 32)
    in_cells = {k: v for k, v in model.named_buffers() if k.startswith("cells")}
    assert all(torch.equal(v, before[k]) for k, v in in_cells.items())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(images(1))  # the last normalisation has one value, as in plain PyTorch


@pytest.mark.parametrize("value", ["always", None, 2])
def test_unknown_value(value: object) -> None:
    model = network()
    model.fused = value  # type: ignore[assignment]
    with pytest.raises(PocketNetError, match="expected 'auto', True or False"):
        model(images(2))


def test_obstacles_are_named() -> None:
    x = images(2)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(network())
    frozen = network()
    next(m for m in frozen.cells.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    hooked = network()
    hooked.cells[0].register_forward_hook(lambda *_: None)
    for model, given, message in (
        (synchronised, x, "a normalisation is SyncBatchNorm"),
        (frozen, x, "a BatchNorm2d is in eval mode"),
        (hooked, x, "a Cell has hooks"),
        (network().double(), x.double(), "the input is torch.float64"),
        (network().double(), x, "a parameter is torch.float64"),
    ):
        model.fused = True
        with pytest.raises(PocketNetError, match=f"fused=True, but {message}"):
            model(given)


def test_obstacles_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network().train()
    with FakeTensorMode():
        x = torch.empty(2, 3, 112, 112, device="cuda")
    assert obstacle(model, x) == "a parameter is torch.float32 on cpu, not float32 on cuda:0"
    assert obstacle(model, x.to("meta")) == "the input is on meta, and the kernels are for the CPU and CUDA"
    with FakeTensorMode():
        there = network().train()
        for module in there.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    module._parameters[name] = nn.Parameter(torch.empty(value.shape, device="cuda"))
    assert obstacle(there, x) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert str(obstacle(model, x)).startswith("triton is not installed")


def test_auto_falls_back_where_it_must() -> None:
    """To plain PyTorch's own result; hooks are called, frozen statistics stay."""
    x = images(2)
    frozen = network()
    norm = next(m for m in frozen.cells.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    plain = copy.deepcopy(frozen)
    plain.fused = False
    assert torch.equal(frozen(x), plain(x))
    assert torch.equal(before, norm.running_mean)  # type: ignore[arg-type]

    seen = []
    hooked = network()
    hooked.cells[2].register_forward_hook(lambda *_: seen.append(1))
    hooked(x)
    assert seen == [1]


def test_eval_mode_is_plain_pytorch() -> None:
    x = images(2)
    model = network().eval()
    model.fused = True
    plain = copy.deepcopy(model)
    plain.fused = False
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))


def test_second_derivatives() -> None:
    model = network()
    x = images(2).requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="set fused=False on the model"):
        gradient.sum().backward()
    model.fused = False
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    gradient.square().sum().backward()


@pytest.mark.parametrize("channels", [6, 16])
def test_half_precision_is_as_good_as_autocast(bf16_isa: str, channels: int) -> None:
    """Every gradient's error at most twice eager's under autocast, and their middle smaller than eager's."""
    model, x = network(channels), images(8)
    for module in model.modules():
        if isinstance(module, nn.PReLU):
            nn.init.ones_(module.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, fused = train_once(model, x, True)
        theirs, eager = train_once(model, x, False)
    true, exact = train_once(copy.deepcopy(model).double(), x.double(), False)
    assert distance(ours, true) <= 2 * distance(theirs, true)
    true_gradients = [gradient_of(p) for p in exact.parameters()]
    largest = max(float(g.norm()) for g in true_gradients)
    ratios = []
    parameters = zip(fused.named_parameters(), eager.parameters(), true_gradients, strict=True)
    for (name, p), q, true_gradient in parameters:
        assert gradient_of(p).dtype == torch.float32
        error = float((gradient_of(p) - true_gradient).norm())
        eagers = float((gradient_of(q) - true_gradient).norm())
        assert error <= max(2 * eagers, 2.0**-7 * float(true_gradient.norm()) + 1e-4 * largest), name
        ratios.append(error / eagers)
    assert sorted(ratios)[len(ratios) // 2] < 1.0
    for (name, a), b in zip(fused.named_buffers(), exact.buffers(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=2e-2, atol=2e-2), name


def test_half_precision_under_autocast_to_bfloat16_alone() -> None:
    model, x = network().train(), images(2)
    model.fused = True
    maps: dict[str, Sequence[Tensor]] = {}
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            fused_forward(model, x, maps)
        expected = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        assert all(part.dtype == expected for part in maps["56"])


def test_scripts_copies_and_pickles() -> None:
    x = images(2)
    model = network()
    model(x)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert copied.fused == "auto"
    scripted = torch.jit.script(model.eval())
    with torch.no_grad():
        assert distance(scripted(x), model(x)) < 1e-6


def _distributed(rank: int, file: str, results: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    try:
        model = nn.parallel.DistributedDataParallel(network().train())
        x = images(4)[2 * rank : 2 * rank + 2]
        model(x).square().sum().backward()
        if rank == 0:
            torch.save([p.grad for p in model.parameters()], results)
        # Whoever leaves first would end the exchange that the other's reducer still has open.
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path: Path) -> None:
    """The mean of the processes' gradients, each with the statistics of its own part of the batch."""
    results = tmp_path / "gradients.pt"
    torch.multiprocessing.spawn(_distributed, (str(tmp_path / "rendezvous"), str(results)), nprocs=2)
    found = torch.load(results, weights_only=True)
    parts = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for rank in range(2):
            model = network().train()
            model(images(4)[2 * rank : 2 * rank + 2]).square().sum().backward()
            parts.append([p.grad for p in model.parameters()])
    finally:
        torch.set_num_threads(threads)
    for gradient, first, second in zip(found, *parts, strict=True):
        assert torch.allclose(gradient, (first + second) / 2, rtol=1e-4, atol=1e-5)
