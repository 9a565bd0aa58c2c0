"""The Triton kernels of a lowered network: interpreted, on a GPU, compiled without one; and their choice."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from triton_tests import compile_for_gpu, compiling, interpreted, needs_triton, on_the_gpu

import pocketnet_fast
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering import lower

test_interpreted = interpreted("run_plan_on_triton.py", seconds=70)
test_on_the_gpu = on_the_gpu("run_plan_on_triton.py")


@pytest.mark.slow
@compiling
@pytest.mark.parametrize(("dtype", "images"), [(torch.float32, 1), (torch.bfloat16, 256)])
def test_compiles_without_a_gpu(dtype: torch.dtype, images: int) -> None:
    """What the interpreter accepts the compiler may not; the tiles fit the shared memory of every GPU.

    The node of the most blocks of PocketNetM-128, the widest, in both precisions, and each kind of edge in
    one of them, in few nodes: a kernel is the code of its edges one after another.
    """
    from pocketnet_fast.ops.run_plan import triton_kernels, triton_launch
    from pocketnet_fast.ops.run_plan.triton_tiles import Shape

    def kinds(shape: Shape) -> set[int]:
        return {code % 64 for code in shape.edges if code}

    program, _ = lower(pocketnet_fast.create_model("pocketnet_m128"), bands=False).encode()
    shapes = [step.shape for step in triton_launch.decode(tuple(program.tolist())).steps if step.shape]
    wide = max(shapes, key=lambda shape: shape.out_blocks)
    left = set().union(*map(kinds, shapes)) - kinds(wide)
    assert len(left) >= 5
    chosen = []
    while left:
        chosen.append(max(shapes, key=lambda shape: len(kinds(shape) & left)))
        left -= kinds(chosen[-1])
    operand = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    types = {"arena": operand, "matrices": operand, "constants": "*fp32", "table": "*i32"}
    for shape in [wide, *chosen[dtype == torch.bfloat16 :: 2]]:
        tiles = triton_launch.tiles_for(shape, images * shape.height * shape.width, dtype)
        values = {f"EDGE{index}": code for index, code in enumerate(shape.edges)}
        values |= {"HEIGHT": shape.height, "WIDTH": shape.width, "OUT_BLOCKS": shape.out_blocks}
        values |= {"PIXELS": tiles.pixels, "INNER": tiles.inner, "OUTER": tiles.outer}
        constants = {**values, "PRECISION": "ieee"}
        kernel = triton_kernels.node_kernel
        signature = {
            name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names
        }
        compile_for_gpu(kernel, signature, constants, num_warps=tiles.warps, num_stages=tiles.stages)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_device() -> None:
    model = pocketnet_fast.create_model("pocketnet_s128")
    with pytest.raises(PocketNetError, match="device is 'cuda:1', and torch finds no CUDA device"):
        pocketnet_fast.compile(model, device="cuda:1")


@needs_triton
def test_choices_on_cuda() -> None:
    model = pocketnet_fast.create_model("pocketnet_s128")
    with pytest.raises(
        PocketNetError, match="precision is 'int4'; available on CUDA: fp32, tf32, bf16, fp16"
    ):
        pocketnet_fast.compile(model, device="cuda", precision="int4")
    with pytest.raises(PocketNetError, match="threads is 2, which concerns the CPU"):
        pocketnet_fast.compile(model, device="cuda", threads=2)
    with pytest.raises(PocketNetError, match="device is 'tpu'; the fused kernels run on 'cpu' and 'cuda'"):
        pocketnet_fast.compile(model, device="tpu")


def test_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PocketNetError, match=r"pip install 'pocketnet_fast\[gpu\]'"):
        pocketnet_fast.compile(pocketnet_fast.create_model("pocketnet_s128"), device="cuda")


@needs_triton
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="under TRITON_INTERPRET it runs")
def test_refused_on_the_cpu() -> None:
    from pocketnet_fast.ops.run_plan.triton_launch import decode, run_plan_triton, table_of

    program, weights = lower(pocketnet_fast.create_model("pocketnet_s128"), bands=False).encode()
    words = tuple(program.tolist())
    pixels = torch.zeros(1, 112, 112, 3, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="the kernels run on CUDA, and the tensors are on cpu"):
        run_plan_triton(pixels, weights, weights, table_of(decode(words)), words, "fp32")


@needs_triton
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter is no operator")
def test_exports_for_any_batch() -> None:
    from pocketnet_fast.ops.run_plan.triton_launch import decode, run_plan_triton, table_of

    program, weights = lower(pocketnet_fast.create_model("pocketnet_s128"), bands=False).encode()
    words = tuple(program.tolist())
    table = table_of(decode(words))

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("constants", torch.empty(weights.shape, device="cuda"))
            matrices = torch.empty(weights.shape, dtype=torch.bfloat16, device="cuda")
            self.register_buffer("matrices", matrices)
            self.register_buffer("table", torch.empty(table.shape, dtype=torch.int32, device="cuda"))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return run_plan_triton(pixels, self.constants, self.matrices, self.table, words, "bf16")

    with FakeTensorMode():
        network = Network()
        pixels = torch.empty(3, 112, 112, 3, dtype=torch.uint8, device="cuda")
        assert network(pixels).shape == (3, 128)
    batch = torch.export.Dim("images", min=1, max=4096)
    exported = torch.export.export(network, (pixels,), dynamic_shapes=({0: batch},))
    operators = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert operators == ["pocketnet_fast.run_plan_triton.default"]


@pytest.mark.parametrize("images", [1, 2, 3, 4, 5, 512, 513, 1024, 5000])
def test_buckets(images: int) -> None:
    from pocketnet_fast.lowering.compiled_cuda import MAX_GRAPH, bucket_of

    bucket = bucket_of(images)
    assert bucket & (bucket - 1) == 0
    assert bucket >= min(images, MAX_GRAPH)
    assert bucket < 2 * images
    assert bucket <= MAX_GRAPH
