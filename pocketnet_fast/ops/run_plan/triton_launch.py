"""``pocketnet_fast::run_plan_triton``: a lowered network on CUDA, by the kernels of ``triton_kernels``.

The program is one without bands (``lower(model, bands=False)``), in which every state lies in the arena. Its
words are decoded when the operator is traced or called, never on the device: each step becomes one launch,
and what a launch reads is in ``table``, a device tensor of seven words for each part of a step's edges:

    offset of the state in the arena, its height, its width, then offsets into the weights: slope, depthwise,
    pointwise, scale
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from triton import next_power_of_2

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.ops.run_plan import triton_kernels as kernels
from pocketnet_fast.ops.run_plan.triton_tiles import Shape, stem_tiles, tiles_for
from pocketnet_fast.ops.triton_numerics import INTERPRETED
from pocketnet_fast.ops.triton_tuning import Tiles, tiles_of

NAME: Final = "pocketnet_fast::run_plan_triton"

PRECISIONS: Final = {
    "fp32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "bf16": (torch.bfloat16, "ieee"),
    "fp16": (torch.float16, "ieee"),
}
"""By name: the type of states and matrices, and how ``tl.dot`` takes float32."""

_MAGIC: Final = 0x31464E50
_VERSION: Final = 3
_TERM_WORDS: Final = 13
_LAST_KIND: Final = 4  # identity
_FOREIGN: Final = (
    "the Triton kernels run PocketNets: no activation after a depthwise convolution or with an upper bound, "
    "no pooling before a product, no upsampling, no maps as the result"
)
_GROUP, _STEM, _NODE, _GLOBAL_DEPTHWISE, _LINEAR, _MAP = range(6)
_BLOCK: Final = 16
_MAX_EDGES: Final = 4
_PART_WORDS: Final = int(kernels.PART_WORDS.value)
# Images go through together as long as their states have at most this many elements.
_MAX_ARENA: Final = 2**29
# For a package that takes any batch, tiles are chosen as for this many images.
_TYPICAL_BATCH: Final = 32


@dataclass(frozen=True)
class Step:
    """One launch.

    Attributes:
        kind: As in the program.
        operands: Offsets and sizes, in the order of the kernel's arguments.
        shape: What the kernel of a node is compiled for.
        first_word: Where the parts of a node begin in the table.
    """

    kind: int
    operands: tuple[int, ...]
    shape: Shape | None = None
    first_word: int = 0


@dataclass(frozen=True)
class Schedule:
    """A decoded program.

    Attributes:
        height, width: The size of the images.
        bgr: Whether uint8 images have blue first.
        embedding: Length of an embedding.
        image: Elements of one image's arena.
        weights: Floats of the weights.
        steps: In order.
        table: Words of all parts.
    """

    height: int
    width: int
    bgr: bool
    embedding: int
    image: int
    weights: int
    steps: tuple[Step, ...]
    table: tuple[int, ...]


def edge_code(
    kind: int, kernel: int, stride: int, shift: int, parts: int, blocks: int, first: int, count: int
) -> int:
    """Pack what an edge does into one number; see ``triton_kernels._edge``."""
    code, unit = 0, 1
    fields = ((kind, 8), (kernel, 8), (stride, 4), (shift, 2), (parts, 32), (blocks, 256), (first, 256))
    for value, size in fields:
        if not 0 <= value < size:
            raise PocketNetError(f"the Triton kernels take fields of an edge up to {size - 1}, got {value}")
        code += value * unit
        unit *= size
    return code + count * unit


@functools.lru_cache(maxsize=64)
def decode(program: tuple[int, ...]) -> Schedule:
    """Decode a program's words.

    Raises:
        PocketNetError: They are no program, hold bands, or go beyond what the kernels take.
    """
    words = iter(program)

    def take(count: int) -> list[int]:
        taken = list(itertools.islice(words, count))
        if len(taken) != count:
            raise PocketNetError("the program ends too early")
        return taken

    magic, version, length, height, width, bgr, embedding, buffers, items, arena, _, weights, _ = take(13)
    if magic != _MAGIC or version != _VERSION or length != len(program):
        raise PocketNetError("the words are no program of this version")
    states = [take(6) for _ in range(buffers)]
    if any(state[0] for state in states):
        raise PocketNetError("the program has bands, which are for the CPU; lower with bands=False")
    steps: list[Step] = []
    table: list[int] = []
    for _ in range(items):
        (kind,) = take(1)
        if kind == _GROUP:
            take(2)
        elif kind == _STEM:
            output, weight, bias, norm = take(4)
            _, offset, blocks, rows, columns, _ = states[output]
            steps.append(Step(kind, (weight, bias, norm, offset, blocks, rows, columns)))
        elif kind == _NODE:
            output, bias, terms = take(3)
            steps.append(_node(states, output, bias, [take(_TERM_WORDS) for _ in range(terms)], table))
        elif kind == _GLOBAL_DEPTHWISE:
            source, output, slope, weight, bias, cap = take(6)
            if cap != -1:
                raise PocketNetError(_FOREIGN)
            _, offset, blocks, rows, columns, _ = states[source]
            operands = (offset, states[output][1], slope, weight, bias, blocks, rows * columns)
            steps.append(Step(kind, operands))
        elif kind == _LINEAR:
            source, weight, bias = take(3)
            steps.append(Step(kind, (states[source][1], weight, bias, states[source][2] * _BLOCK)))
        elif kind == _MAP:
            raise PocketNetError(_FOREIGN)
        else:
            raise PocketNetError(f"the program has an item of unknown kind {kind}")
    return Schedule(height, width, bool(bgr), embedding, arena, weights, tuple(steps), tuple(table))


def _node(states: list[list[int]], output: int, bias: int, terms: list[list[int]], table: list[int]) -> Step:
    """A node's launch; terms that differ only in where they read are parts of one edge."""
    first_word = len(table)
    codes = []

    def alike(term: list[int]) -> tuple[int, ...]:
        kind, source, kernel, stride, shift, first, count = term[:7]
        return kind, kernel, stride, shift, states[source][2], first, count

    if any(term[0] > _LAST_KIND or any(operand != -1 for operand in term[11:]) for term in terms):
        raise PocketNetError(_FOREIGN)
    for (kind, kernel, stride, shift, blocks, first, count), group in itertools.groupby(terms, alike):
        parts = list(group)
        codes.append(edge_code(kind, kernel, stride, shift, len(parts), blocks, first, count))
        for term in parts:
            _, offset, _, rows, columns, _ = states[term[1]]
            table += [offset, rows, columns, *term[7:11]]
    if len(codes) > _MAX_EDGES:
        raise PocketNetError(f"a node sums {len(codes)} kinds of terms; the Triton kernels take {_MAX_EDGES}")
    _, offset, blocks, rows, columns, _ = states[output]
    edges = tuple(codes + [0] * (_MAX_EDGES - len(codes)))
    return Step(_NODE, (bias, offset), Shape(edges, blocks, rows, columns), first_word)


def table_of(schedule: Schedule) -> Tensor:
    """The table as a tensor, int32; never empty."""
    return torch.tensor(schedule.table or (0,), dtype=torch.int32)


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _interpreted() -> bool:
    return bool(INTERPRETED.value)


def _launchable(kernel: Any) -> Any:
    return kernel if _interpreted() else torch.library.wrap_triton(kernel)


def _check(pixels: Tensor, constants: Tensor, matrices: Tensor, table: Tensor, schedule: Schedule) -> None:
    def require(condition: bool, message: str) -> None:
        if not condition:
            raise RuntimeError(f"run_plan_triton: {message}")

    height, width = schedule.height, schedule.width
    known = pixels.dtype in (torch.uint8, torch.float32)
    expected = (height, width, 3) if pixels.dtype == torch.uint8 else (3, height, width)
    require(
        known and pixels.dim() == 4 and tuple(pixels.shape[1:]) == expected,
        f"input must be float32 [N, 3, {height}, {width}] or uint8 [N, {height}, {width}, 3], got "
        f"{pixels.dtype} {list(pixels.shape)}",
    )
    require(constants.dtype == torch.float32 and constants.dim() == 1, "constants must be 1-D float32")
    require(constants.shape[0] == schedule.weights, f"the program needs {schedule.weights} weights")
    require(matrices.shape == constants.shape, "matrices must have the shape of constants")
    require(table.dtype == torch.int32 and table.shape[0] >= len(schedule.table), "table does not fit")
    devices = {tensor.device for tensor in (pixels, constants, matrices, table)}
    require(len(devices) == 1, f"every tensor must be on one device, got {sorted(map(str, devices))}")
    device = pixels.device.type
    require(
        device == "cuda" or (device == "cpu" and _interpreted()),
        f"the kernels run on CUDA, and the tensors are on {pixels.device}; on the CPU take run_plan",
    )


def _run(
    pixels: Tensor,
    constants: Tensor,
    matrices: Tensor,
    table: Tensor,
    schedule: Schedule,
    precision: str,
    flip: bool,
) -> Tensor:
    _check(pixels, constants, matrices, table, schedule)
    images = pixels.shape[0]
    result = torch.empty((images, schedule.embedding), dtype=torch.float32, device=pixels.device)
    together = max(1, _MAX_ARENA // max(schedule.image, 1))
    # A batch of unknown size, in torch.export, cannot be divided; its caller must not pass more than fits.
    if isinstance(images, torch.SymInt) or images <= together:
        parts = [(pixels, result)] if isinstance(images, torch.SymInt) or images > 0 else []
    else:
        parts = list(zip(pixels.split(together), result.split(together), strict=True))
    for part, out in parts:
        size = (part.shape[0] * schedule.image,)
        arena = torch.empty(size, dtype=matrices.dtype, device=pixels.device)
        for mirrored in (False, True) if flip else (False,):
            for step in schedule.steps:
                _launch(step, schedule, part, constants, matrices, table, arena, out, precision, mirrored)
    return result


def _launch(
    step: Step,
    schedule: Schedule,
    pixels: Tensor,
    constants: Tensor,
    matrices: Tensor,
    table: Tensor,
    arena: Tensor,
    result: Tensor,
    precision: str,
    mirrored: bool,
) -> None:
    images, image = pixels.shape[0], schedule.image
    dot = PRECISIONS[precision][1]
    if step.kind == _STEM:
        weight, bias, norm, offset, blocks, rows, columns = step.operands
        stride = pixels.stride()
        by_place = (0, 1, 2, 3) if pixels.dtype == torch.uint8 else (0, 2, 3, 1)
        strides = [stride[axis] for axis in by_place]
        count = images * rows * columns
        tiles = stem_tiles(blocks)
        grid = (_blocks(count, tiles.pixels), _blocks(blocks * _BLOCK, tiles.outer))
        _launchable(kernels.stem_kernel)[grid](
            pixels, constants, arena, weight, bias, norm, offset, count, image, *strides,
            IMAGE_HEIGHT=schedule.height, IMAGE_WIDTH=schedule.width, HEIGHT=rows, WIDTH=columns,
            CHANNELS=blocks * _BLOCK, UINT8=pixels.dtype == torch.uint8,
            BGR=schedule.bgr and pixels.dtype == torch.uint8, MIRRORED=mirrored,
            PIXELS=tiles.pixels, OUTER=tiles.outer, num_warps=tiles.warps,
        )  # fmt: skip
    elif step.kind == _NODE:
        assert step.shape is not None
        shape = step.shape
        count = images * shape.height * shape.width
        typical = _TYPICAL_BATCH if isinstance(images, torch.SymInt) else images
        edges = {f"EDGE{index}": code for index, code in enumerate(shape.edges)}
        bias, offset = step.operands

        def launch(tiles: Tiles) -> None:
            grid = (_blocks(count, tiles.pixels), _blocks(shape.out_blocks * _BLOCK, tiles.outer))
            _launchable(kernels.node_kernel)[grid](
                arena, constants, matrices, table, step.first_word, bias, offset, count, image,
                HEIGHT=shape.height, WIDTH=shape.width, OUT_BLOCKS=shape.out_blocks, **edges,
                PIXELS=tiles.pixels, INNER=tiles.inner, OUTER=tiles.outer, PRECISION=dot,
                num_warps=tiles.warps, num_stages=tiles.stages,
            )  # fmt: skip

        rule = tiles_for(shape, typical * shape.height * shape.width, matrices.dtype)
        bucket = next_power_of_2(typical)
        facts = (*shape.edges, shape.out_blocks, shape.height, shape.width, bucket, precision)
        launch(tiles_of("node", facts, rule, arena.device, launch))
    elif step.kind == _GLOBAL_DEPTHWISE:
        source, output, slope, weight, bias, blocks, area = step.operands
        _launchable(kernels.global_depthwise_kernel)[(images, blocks)](
            arena, constants, source, output, slope, weight, bias, image,
            BLOCKS=blocks, AREA=area, PADDED_AREA=next_power_of_2(area), num_warps=1,
        )  # fmt: skip
    else:
        source, weight, bias, features = step.operands
        outer = min(32, max(16, next_power_of_2(schedule.embedding)))
        grid = (_blocks(images, 16), _blocks(schedule.embedding, outer))
        _launchable(kernels.linear_kernel)[grid](
            arena, constants, matrices, result, source, weight, bias, images, image,
            EMBEDDING=schedule.embedding, FEATURES=features, ADD=mirrored, ROWS=16, INNER=64, OUTER=outer,
            PRECISION=dot, num_warps=2,
        )  # fmt: skip


@torch.library.triton_op(NAME, mutates_args=())
def _operator(
    pixels: Tensor,
    constants: Tensor,
    matrices: Tensor,
    table: Tensor,
    program: list[int],
    precision: str,
    flip: bool,
) -> Tensor:
    return _run(pixels, constants, matrices, table, decode(tuple(program)), precision, flip)


def run_plan_triton(
    pixels: Tensor,
    constants: Tensor,
    matrices: Tensor,
    table: Tensor,
    program: Sequence[int],
    precision: str,
    flip: bool = False,
) -> Tensor:
    """Run a lowered network on CUDA, or under Triton's interpreter on the CPU.

    Args:
        pixels: float32 N,3,H,W, normalised RGB, or uint8 N,H,W,3 in the program's colour order; any strides.
        constants: float32, the weights of ``Plan.encode``.
        matrices: The same in the type of ``precision``.
        table: int32, ``table_of`` the decoded program.
        program: Words of ``Plan.encode`` of a plan without bands.
        precision: One of ``PRECISIONS``.
        flip: Return the sum of the embeddings of each image and of its mirror image.

    Returns:
        float32 N,embedding.

    Raises:
        RuntimeError: A wrong dtype, shape or device.
        PocketNetError: Words that are no such program.
    """
    if _interpreted():
        return _run(pixels, constants, matrices, table, decode(tuple(program)), precision, flip)
    out: Tensor = torch.ops.pocketnet_fast.run_plan_triton(
        pixels, constants, matrices, table, [*program], precision, flip
    )
    return out
