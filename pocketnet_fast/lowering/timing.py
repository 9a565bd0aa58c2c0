"""How long the fused engine and eager PyTorch take for a batch, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pocketnet_fast.lowering.compiled import CompiledModel
from pocketnet_fast.lowering.compiled_cuda import CompiledCudaModel
from pocketnet_fast.lowering.plan import Plan
from pocketnet_fast.waiting import ProcessorWaits


@dataclass(frozen=True)
class EngineTimes:
    """What was measured.

    Attributes:
        milliseconds: The median time of a batch by engine, ``"fused"`` and ``"eager"``.
        waits: How long threads waited for processors meanwhile.
    """

    milliseconds: dict[str, float]
    waits: ProcessorWaits


def time_on_cpu(network: nn.Module, plan: Plan, *, batch: int, threads: int, repeats: int) -> EngineTimes:
    """Time a network and its plan on the CPU.

    Args:
        network: In evaluation mode.
        plan: What it was lowered to.
        batch: Images of a call.
        threads: Threads of a call; torch keeps this number.
        repeats: Timed calls of each.
    """
    fused = CompiledModel(plan, threads, flip=False)
    torch.set_num_threads(threads)
    images = torch.rand(batch, 3, plan.height, plan.width) * 2 - 1
    with torch.inference_mode(), ProcessorWaits() as waits:
        engines = {"fused": lambda: fused(images), "eager": lambda: network(images)}
        milliseconds = _medians(engines, repeats, warm_up=2)
    return EngineTimes(milliseconds, waits)


def time_on_cuda(
    network: nn.Module, fused: CompiledCudaModel, images: torch.Tensor, precision: str, repeats: int
) -> dict[str, float]:
    """Time replayed graphs and a network in the same precision, channels last, on CUDA.

    Args:
        network: In evaluation mode; it stays on the images' device, in that precision.
        fused: What it was lowered to.
        images: N x 3 x height x width, float32, on the device.
        precision: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``.
        repeats: Timed calls of each.

    Returns:
        The median milliseconds of a batch by engine, ``"fused"`` and ``"eager"``.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    network.to(images.device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    given = images.to(dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        return _medians(
            {"fused": lambda: fused(images), "eager": lambda: network(given)},
            repeats,
            warm_up=3,
            settle=lambda: torch.cuda.synchronize(images.device),
        )


def _medians(
    engines: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    warm_up: int,
    settle: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Median milliseconds of calls in turns, of which the first ``warm_up`` rounds do not count."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for index in range(repeats + warm_up):
        for name, call in engines.items():
            settle()
            start = time.perf_counter()
            call()
            settle()
            if index >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}
