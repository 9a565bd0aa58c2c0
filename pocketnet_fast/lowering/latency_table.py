"""How long each candidate operation takes on the fused kernels of this machine, by shape.

An operation is timed where a search would put it: in networks of one operation only, whose nodes run in the
groups and from the states that they have in any network of that size. Half of a node's time is an edge's.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from pocketnet_fast.lowering.networks import lower
from pocketnet_fast.lowering.plan import NodeStep
from pocketnet_fast.lowering.profile import profile
from pocketnet_fast.machine import processor_name
from pocketnet_fast.models.genotypes import OPERATIONS, Edge, Genotype
from pocketnet_fast.models.pocketnet import PocketNet

Shape = tuple[str, int, int, int, int]
"""Operation, channels, stride, and the height and width that it reads."""


def _uniform(operation: str) -> Genotype:
    """All edges alike; a reduction cell has nodes on its inputs, of stride 2, and nodes on nodes."""
    on_inputs = (Edge(operation, 0), Edge(operation, 1))
    on_a_node = (Edge(operation, 2), Edge(operation, 2))
    concat = (2, 3, 4, 5)
    return Genotype((on_inputs,) * 4, concat, (on_inputs, on_a_node) * 2, concat)


def measure_latency_table(
    channels: int, layers: int, *, repeats: int = 30, advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Time every operation at every shape of a network, on one thread.

    Args:
        channels: Width C of the network's first cells.
        layers: Its number of cells.
        repeats: Images that each network is timed on; medians are taken.
        advance: Called after each of the ``len(OPERATIONS)`` networks.

    Returns:
        ``machine``, ``isa``, ``precision``, ``threads``, ``channels``, ``layers``; ``fixed_ms``, what stem,
        pre-processing and tail take together; and ``entries``, each with ``operation``, ``channels``,
        ``stride``, ``height`` and ``width`` of the map it reads, and ``ms`` per image. JSON can hold it.

    Raises:
        PocketNetError: Sizes that make no network.
    """
    from pocketnet_fast.ops.native import compiled_isa

    times: dict[Shape, list[float]] = defaultdict(list)
    fixed = []
    for operation in OPERATIONS:
        plan = lower(PocketNet(_uniform(operation), channels, layers).eval())
        rest = 0.0
        for step, measured in zip(plan.steps(), profile(plan, repeats), strict=True):
            milliseconds = measured.microseconds * 1e-3
            if not (isinstance(step, NodeStep) and ".dag." in step.name):
                rest += milliseconds
                continue
            source, result = (plan.buffers[i] for i in (step.terms[0].source, step.output))
            stride = source.height // result.height
            shape = (operation, result.channels, stride, source.height, source.width)
            times[shape].append(milliseconds / 2)
        fixed.append(rest)
        advance()
    fields = ("operation", "channels", "stride", "height", "width")
    return {
        "machine": processor_name(),
        "isa": compiled_isa(),
        "precision": "fp32",
        "threads": 1,
        "channels": channels,
        "layers": layers,
        "fixed_ms": statistics.median(fixed),
        "entries": [
            {**dict(zip(fields, shape, strict=True)), "ms": statistics.median(found)}
            for shape, found in times.items()
        ],
    }
