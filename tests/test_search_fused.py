"""A search network on the fused cells, against recorded values and against plain PyTorch."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch
from helpers import relative_error
from search_cases import GOLDEN, recorded_case
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.search.network import SearchNetwork


def network(channels: int = 4, nodes: int = 3, seed: int = 3) -> SearchNetwork:
    torch.manual_seed(seed)
    made = SearchNetwork(channels, 4, 5, nodes=nodes)
    for alpha in made.alphas().values():
        nn.init.normal_(alpha)
    return made


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 3, 112, 112, generator=generator), torch.arange(count) % 5


def train_once(
    given: SearchNetwork, dtype: torch.dtype, fused: bool, *, half: bool = False
) -> tuple[Tensor, SearchNetwork]:
    """Logits, and a copy of the network with gradients and updated running statistics; ``half``: autocast."""
    model = copy.deepcopy(given).to(dtype).train()
    model.fused = fused
    images, label = batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model(images.to(dtype))
    cross_entropy(logits.to(dtype), label).backward()
    return logits.detach(), model


@pytest.mark.slow
def test_recorded_values_are_reproduced(golden, isa):
    """Logits and the first-order gradient of the alphas, whose maxima and kinks are the recorded ones."""
    record = golden(GOLDEN)
    case = recorded_case(record, torch.float32)
    case.network.fused = True
    logits = case.network(case.train_batch[0])
    assert relative_error(logits.detach(), record.tensors["train_logits"]) < 1e-5
    # The recording's running statistics play no part: they do not change what training mode computes.
    images, label = case.val_batch
    cross_entropy(case.network(images), label).backward()
    for name, alpha in case.network.alphas().items():
        expected = record.tensors[f"alpha_grad_first_order.{name}"]
        assert relative_error(alpha.grad, expected) < 1e-4, name


def gradient_errors(given: SearchNetwork, half: bool) -> list[float]:
    """Of each gradient, over eager's, both from float64; none may be far off."""
    # Without kinks: where a value is zero up to rounding, float32 and float64 may take different sides.
    for module in given.modules():
        if isinstance(module, nn.PReLU):
            nn.init.ones_(module.weight)
    # Nor maxima, which may be those of different pixels.
    with torch.no_grad():
        for alpha in given.alphas().values():
            alpha[:, 0] = -40.0
    ours, fused = train_once(given, torch.float32, True, half=half)
    theirs, eager = train_once(given, torch.float32, False, half=half)
    true, exact = train_once(given, torch.float64, False)
    rounding = 1e-2 if half else 1e-6
    assert relative_error(ours, true) <= max(2 * relative_error(theirs, true), rounding)
    gradients = {name: p.grad for name, p in exact.named_parameters() if p.grad is not None}
    largest = max(float(g.norm()) for g in gradients.values())
    assert {name for name, p in fused.named_parameters() if p.grad is not None} == set(gradients)
    ratios = []
    for (name, p), q in zip(fused.named_parameters(), eager.parameters(), strict=True):
        if p.grad is None or gradients[name].norm() < 1e-9 * largest:
            continue
        error, eagers = (relative_error(g.grad, gradients[name]) for g in (p, q))
        assert error <= max(5 * eagers, 50 * rounding), name
        ratios.append(error / max(eagers, 1e-7))
    return ratios


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("channels", [4, 16])
def test_gradients_are_as_good_as_eagers(channels, half):
    """In float32 and, against eager's under autocast, in half precision.

    The gradients of one network share the rounding of its forward pass, and so their luck, which differs
    by a factor of two from one instruction set to another: several networks have a say.
    """
    medians = [
        statistics.median(gradient_errors(network(channels, nodes=2, seed=seed), half)) for seed in (3, 4, 5)
    ]
    assert statistics.geometric_mean(medians) < 2


def test_running_statistics_are_torchs():
    given = network()
    _, fused = train_once(given, torch.float32, True)
    _, plain = train_once(given, torch.float64, False)
    for (name, ours), true in zip(fused.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours.double(), true.double(), rtol=1e-4, atol=1e-5, msg=name)


def test_fused_is_refused_with_a_reason():
    given = network()
    given.fused = True
    with pytest.raises(PocketNetError, match=r"fused=True, but the input is torch\.float64"):
        given.double()(batch()[0].double())


def test_auto_takes_what_can_run():
    given = network()
    given.fused = "auto"
    double = copy.deepcopy(given).double()
    assert double(batch()[0].double()).dtype == torch.float64
    with torch.no_grad():
        auto = copy.deepcopy(given)(batch()[0])
        given.fused = True
        assert torch.equal(auto, given(batch()[0]))
        given.eval()
        assert given(batch()[0]).shape == (4, 5)


def test_one_image_is_not_normalised():
    given = network()
    given.fused = True
    assert given(batch(2)[0]).shape == (2, 5)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        given(batch(1)[0])
