"""How large a network is: parameters, multiply-accumulates, and the paper's FLOPs.

Two conventions are kept apart:

- MACs: one per multiply-accumulate of convolutions and linear layers, nothing else.
- FLOPs as the paper's tables count them: two per multiply-accumulate, one per added bias, two per normalised
  element, one per activated element, and the window's size per pooled element; the sums of nodes and
  residuals and the concatenations count nothing. The paper's 587.11, 587.24, 1099.02 and 1099.15 MFLOPs are
  these counts cut, not rounded, after two decimals (``paper_mflops``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pocketnet_fast.models.base import EmbeddingModel
from pocketnet_fast.models.cells import Cell
from pocketnet_fast.models.pocketnet import PocketNet

_ACTIVATIONS = (nn.PReLU, nn.ReLU, nn.ReLU6)
_NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)


@dataclass
class Count:
    """Size of a network or of a part of it, for one image.

    Attributes:
        parameters: Learned values; BatchNorm's running statistics are not among them.
        macs: Multiply-accumulates of convolutions and linear layers.
        flops: Floating-point operations in the paper's convention.
    """

    parameters: int = 0
    macs: int = 0
    flops: int = 0

    def add(self, other: Count) -> None:
        """Add another part's counts to this one's."""
        self.parameters += other.parameters
        self.macs += other.macs
        self.flops += other.flops

    @property
    def paper_mflops(self) -> float:
        """Millions of ``flops``, cut after two decimals as in the paper's tables."""
        return self.flops // 10_000 / 100


@dataclass
class ModelCount:
    """Counts of a whole network and of its parts; either list of parts sums to the total.

    Attributes:
        total: The whole network.
        by_operation: By the genotype's operations, stem, pre-processing and tail of a PocketNet; by the
            top-level parts of another network.
        by_layer: By kind of layer, such as ``conv 1x1``, ``depthwise 3x3`` or ``batch norm``.
    """

    total: Count = field(default_factory=Count)
    by_operation: dict[str, Count] = field(default_factory=dict)
    by_layer: dict[str, Count] = field(default_factory=dict)


def count_model(model: EmbeddingModel) -> ModelCount:
    """Count a network for one image of its input size, by shapes alone: nothing is computed.

    The model is not changed. Layers outside the conventions above count their parameters only.
    """
    meta = copy.deepcopy(model).to("meta").eval()
    result = ModelCount()
    for name, module in meta.named_modules():
        if not any(module.children()):
            module.register_forward_hook(_recorder(result, _operation(model, name)))
    with torch.no_grad():
        meta(torch.empty(1, 3, *model.input_spec.size, device="meta"))
    return result


def _recorder(result: ModelCount, operation: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def record(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        layer, count = _count_layer(module, output)
        result.total.add(count)
        result.by_operation.setdefault(operation, Count()).add(count)
        result.by_layer.setdefault(layer, Count()).add(count)

    return record


def _count_layer(module: nn.Module, output: Tensor) -> tuple[str, Count]:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    elements = output.numel()
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        macs = elements * module.weight[0].numel()
        biases = elements if module.bias is not None else 0
        return _product_kind(module), Count(parameters, macs, 2 * macs + biases)
    if isinstance(module, _NORMALIZATIONS):
        return "batch norm", Count(parameters, 0, 2 * elements)
    if isinstance(module, _ACTIVATIONS):
        return "activation", Count(parameters, 0, elements)
    if isinstance(module, _POOLS):
        size = module.kernel_size if isinstance(module.kernel_size, int) else module.kernel_size[0]
        kind = "max pool" if isinstance(module, nn.MaxPool2d) else "average pool"
        return f"{kind} {size}x{size}", Count(parameters, 0, size * size * elements)
    return type(module).__name__.lower(), Count(parameters)


def _product_kind(module: nn.Conv2d | nn.Linear) -> str:
    if isinstance(module, nn.Linear):
        return "linear"
    kind = "depthwise" if module.groups == module.in_channels > 1 else "conv"
    return f"{kind} {module.kernel_size[0]}x{module.kernel_size[1]}"


def _operation(model: nn.Module, layer: str) -> str:
    """Name the part of the network that a layer, given by its dotted name, belongs to."""
    path = layer.split(".")
    if not isinstance(model, PocketNet) or path[0] != "cells":
        return path[0]
    cell = model.cells[int(path[1])]
    assert isinstance(cell, Cell)
    if path[2] != "dag":
        return "pre-processing"
    nodes = model.genotype.reduce if cell.reduction else model.genotype.normal
    edge = nodes[int(path[3])][int(path[4])]
    return edge.operation
