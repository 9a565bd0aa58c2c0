"""Networks, inputs and comparisons that several tests share."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.genotypes import OPERATIONS, Genotype

ModelT = TypeVar("ModelT", bound=EmbeddingModel)


def randomize_(model: ModelT, seed: int) -> ModelT:
    """Give a network random weights under which activations stay of order one, and put it in eval mode.

    BatchNorm's running statistics are measured on random images and then disturbed, so that normalisation is
    neither the identity nor exact; slopes, scales and shifts differ per channel.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform_(tensor: Tensor, low: float, high: float) -> None:
        tensor.uniform_(low, high, generator=generator)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0.0, fan_in**-0.5, generator=generator)
                if module.bias is not None:
                    uniform_(module.bias, -0.2, 0.2)
            elif isinstance(module, nn.PReLU):
                uniform_(module.weight, -0.1, 0.5)
            elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                uniform_(module.weight, 0.6, 1.4)
                uniform_(module.bias, -0.3, 0.3)
                module.momentum = 1.0
        model.train()
        model(torch.randn(8, 3, *model.input_spec.size, generator=generator))
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.momentum = 0.1
                spread = module.running_var.sqrt()
                module.running_mean += spread * torch.randn(spread.shape, generator=generator) * 0.1
                module.running_var *= torch.empty_like(spread).uniform_(0.8, 1.25, generator=generator)
    return model.eval()


def random_genotype(seed: int, nodes: int = 4) -> Genotype:
    """Draw a genotype over the whole operation set; every edge of a node reads a state of its own."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    def cell() -> list[list[tuple[str, int]]]:
        drawn = []
        for node in range(nodes):
            sources = torch.randperm(node + 2, generator=generator)[:2].tolist()
            drawn.append([(OPERATIONS[draw(len(OPERATIONS))], source) for source in sources])
        return drawn

    concat = tuple(range(2, nodes + 2))
    return Genotype(cell(), concat, cell(), concat)  # type: ignore[arg-type]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest absolute expected value."""
    return float((actual.double() - expected.double()).abs().max() / expected.double().abs().max())


def at_once(work: Callable[[int], object], callers: int) -> None:
    """Give ``work`` each number below ``callers``, in as many threads, and wait for them."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def without_package(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let a package not be installed."""
    monkeypatch.setitem(sys.modules, package, None)
