"""The Triton kernels of the margin softmax: interpreted, on a GPU, compiled without one; and their choice."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from margin_problems import problem
from native import run_triton_suite
from torch._subclasses.fake_tensor import FakeTensorMode

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.losses import margin_cross_entropy
from pocketnet_fast.losses.margin_cross_entropy import margin_terms

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
SUITE = Path(__file__).with_name("margin_cross_entropy_on_triton.py")


@pytest.mark.slow
@needs_triton
def test_interpreted() -> None:
    run_triton_suite(SUITE, interpreted=True)


@needs_triton
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_the_gpu() -> None:
    run_triton_suite(SUITE, interpreted=False)


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET takes the compiler's place")
@pytest.mark.parametrize(("dtype", "capability"), [(torch.float32, 80), (torch.bfloat16, 90)])
def test_compiles_without_a_gpu(
    dtype: torch.dtype, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the interpreter accepts the compiler may not; the tiles fit the shared memory of every GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pocketnet_fast.ops.margin_cross_entropy import triton_kernels, triton_launch

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tiles = triton_launch._tiles(torch.empty(0, dtype=dtype))
    operand = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    types = dict.fromkeys(("rows", "kernel", "grad_kernel"), operand)
    types |= dict.fromkeys(("label", "label_order", "label_ends"), "*i64") | {"scale": "fp32"}
    integers = ("samples", "classes", "dims", "dim_stride", "class_stride", "classes_per_split")
    types |= dict.fromkeys(integers, "i32")
    values = {
        "DIMS": 128,
        "SAMPLES": tiles.samples,
        "CLASSES": tiles.classes,
        "INNER": tiles.inner,
        "OUTER": tiles.outer,
        "PRECISION": "ieee",
    }
    for kernel in (
        triton_kernels.column_inverse_kernel,
        triton_kernels.forward_kernel,
        triton_kernels.grad_rows_kernel,
        triton_kernels.grad_kernel_kernel,
    ):
        signature = {
            name: "constexpr" if name in values else types.get(name, "*fp32") for name in kernel.arg_names
        }
        constants = {name: values[name] for name in kernel.arg_names if name in values}
        compiled = triton.compile(
            ASTSource(kernel, signature, constants),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": tiles.warps, "num_stages": tiles.stages},
        )
        assert compiled.asm["cubin"]
        assert compiled.metadata.shared <= 99 * 1024


@needs_triton
def test_registered_for_cuda() -> None:
    from pocketnet_fast.ops.margin_cross_entropy import triton_launch

    for name in (triton_launch.NAME, f"{triton_launch.NAME}_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")


@needs_triton
def test_choice_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    from pocketnet_fast.ops.margin_cross_entropy import triton_launch

    launched = []
    launch = triton_launch.margin_cross_entropy
    monkeypatch.setattr(triton_launch, "margin_cross_entropy", lambda *a: launched.append(a) or launch(*a))
    with FakeTensorMode():
        embedding, kernel = torch.empty(5, 8, device="cuda"), torch.empty(8, 40, device="cuda")
        label = torch.empty(5, dtype=torch.int64, device="cuda")
        for dtype in (torch.float32, torch.bfloat16):
            others, cosine = margin_terms(embedding.to(dtype), kernel, label, 64.0, "auto")
            assert others.device.type == cosine.device.type == "cuda"
            assert others.dtype == cosine.dtype == torch.float64
        assert len(launched) == 2
        margin_terms(embedding.double(), kernel, label, 64.0, "auto")
        margin_terms(embedding, kernel, label, 64.0, "reference")
        assert len(launched) == 2
        with pytest.raises(PocketNetError, match="it is for the CPU, and the tensors are on cuda"):
            margin_terms(embedding, kernel, label, 64.0, "fused")


@needs_triton
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="under TRITON_INTERPRET it runs")
def test_refused_on_the_cpu() -> None:
    with pytest.raises(
        PocketNetError, match="the triton margin softmax cannot run: it is for CUDA, or the CPU under"
    ):
        margin_cross_entropy(*problem(5, 8, 40), implementation="triton")


def test_wrong_dtype() -> None:
    embedding, kernel, label = problem(5, 8, 40)
    with pytest.raises(PocketNetError, match=r"triton margin softmax cannot run: kernel is torch\.float64"):
        margin_cross_entropy(embedding, kernel.double(), label, implementation="triton")


def test_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PocketNetError, match=r"pip install 'pocketnet_fast\[gpu\]'"):
        margin_cross_entropy(*problem(5, 8, 40), implementation="triton")
    assert margin_cross_entropy(*problem(5, 8, 40)).isfinite()
