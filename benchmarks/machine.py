"""What the machine can do at most: measured multiply-add peak and read bandwidth, per number of threads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from pocketnet_fast.machine import processor_name

_PROBE = Path(__file__).with_name("machine_probe.cpp")


@dataclass(frozen=True)
class Machine:
    """Measured limits of ``threads`` threads; each source says how a figure was obtained.

    Attributes:
        gflops: fp32 multiply-add peak, two operations per multiply-add.
        gflops_bf16: The same in bfloat16; None where the kernels have none of their own for it.
        memory_gbs: Read bandwidth of main memory.
        l2_gbs: Read bandwidth of second-level caches; None where only the fallback could run.
    """

    cpu: str
    threads: int
    gflops: float
    gflops_source: str
    memory_gbs: float
    l2_gbs: float | None
    bandwidth_source: str
    gflops_bf16: float | None = None


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _peak_bf16(threads: int) -> float | None:
    from pocketnet_fast.ops import native

    if native.compiled_isa("bf16") == native.compiled_isa("fp32"):
        return None
    extension = native.extension()
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(lambda _: extension.peak_gflops(True), range(threads)))


def _peak(threads: int) -> tuple[float, str]:
    try:
        from pocketnet_fast.ops import native

        extension = native.extension()
    except ImportError:
        return _matmul_gflops(threads), "torch matrix product: a lower bound"
    with ThreadPoolExecutor(threads) as pool:
        rates = list(pool.map(lambda _: extension.peak_gflops(), range(threads)))
    return sum(rates), f"multiply-add loop, {native.compiled_isa()}"


def _matmul_gflops(threads: int) -> float:
    torch.set_num_threads(threads)
    size = 1024
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = min(_seconds(lambda: a @ b) for _ in range(5))
    return 2 * size**3 / best / 1e9


def _seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _bandwidth(threads: int) -> tuple[float, float | None, str]:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        torch.set_num_threads(threads)
        data = torch.zeros(64 << 20)
        best = min(_seconds(data.sum) for _ in range(5))
        return data.nbytes / best / 1e9, None, "torch sum: a lower bound"
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/probe"
        command = [compiler, "-O3", "-march=native", "-pthread", str(_PROBE), "-o", program]
        subprocess.run(command, check=True)
        out = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True).stdout
    measured = json.loads(out)
    return measured["memory"], measured["l2"], "vector read loop"


def measure(threads: int) -> Machine:
    """Measure the machine for some seconds; nothing else should run."""
    gflops, gflops_source = _peak(threads)
    memory, l2, bandwidth_source = _bandwidth(threads)
    bf16 = _peak_bf16(threads)
    return Machine(processor_name(), threads, gflops, gflops_source, memory, l2, bandwidth_source, bf16)
