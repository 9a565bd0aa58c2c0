"""What the tests of Triton kernels share: when they run, and compiling a kernel without a GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
import torch
from native import run_triton_suite

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# What a program may have on every GPU that the kernels are for.
_SHARED_MEMORY = 99 * 1024


def compiling(test: Callable[..., None]) -> Callable[..., None]:
    """A test that compiles kernels."""
    interpreting = "TRITON_INTERPRET" in os.environ
    mark = pytest.mark.skipif(interpreting, reason="TRITON_INTERPRET takes the compiler's place")
    return needs_triton(mark(test))


def interpreted(suite: str, seconds: float | None = None) -> Callable[[], None]:
    """A test that runs a file of tests under Triton's interpreter."""
    slow = pytest.mark.slow if seconds is None else pytest.mark.slow(seconds=seconds)

    @slow
    @needs_triton
    def test() -> None:
        run_triton_suite(Path(__file__).with_name(suite), interpreted=True)

    return test


def on_the_gpu(suite: str) -> Callable[[], None]:
    """A test that runs a file of tests on a CUDA device."""

    @needs_triton
    @needs_gpu
    @pytest.mark.cuda
    def test() -> None:
        run_triton_suite(Path(__file__).with_name(suite), interpreted=False)

    return test


def compile_for_gpu(
    kernel: Any, types: dict[str, Any], constants: dict[str, Any], *, capability: int = 90, **options: int
) -> None:
    """Compile a kernel as if for the first time; its tiles must fit the shared memory of every GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    target = GPUTarget("cuda", capability, 32)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", folder)
        compiled = triton.compile(ASTSource(kernel, types, constants), target=target, options=options)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= _SHARED_MEMORY


def assert_registered(launch: ModuleType) -> None:
    """An operator and its derivative have kernels for the CPU and CUDA."""
    for name in (launch.NAME, f"{launch.NAME}_backward"):
        for device in ("CUDA", "CPU"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, device)
