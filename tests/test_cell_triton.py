"""The Triton kernels that train a cell: interpreted, on a GPU, compiled without one; and their choice."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from cell_problems import CELLS
from torch._subclasses.fake_tensor import FakeTensorMode
from triton_tests import assert_registered, compile_for_gpu, compiling, interpreted, needs_triton, on_the_gpu

from pocketnet_fast.ops.cell import Kind
from pocketnet_fast.ops.cell.structure import encode

test_interpreted = interpreted("cell_on_triton.py", seconds=50)
test_on_the_gpu = on_the_gpu("cell_on_triton.py")


POINTERS = {
    **dict.fromkeys(("mean", "variance"), "*fp64"),
    **dict.fromkeys(("filtered", "grad_filtered"), "*operand"),
    "winners": "*i8",
}
INTEGERS = {
    "pixels", "height", "width", "out_height", "out_width", "stride", "first_out", "first_in", "tiles",
    "runs", "run_pixels",
}  # fmt: skip
MIXED = {
    **dict.fromkeys(("slopes", "depthwises", "pointwises"), ("*fp32",) * 4),
    "filtered": ("*operand",) * 4,
    "products": ("*fp32",) * 6,
    **dict.fromkeys(("means", "tables"), ("*fp64",) * 6),
}


def signature_of(kernel: Any, operand: str, constants: dict[str, Any], parts: int) -> dict[str, Any]:
    """Types of a kernel's arguments, as a launch with float32 states and ``operand`` products has them."""
    types: dict[str, Any] = {}
    for name in kernel.arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif name in ("parts", "terms", "vectors") and parts:
            types[name] = ("*fp32",) * parts
        elif kernel.__name__ == "cell_mixed_forward" and name in MIXED:
            types[name] = tuple(t.replace("operand", operand) for t in MIXED[name])
        elif name in ("firsts", "widths"):
            types[name] = ("i32",) * parts
        elif name == "epsilon":
            types[name] = "fp32"
        elif name == "table" and kernel.__name__ != "cell_pointwise_backward":
            types[name] = "*fp64"
        else:
            types[name] = (
                "i32" if name in INTEGERS else POINTERS.get(name, "*fp32").replace("operand", operand)
            )
    return types


def compile_kernel(kernel: Any, operand: str, options: dict[str, Any], parts: int = 0) -> None:
    settings = {k: v for k, v in options.items() if k in ("num_warps", "num_stages")}
    constants = {k: v for k, v in options.items() if k not in settings}
    compile_for_gpu(kernel, signature_of(kernel, operand, constants, parts), constants, **settings)


@pytest.mark.slow
@compiling
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_compile_without_a_gpu(dtype: torch.dtype) -> None:
    """What the interpreter accepts the compiler may not; the tiles fit the shared memory of every GPU.

    The widest cell of PocketNetM-128, and in one precision each the narrowest and an odd one of parts.
    """
    from pocketnet_fast.ops.cell import triton_kernels as kernels
    from pocketnet_fast.ops.cell.triton_tiles import product_tiles

    operand = "bf16" if dtype == torch.bfloat16 else "fp32"
    other = (21, 13, 1, 3) if dtype == torch.bfloat16 else (16, 16, 7, 1)
    for channels, out, kernel, parts in ((256, 256, 3, 1), other):
        inner = channels * parts

        def options(name: str, width: int, out: int = out, **constants: Any) -> dict[str, Any]:
            tiles = product_tiles(name, width, out, dtype)
            sizes = {"PIXELS": tiles.pixels, "INNER": tiles.inner, "OUTER": tiles.outer}
            threads = {"num_warps": tiles.warps, "num_stages": tiles.stages}
            return {**constants, **sizes, **threads, "PRECISION": "ieee", "OUT": out}

        window = {"STRIDE": 1, "OFFSET": 0}
        for backward in (False, True):
            constants = {"CHANNELS": channels, "KERNEL": kernel, "KEEP": backward and kernel > 1, **window}
            compile_kernel(
                kernels.cell_products_forward,
                operand,
                options("products", channels, **constants, BACKWARD=backward),
                parts,
            )
        constants = {"CHANNELS": channels, "IN": inner, "KEPT": kernel > 1, **window}
        compile_kernel(
            kernels.cell_pointwise_backward, operand, options("pointwise_weight", channels, **constants)
        )
        compile_kernel(kernels.cell_filtered_backward, operand, options("filtered_gradient", inner, IN=inner))


@pytest.mark.slow
@compiling
@pytest.mark.parametrize(
    ("operand", "channels", "stride", "backward"), [("fp32", 64, 1, True), ("bf16", 16, 2, False)]
)
def test_mixed_edges_compile_without_a_gpu(operand: str, channels: int, stride: int, backward: bool) -> None:
    from pocketnet_fast.ops.cell import triton_kernels as kernels
    from pocketnet_fast.ops.cell.triton_tiles import lane_tiles

    tiles = lane_tiles("mixed", channels)
    constants = {"CHANNELS": channels, "STRIDE": stride, "BACKWARD": backward, "PRECISION": "ieee"}
    sizes = {"PIXELS": tiles.pixels, "LANES": tiles.outer, "num_warps": tiles.warps}
    compile_kernel(kernels.cell_mixed_forward, operand, {**constants, **sizes})


@pytest.mark.slow
@compiling
def test_others_compile_without_a_gpu() -> None:
    from pocketnet_fast.ops.cell import triton_kernels as kernels
    from pocketnet_fast.ops.cell.triton_tiles import lane_tiles

    def options(name: str, channels: int, **constants: Any) -> dict[str, Any]:
        tiles = lane_tiles(name, channels)
        sizes = {"PIXELS": tiles.pixels, "LANES": tiles.outer, "CHANNELS": channels}
        return {**constants, **sizes, "num_warps": tiles.warps}

    for kind, backward in itertools.product((Kind.MAX_POOL, Kind.AVG_POOL, Kind.NORMALIZE), (False, True)):
        # A number that is 1 reaches the compiler as a constant.
        constants = {"KIND": int(kind), "STRIDE": 1, "CENTRED": backward, "BACKWARD": backward, "tiles": 1}
        compile_kernel(kernels.cell_window_forward, "fp32", options("window", 32, **constants))
    for kind in (Kind.MAX_POOL, Kind.AVG_POOL, Kind.NORMALIZE):
        constants = {"KIND": int(kind), "STRIDE": 2, "ACCUMULATE": True}
        compile_kernel(kernels.cell_window_backward, "fp32", options("window_gradient", 21, **constants))
    for operand, kernel, stride in (("fp32", 7, 1), ("bf16", 1, 2)):
        constants = {"IN": 64, "KERNEL": kernel, "STRIDE": stride, "OFFSET": stride - 1, "ACCUMULATE": False}
        compile_kernel(
            kernels.cell_depthwise_backward, operand, options("depthwise_gradient", 64, **constants)
        )
    compile_kernel(kernels.cell_sum_forward, "fp32", options("sum", 16, MODES=1 + 4 * 2), parts=3)
    for kernel in (kernels.cell_moments_forward, kernels.cell_factors_backward):
        compile_kernel(kernel, "fp32", {"OUT": 16, "RUNS": 32, "LANES": 16, "num_warps": 4})
        compile_kernel(
            kernel, "fp32", {"OUT": 1, "RUNS": 32, "LANES": 16, "num_warps": 4, "runs": 1, "pixels": 1}
        )


@needs_triton
def test_registered_for_cuda() -> None:
    from pocketnet_fast.ops.cell import triton_launch

    assert_registered(triton_launch)


@compiling
def test_shapes_on_cuda() -> None:
    """What a trace sees."""
    from pocketnet_fast.ops.cell.triton_launch import cell

    given = CELLS["chain"]
    structure, epsilon = encode(given.operations)
    with FakeTensorMode():
        inputs = [torch.empty(x.shape, device="cuda") for x in given.inputs]
        parameters = [torch.empty(p.shape, device="cuda") for p in given.parameters]
        sums, mean, variance = cell(inputs, parameters, given.operations)
        assert [s.shape for s in sums] == [(3, 18, 15, 13)] * 3
        assert mean.shape == variance.shape == (4 * 18,)
        assert {t.device.type for t in (*sums, mean, variance)} == {"cuda"}
        states = [*inputs, *sums]
        found = torch.ops.pocketnet_fast.cell_backward(
            sums, states, parameters, mean, variance, structure, epsilon
        )
        assert [t.shape for t in found] == [t.shape for t in inputs + parameters]
        assert {t.device.type for t in found} == {"cuda"}


@compiling
def test_cpu_tensors() -> None:
    """Without the interpreter, CPU tensors go to the kernels for the CPU."""
    from pocketnet_fast.ops.cell import cpu, triton_launch

    given = CELLS["node"]
    (ours,), _, _ = triton_launch.cell(given.inputs, given.parameters, given.operations)
    (theirs,), _, _ = cpu.cell(given.inputs, given.parameters, given.operations)
    assert torch.equal(ours, theirs)
