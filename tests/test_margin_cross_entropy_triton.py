"""The Triton kernels of the margin softmax: interpreted, on a GPU, compiled without one; and their choice."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
from margin_problems import problem
from torch._subclasses.fake_tensor import FakeTensorMode
from triton_tests import assert_registered, compile_for_gpu, compiling, interpreted, needs_triton, on_the_gpu

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.losses import margin_cross_entropy
from pocketnet_fast.losses.margin_cross_entropy import margin_terms

test_interpreted = interpreted("margin_cross_entropy_on_triton.py")
test_on_the_gpu = on_the_gpu("margin_cross_entropy_on_triton.py")


@pytest.mark.slow
@compiling
@pytest.mark.parametrize(("dtype", "capability"), [(torch.float32, 80), (torch.bfloat16, 90)])
def test_compiles_without_a_gpu(dtype: torch.dtype, capability: int) -> None:
    """What the interpreter accepts the compiler may not; the tiles fit the shared memory of every GPU."""
    from pocketnet_fast.ops.margin_cross_entropy import triton_kernels, triton_launch

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
        compile_for_gpu(
            kernel,
            signature,
            constants,
            capability=capability,
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )


@needs_triton
def test_registered_for_cuda() -> None:
    from pocketnet_fast.ops.margin_cross_entropy import triton_launch

    assert_registered(triton_launch)


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
