"""A network on the fused kernels, as a torch module."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.lowering.compiled_cuda import CompiledCudaModel, compile_cuda
from pocketnet_fast.lowering.inputs import check_pixels, told
from pocketnet_fast.lowering.networks import lower
from pocketnet_fast.lowering.plan import Plan
from pocketnet_fast.lowering.precision import MIN_COSINE, PRECISIONS, choose_precision
from pocketnet_fast.ops.native import check_threads


class CompiledModel(nn.Module):
    """A lowered network; made by ``pocketnet_fast.compile``.

    Attributes:
        embedding_dim: Length of an embedding.
    """

    # Buffers are not annotated in the class: torch.jit.script cannot read postponed class annotations.
    def __init__(self, plan: Plan, threads: int, flip: bool) -> None:
        super().__init__()
        from pocketnet_fast.ops import run_plan  # noqa: F401  (registers the operator)

        program, weights = plan.encode()
        self.register_buffer("program", program)
        self.register_buffer("weights", weights)
        self.embedding_dim = plan.results
        self.size = (plan.height, plan.width)
        self.precision = plan.precision
        self.threads = threads
        self.flip = flip

    def forward(self, x: Tensor) -> Tensor:
        """Compute embeddings.

        Args:
            x: float32 N,3,112,112, normalised RGB, or uint8 N,112,112,3; any N, any strides.

        Returns:
            float32 N,``embedding_dim``, not L2-normalised.

        Raises:
            PocketNetError: A wrong dtype, shape or device, a module that was moved off the CPU or
                converted, or an instruction set that ``PNF_FORCE_ISA`` names and the CPU lacks. TorchScript,
                which has no exceptions of other kinds, raises RuntimeError with the operator's words.
        """
        if not torch.jit.is_scripting() and not torch.compiler.is_compiling():
            return self._checked(x)
        out: Tensor = torch.ops.pocketnet_fast.run_plan(
            x, self.program, self.weights, self.embedding_dim, self.threads, self.flip
        )
        return out

    @torch.jit.unused
    def _checked(self, x: Tensor) -> Tensor:
        program, weights = self.program, self.weights
        if weights.device.type != "cpu" or program.device.type != "cpu":
            raise PocketNetError(
                f"the module was moved to {weights.device}; its kernels run on the CPU "
                "(for CUDA: pocketnet_fast.compile(model, device='cuda'))"
            )
        if weights.dtype != torch.float32:
            raise PocketNetError(
                f"the module was converted to {weights.dtype}; its kernels take the weights that compile() "
                "packed, and compile(precision=...) chooses what they compute in"
            )
        check_pixels(x, *self.size, weights.device)
        try:
            out: Tensor = torch.ops.pocketnet_fast.run_plan(
                x, program, weights, self.embedding_dim, self.threads, self.flip
            )
        except RuntimeError as error:
            raise told(error) or error from None
        return out

    def extra_repr(self) -> str:
        """Say what runs."""
        from pocketnet_fast.ops.native import compiled_isa, multiplies_bf16, tiles_denied

        threads = self.threads or "torch's"
        isa = compiled_isa(self.precision)
        facts = f"embedding_dim={self.embedding_dim}, precision={self.precision}, isa={isa}"
        if self.precision == "bf16" and not multiplies_bf16(isa):
            facts += " (states of bf16, products of fp32)"
        if self.precision == "bf16" and tiles_denied():
            facts += " (the system refuses the CPU's tile registers)"
        return f"{facts}, threads={threads}, flip={self.flip}"


def compile(
    model: nn.Module,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
    color: str = "rgb",
    flip: bool = False,
    calibration: Tensor | None = None,
    min_cosine: float = MIN_COSINE,
    tune: Sequence[int] = (),
) -> CompiledModel | CompiledCudaModel:
    """Lower ``model`` to the fused kernels.

    Args:
        model: A PocketNet. It is read, not changed, and may be discarded.
        device: ``"cpu"``, or ``"cuda"`` or ``"cuda:INDEX"`` for the Triton kernels.
        precision: ``"fp32"`` or ``"bf16"``; on CUDA also ``"tf32"`` or ``"fp16"``, for states and products.
            Sums are float32 in each. On a CPU without products of bf16 its states are bf16 all the same, and
            the result is as good, but no sooner there. ``"auto"``, on the CPU: the fastest whose embeddings
            stay within ``min_cosine`` of those of fp32; what was chosen and why is logged.
        threads: On the CPU: threads of one call; None follows ``torch.set_num_threads``. Never more are used
            than the process has processors (see ``ops.native.processors``). The result is the same.
        color: Channel order of uint8 images, ``"rgb"`` or ``"bgr"``.
        flip: Return the sum of the embeddings of the image and of its mirror image, the embedding of the
            verification protocol.
        calibration: For ``"auto"``: images as the module takes them; None for rendered faces.
        min_cosine: For ``"auto"``: the smallest cosine to fp32 that an image of the calibration may have.
        tune: On CUDA: sizes of batches for which to measure the kernels' tiles now, which takes minutes and
            is kept in the user's cache (see ``CompiledCudaModel.tune``). Nothing is ever measured otherwise.

    Returns:
        A module from float32 N,3,112,112 (normalised RGB) or uint8 N,112,112,3 to float32
        N,``embedding_dim``. It may be called from many threads at once, and in children of ``os.fork``, where
        plain convolutions of PyTorch hang if the parent used several threads.

    Raises:
        PocketNetError: A model, device, precision or number of threads that is not supported, a missing
            CUDA device, or a missing Triton.
        NotBuiltError: The package was not built.

    Examples:
        >>> fast = compile(create_model("pocketnet_s128", pretrained=True), precision="bf16")
        >>> fast(torch.randint(0, 256, (8, 112, 112, 3), dtype=torch.uint8)).shape
        torch.Size([8, 128])
    """
    kind, _, index = str(device).partition(":")
    if kind == "cuda" and (not index or index.isdigit()):
        if threads is not None:
            raise PocketNetError(f"threads is {threads}, which concerns the CPU; device is {device!r}")
        return compile_cuda(lower(model, color=color, bands=False), str(device), precision, flip, tune)
    if str(device) != "cpu":
        raise PocketNetError(f"device is {device!r}; the fused kernels run on 'cpu' and 'cuda'")
    if precision not in (*PRECISIONS, "auto"):
        raise PocketNetError(
            f"precision is {precision!r}; available on the CPU: {', '.join(PRECISIONS)} and auto"
        )
    if tune:
        raise PocketNetError(f"tune is {[*tune]}, which concerns CUDA; device is 'cpu'")
    check_threads(threads)

    def build(precision: str) -> CompiledModel:
        return CompiledModel(lower(model, color=color, precision=precision), int(threads or 0), flip).eval()

    if precision != "auto":
        return build(precision)
    network, choice = choose_precision(build, calibration, min_cosine)
    logging.getLogger("pocketnet_fast").info("%s", choice)
    return network
