"""The native libraries: where they lie, loading them, and which instruction set runs."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import Final

import torch

from pocketnet_fast.errors import NotBuiltError, PocketNetError

_MAX_THREADS: Final = 1024


@functools.cache
def library_path() -> Path:
    """Path of ``libpnf_ops.so``, which a C++ host loads to run a fused TorchScript file.

    Raises:
        NotBuiltError: The package was not built (a source tree that was never installed).
    """
    spec = importlib.util.find_spec("pocketnet_fast._C")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "lib" / "libpnf_ops.so"
        if path.exists():
            return path
    raise NotBuiltError(
        "the native part of pocketnet_fast is missing: these are sources, imported because Python was "
        "started beside them; pip install . and work in another folder, or pip install -e . to work here"
    )


@functools.cache
def extension() -> ModuleType:
    """The Python extension, with the operators registered in torch.

    Raises:
        NotBuiltError: The package was not built.
    """
    torch.ops.load_library(str(library_path()))
    from pocketnet_fast import _C

    return _C


def compiled_isa(precision: str = "fp32") -> str:
    """Name of the instruction set whose kernels run: ``avx512``, ``avx2``, ``neon`` or ``scalar``.

    The best one that the CPU has, or the one that the environment variable ``PNF_FORCE_ISA`` names.

    Args:
        precision: ``"bf16"`` asks for the kernels of half precision, which have ``amx_bf16``,
            ``avx512_bf16`` and ``neon_bf16`` as well; floats run on ``avx512`` or ``neon`` where one of
            these is in use. Intel's CPUs multiply pairs of bfloat16 at half the pace of floats, so
            ``avx512`` is chosen on them where there are no tiles.

    Raises:
        RuntimeError: ``PNF_FORCE_ISA`` names a set that this build or CPU lacks.

    Examples:
        >>> compiled_isa("bf16")
        'avx512_bf16'
    """
    name: str = extension().compiled_isa(precision == "bf16")
    return name


def available_isas(precision: str = "fp32") -> list[str]:
    """Instruction sets of a precision that this build and CPU have, best first."""
    return [name for name, available in extension().isas(precision == "bf16").items() if available]


def multiplies_bf16(isa: str) -> bool:
    """Whether an instruction set multiplies pairs of bfloat16; others widen them to fp32 first."""
    return isa in ("amx_bf16", "avx512_bf16", "neon_bf16")


def tiles_denied() -> bool:
    """Whether the CPU has tile registers (AMX), which the system refuses to this process.

    Half precision runs on ``avx512`` then. Linux refuses where a filter forbids the request and where it
    is older than 5.16.
    """
    denied: bool = extension().tiles_denied()
    return denied


def processors() -> dict[str, int]:
    """Processors that this process may use.

    Returns:
        ``affinity``: those of the calling thread's affinity mask; ``quota``: whole processors that the quotas
        of the process's control groups allow (cgroup v1 and v2), at least 1; 0 where there is no such limit.
        ``usable``: the smaller of the two, which no operator's threads go beyond.
    """
    found: dict[str, int] = extension().processors()
    return found


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that no call can have.

    Raises:
        PocketNetError: It is neither None nor a whole number from 1 to 1024.
    """
    whole = isinstance(threads, Integral) and not isinstance(threads, bool)
    if threads is not None and not (whole and 1 <= threads <= _MAX_THREADS):
        raise PocketNetError(
            f"threads is {threads!r}; expected a whole number from 1 to {_MAX_THREADS}, or None for torch's"
        )


def usable_threads(threads: int | None = None) -> int:
    """``threads``, or as many as torch uses for None, but no more than there are processors for them."""
    wanted = torch.get_num_threads() if threads is None else threads
    return max(1, min(wanted, processors()["usable"]))


def torch_on_this_thread_alone() -> None:
    """Run torch's operators that the calling thread calls on it alone from now on.

    Unlike ``torch.set_num_threads``, no other thread is concerned.
    """
    extension().torch_on_this_thread_alone()


def trim_memory() -> int:
    """Free the working memory that calls of the operators have left for the next ones.

    Each kind of call keeps what the last one took, so that the next allocates nothing, and up to 64 MiB
    besides for callers at the same time. After training, or a burst of callers, this gives it back to the
    system. Calls that are running keep what they have, and later ones allocate again.

    Returns:
        Bytes that were freed.

    Examples:
        >>> trim_memory()  # after the largest photo of a batch
    """
    extension()
    freed: int = torch.ops.pocketnet_fast.trim_memory()
    return freed


def force_isa(name: str) -> None:
    """Use the named kernels in this process from now on; ``""`` returns to the default.

    Raises:
        RuntimeError: This build or CPU lacks the set.
    """
    extension().force_isa(name)


@contextmanager
def forced_isa(name: str) -> Iterator[None]:
    """Use the named kernels in this process, and afterwards the default again; see ``force_isa``."""
    force_isa(name)
    try:
        yield
    finally:
        force_isa("")
