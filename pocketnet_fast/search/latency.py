"""Expected latency of the network that the alphas stand for, differentiable in them.

After ProxylessNAS (arXiv 1812.00332, section 3.3).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pocketnet_fast.data.alignment import CROP_SIZE
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.models.genotypes import OPERATIONS, Genotype, Node
from pocketnet_fast.search.cells import SEARCH_OPERATIONS
from pocketnet_fast.search.network import SearchNetwork

Shape = tuple[str, int, int, int, int]
"""Operation, channels, stride, and the height and width that it reads."""

_FIELDS = ("operation", "channels", "stride", "height", "width")
_EDGES_PER_NODE = 2


@dataclass(frozen=True)
class LatencyTable:
    """Measured times of operations, as ``pocketnet bench --table`` writes them.

    Attributes:
        name: How messages call it.
        machine: Where they were measured.
        milliseconds: Per image, by shape.
    """

    name: str
    machine: str
    milliseconds: dict[Shape, float]

    def time(self, operation: str, channels: int, stride: int, size: int) -> float:
        """Milliseconds of an operation on a square map.

        Raises:
            PocketNetError: The table has no such entry.
        """
        found = self.milliseconds.get((operation, channels, stride, size, size))
        if found is None:
            raise PocketNetError(
                f"{self.name} has no {operation} of {channels} channels, stride {stride}, at {size}x{size}; "
                "make one for this network: pocketnet bench --table FILE --channels C --layers L"
            )
        return found


def read_latency_table(path: str | os.PathLike[str]) -> LatencyTable:
    """Read a table.

    Raises:
        PocketNetError: It is missing or not of the form ``{"machine": ..., "entries": [{"operation": ...,
            "channels": ..., "stride": ..., "height": ..., "width": ..., "ms": ...}, ...]}``; names the entry.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PocketNetError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise PocketNetError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("entries"), list):
        raise PocketNetError(f'{path}: no latency table; expected an object with a list "entries"')
    times: dict[Shape, float] = {}
    for index, entry in enumerate(content["entries"]):
        shape, milliseconds = _entry(entry, f"{path}: entry {index}")
        if shape in times:
            raise PocketNetError(f"{path}: entry {index} repeats {shape}")
        times[shape] = milliseconds
    return LatencyTable(str(path), str(content.get("machine", "unknown")), times)


def _entry(entry: Any, where: str) -> tuple[Shape, float]:
    missing = [key for key in (*_FIELDS, "ms") if not isinstance(entry, dict) or key not in entry]
    if missing:
        raise PocketNetError(f"{where} has no {', '.join(missing)}")
    operation, *sizes = (entry[key] for key in _FIELDS)
    milliseconds = entry["ms"]
    if operation not in OPERATIONS:
        raise PocketNetError(f"{where} is for {operation!r}; expected one of {', '.join(OPERATIONS)}")
    if not all(type(size) is int and size > 0 for size in sizes):
        raise PocketNetError(f"{where} has sizes {sizes}; expected whole numbers from 1")
    number = isinstance(milliseconds, (int, float)) and not isinstance(milliseconds, bool)
    if not number or not 0 <= milliseconds < float("inf"):
        raise PocketNetError(f"{where} takes {milliseconds!r}; expected milliseconds from 0")
    channels, stride, height, width = sizes
    return (operation, channels, stride, height, width), float(milliseconds)


class ExpectedLatency:
    """The expected milliseconds of the cells' edges, from a network's alphas.

    An edge's time is the sum over its operations of softmax weight times measured time. Of a node's edges the
    derived network has two: the node's expectation is that share of all its edges' sum. What does not depend
    on the alphas (stem, pre-processing, tail) is left out.

    Args:
        network: Whose cells are timed.
        table: With every operation at every shape of them.

    Raises:
        PocketNetError: The table lacks an entry.
    """

    def __init__(self, network: SearchNetwork, table: LatencyTable) -> None:
        self._times = {
            reduction: [self._node(network, table, node, reduction) for node in range(network.nodes)]
            for reduction in (False, True)
        }

    def __call__(self, network: SearchNetwork) -> Tensor:
        """Expected milliseconds: a scalar, differentiable in the alphas."""
        total = []
        for reduction, nodes in self._times.items():
            for weights, times in zip(network.operation_weights(reduction=reduction), nodes, strict=True):
                share = _EDGES_PER_NODE / len(times)
                total.append(share * (weights * times.to(weights)).sum())
        return torch.stack(total).sum()

    def _node(self, network: SearchNetwork, table: LatencyTable, node: int, reduction: bool) -> Tensor:
        """Milliseconds [edges, operations] of a node, summed over the cells of the kind."""
        times = torch.zeros(node + 2, len(SEARCH_OPERATIONS), dtype=torch.float64)
        for channels, size in cell_shapes(network.channels, network.layers, reduction=reduction):
            for edge in range(node + 2):
                stride = 2 if reduction and edge < 2 else 1
                read = size if not reduction or edge < 2 else size // 2
                for k, operation in enumerate(SEARCH_OPERATIONS[:-1]):
                    times[edge, k] += table.time(operation, channels, stride, read)
        return times


def genotype_latency(table: LatencyTable, genotype: Genotype, channels: int, layers: int) -> float:
    """Milliseconds that a genotype's edges take by the table, without stem, pre-processing and tail.

    Raises:
        PocketNetError: The table lacks an entry.
    """

    def cell(nodes: tuple[Node, ...], width: int, size: int, reduction: bool) -> float:
        total = 0.0
        for node in nodes:
            for edge in node:
                on_input = reduction and edge.input < 2
                read = size // 2 if reduction and not on_input else size
                total += table.time(edge.operation, width, 2 if on_input else 1, read)
        return total

    return sum(
        cell(genotype.reduce if reduction else genotype.normal, width, size, reduction)
        for reduction in (False, True)
        for width, size in cell_shapes(channels, layers, reduction=reduction)
    )


def cell_shapes(channels: int, layers: int, *, reduction: bool) -> list[tuple[int, int]]:
    """Width, and height of the maps read, of a network's normal or reduction cells."""
    reductions = (layers // 3, 2 * layers // 3, layers - 1)
    size, found = CROP_SIZE // 2, []
    for index in range(layers):
        reduces = index in reductions
        channels = 2 * channels if reduces else channels
        if reduces == reduction:
            found.append((channels, size))
        size = size // 2 if reduces else size
    return found
