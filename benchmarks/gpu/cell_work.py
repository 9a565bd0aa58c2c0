"""What the training kernels of a network have to read, write and multiply, and how long that takes at least.

The calls of the operator ``cell`` are recorded on the CPU; counts are per image. A kernel reads and writes
each of its operands once: what several taps or tiles read again is taken to come from a cache.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pocketnet_fast.ops.cell import Kind
from pocketnet_fast.ops.cell.autograd import NAME
from pocketnet_fast.ops.cell.operands import Operands, read

_FLOAT = 4


@dataclass
class Work:
    """Floating point operations and bytes of a kernel, per image."""

    flops: float = 0.0
    bytes: float = 0.0


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Operands] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() == NAME:
            self.calls.append(read(*args))
        return func(*args, **(kwargs or {}))


def recorded_calls(model: nn.Module) -> list[Operands]:
    """The calls of a forward pass in training."""
    setattr(model, "fused", True)  # noqa: B010 - not every network has it
    with _Recorder() as recorder, torch.no_grad():
        model.train()(torch.randn(2, 3, 112, 112))
    return recorder.calls


def work(calls: list[Operands], operand: int) -> dict[str, Work]:
    """Per kernel; ``operand`` is the bytes of an element that a matrix product takes."""
    found: dict[str, Work] = defaultdict(Work)

    def add(kernel: str, flops: float, moved: float) -> None:
        found[kernel].flops += flops
        found[kernel].bytes += moved

    for call in calls:
        for total, size in enumerate(call.states[call.inputs :]):
            terms = call.of_sum(total)
            result = size.channels * size.height * size.width
            add("sum", 0, _FLOAT * (result + sum(t.out * t.height * t.width for t in terms)))
        for term in call.terms:
            o, pixels = term.operation, term.height * term.width
            state = term.source.height * term.source.width * term.channels_in
            out, inner = pixels * term.out, pixels * term.channels_in
            if o.kind is Kind.RESIDUAL:
                add("residual gradient", 0, _FLOAT * 3 * state)
            elif o.kind is Kind.SEPARABLE:
                taps = o.kernel * o.kernel
                product, filters = 2 * out * term.channels_in, 2 * inner * taps
                kept = operand * inner if o.kernel > 1 else 0
                add("products", product + filters, _FLOAT * (state + out))
                add("products, again", product + filters, _FLOAT * (state + 2 * out) + kept)
                add("pointwise_weight", product, _FLOAT * 2 * out + (kept or _FLOAT * state))
                add("filtered_gradient", product, _FLOAT * 2 * out + operand * inner)
                add("depthwise_gradient", 2 * filters, operand * inner + _FLOAT * 3 * state)
            else:
                written = out if o.kind in (Kind.MAX_POOL, Kind.AVG_POOL) else 0
                add("window", 0, _FLOAT * (state + written))
                add("window, again", 0, _FLOAT * (state + written + out))
                add("window_gradient", 0, _FLOAT * (2 * out + 3 * state))
    return found


def floors(calls: list[Operands], batch: int, precision: str, limits: dict[str, float]) -> dict[str, float]:
    """Milliseconds of each kernel at the peak of a large product, or at the bandwidth of a copy."""
    operand = 2 if precision in ("bf16", "fp16") else _FLOAT
    flops, bandwidth = limits[f"{precision}_tflops"] * 1e12, limits["copy_gbs"] * 1e9
    return {
        kernel: 1e3 * batch * max(own.flops / flops, own.bytes / bandwidth)
        for kernel, own in work(calls, operand).items()
    }
