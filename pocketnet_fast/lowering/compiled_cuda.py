"""A network on the Triton kernels, as a torch module, replayed as CUDA graphs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.inputs import check_pixels
from pocketnet_fast.lowering.plan import Plan

MAX_GRAPH: Final = 1024
"""Images of the largest graph; larger batches are replayed in parts."""


def bucket_of(images: int) -> int:
    """Images of the graph that runs a batch: the next power of two, at most ``MAX_GRAPH``."""
    return min(MAX_GRAPH, 1 << (images - 1).bit_length())


@dataclass
class _Graph:
    """A captured network with its own input and output."""

    graph: Any
    pixels: Tensor
    embeddings: Tensor
    free: Any


class CompiledCudaModel(nn.Module):
    """A lowered network on CUDA; made by ``pocketnet_fast.compile``.

    Batches are padded to the next power of two and replayed as one CUDA graph each, captured at the first
    batch of that size; a graph keeps its workspace. Callers on several streams and threads take turns on the
    device, in the order of their calls.

    Attributes:
        embedding_dim: Length of an embedding.
        precision: As given to ``compile``.
        graphs: Whether graphs are captured; False launches every kernel at every call.
    """

    def __init__(self, plan: Plan, device: torch.device, precision: str, flip: bool, graphs: bool) -> None:
        super().__init__()
        from pocketnet_fast.ops.run_plan.triton_launch import PRECISIONS, decode, table_of

        program, weights = plan.encode()
        self.program = tuple(program.tolist())
        self.constants: Tensor
        self.matrices: Tensor
        self.table: Tensor
        self.register_buffer("constants", weights)
        self.register_buffer("matrices", weights.to(PRECISIONS[precision][0]))
        self.register_buffer("table", table_of(decode(self.program)))
        self.embedding_dim = plan.results
        self.size = (plan.height, plan.width)
        self.precision, self.flip, self.graphs = precision, flip, graphs
        self._captured: dict[tuple[int, torch.dtype], _Graph] = {}
        self._lock = threading.Lock()
        self.to(device)

    def forward(self, x: Tensor) -> Tensor:
        """Compute embeddings.

        Args:
            x: float32 N,3,112,112, normalised RGB, or uint8 N,112,112,3, on the module's device; any N, any
                strides.

        Returns:
            float32 N,``embedding_dim``, not L2-normalised.

        Raises:
            PocketNetError: A wrong dtype, shape or device.
        """
        if not torch.compiler.is_compiling():
            check_pixels(x, *self.size, self.table.device)
        if (
            not self.graphs
            or len(x) == 0
            or x.device.type != "cuda"
            or torch.cuda.is_current_stream_capturing()
        ):
            return self._run(x)
        parts = [self._replayed(part) for part in x.split(MAX_GRAPH)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def tune(self, batches: Sequence[int], seconds: float | None = None) -> int:
        """Measure how much a program of each kernel had best compute, and keep it in the user's cache.

        Later calls, of other models and processes too, launch with what was measured. It takes minutes: every
        candidate is compiled.

        Args:
            batches: Sizes of batches; each stands for those of its bucket (see ``bucket_of``).
            seconds: Shapes whose turn has not come after these keep the tiles they have.

        Returns:
            The number of shapes that were measured.

        Raises:
            PocketNetError: A size is not positive, or the cache cannot be written.
        """
        from pocketnet_fast.ops.run_plan.triton_launch import decode
        from pocketnet_fast.ops.triton_tuning import tuning

        if any(size < 1 for size in batches):
            raise PocketNetError(f"batch sizes to tune for must be positive, got {[*batches]}")
        schedule = decode(self.program)
        with (
            self._lock,
            torch.no_grad(),
            torch.cuda.device_of(self.table),
            tuning(seconds=seconds) as session,
        ):
            for size in sorted({bucket_of(size) for size in batches}):
                shape = (size, schedule.height, schedule.width, 3)
                self._run(torch.zeros(shape, dtype=torch.uint8, device=self.table.device))
            self._captured.clear()
        return sum(map(len, session.measured.values()))

    def _run(self, x: Tensor) -> Tensor:
        from pocketnet_fast.ops.run_plan.triton_launch import run_plan_triton

        return run_plan_triton(
            x, self.constants, self.matrices, self.table, self.program, self.precision, self.flip
        )

    def _replayed(self, x: Tensor) -> Tensor:
        with self._lock, torch.cuda.device_of(x):
            key = bucket_of(len(x)), x.dtype
            if key not in self._captured:
                self._captured[key] = self._capture(x, key[0])
            captured = self._captured[key]
            stream = torch.cuda.current_stream()
            stream.wait_event(captured.free)
            captured.pixels[: len(x)].copy_(x)
            captured.graph.replay()
            embeddings = captured.embeddings[: len(x)].clone()
            captured.free.record(stream)
            return embeddings

    @torch.no_grad()
    def _capture(self, x: Tensor, images: int) -> _Graph:
        pixels = torch.zeros((images, *x.shape[1:]), dtype=x.dtype, device=x.device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            # Compiles what has not been compiled, which a capture cannot.
            self._run(pixels)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            embeddings = self._run(pixels)
        free = torch.cuda.Event()
        free.record(torch.cuda.current_stream())
        return _Graph(graph, pixels, embeddings, free)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles begin without graphs."""
        state = dict(self.__dict__)
        state["_captured"], state["_lock"] = {}, None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lock = threading.Lock()

    def extra_repr(self) -> str:
        """Say what runs."""
        facts = f"embedding_dim={self.embedding_dim}, precision={self.precision}, kernels=triton"
        return f"{facts}, device={self.table.device}, graphs={self.graphs}, flip={self.flip}"


def compile_cuda(
    plan: Plan, device: str, precision: str, flip: bool, tune: Sequence[int] = ()
) -> CompiledCudaModel:
    """Put a plan without bands on a CUDA device, and tune it for batches of the sizes ``tune``.

    Raises:
        PocketNetError: The precision is unknown, Triton is missing, or there is no such device.
    """
    import importlib.util

    if importlib.util.find_spec("triton") is None:
        raise PocketNetError("the CUDA kernels need Triton: pip install 'pocketnet_fast[gpu]'")
    from pocketnet_fast.ops.run_plan.triton_launch import PRECISIONS

    if precision not in PRECISIONS:
        raise PocketNetError(f"precision is {precision!r}; available on CUDA: {', '.join(PRECISIONS)}")
    place = torch.device(device)
    if not torch.cuda.is_available():
        raise PocketNetError(f"device is {device!r}, and torch finds no CUDA device")
    if place.index is not None and place.index >= torch.cuda.device_count():
        raise PocketNetError(f"device is {device!r}; torch finds {torch.cuda.device_count()} CUDA devices")
    model = CompiledCudaModel(plan, place, precision, flip, graphs=True)
    if tune:
        model.tune(tune)
    return model
