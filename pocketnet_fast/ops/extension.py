"""Facts and measurements of the native library, called by ctypes: ``csrc/bindings/bindings.h``."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_size_t
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_PROGRAM: Final = np.ctypeslib.ndpointer(np.int32, flags="C_CONTIGUOUS")
_FLOATS: Final = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
_PIXELS: Final = np.ctypeslib.ndpointer(np.uint8, flags="C_CONTIGUOUS")
_SECONDS: Final = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
_SIGNATURES: Final[dict[str, list[Any]]] = {
    "pnf_isa": [c_int, POINTER(c_char_p)],
    "pnf_isas": [c_int, POINTER(c_char_p)],
    "pnf_tiles_denied": [],
    "pnf_force_isa": [c_char_p],
    "pnf_processors": [POINTER(c_int)] * 3,
    "pnf_torch_on_this_thread_alone": [],
    "pnf_profile": [
        *(_PROGRAM, c_size_t, _FLOATS, c_size_t, _PIXELS, c_size_t),
        *(_SECONDS, c_size_t, POINTER(c_size_t)),
    ],
    "pnf_exponential": [_FLOATS, c_size_t, _FLOATS],
    "pnf_peak_gflops": [c_int, POINTER(c_double)],
    "pnf_read_gbs": [c_size_t, POINTER(c_double)],
}
_ERRORS: Final = {1: ValueError, 2: MemoryError, 3: RuntimeError}


class Extension:
    """The calls of a library; they run without Python's lock.

    Args:
        path: ``libpnf_ops.so``. What it needs of torch must be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.pnf_error.restype = c_char_p
        for name, arguments in _SIGNATURES.items():
            getattr(self._library, name).argtypes = arguments

    def _check(self, status: int) -> None:
        if status != 0:
            raise _ERRORS[status](self._library.pnf_error().decode())

    def compiled_isa(self, half: bool) -> str:
        """Name of the instruction set whose kernels run, for floats or for states of half precision.

        Raises:
            RuntimeError: ``PNF_FORCE_ISA`` names a set that this build or CPU lacks.
        """
        name = c_char_p()
        self._check(self._library.pnf_isa(half, byref(name)))
        return (name.value or b"").decode()

    def isas(self, half: bool) -> dict[str, bool]:
        """Compiled instruction sets, best first, and whether this CPU has them."""
        names = c_char_p()
        self._check(self._library.pnf_isas(half, byref(names)))
        return {line[1:]: line[0] == "+" for line in (names.value or b"").decode().split()}

    def tiles_denied(self) -> bool:
        """Whether the CPU has tile registers (AMX) and the system refuses them to this process."""
        return bool(self._library.pnf_tiles_denied())

    def force_isa(self, name: str) -> None:
        """Use the named kernels from now on; an empty name returns to the default.

        Raises:
            RuntimeError: If this build or CPU lacks the set.
        """
        self._check(self._library.pnf_force_isa(name.encode()))

    def processors(self) -> dict[str, int]:
        """Processors of the affinity mask and of quotas, 0 for no limit, and how many a call uses."""
        affinity, quota, usable = c_int(), c_int(), c_int()
        self._check(self._library.pnf_processors(byref(affinity), byref(quota), byref(usable)))
        return {"affinity": affinity.value, "quota": quota.value, "usable": usable.value}

    def torch_on_this_thread_alone(self) -> None:
        """Run torch's operators that the calling thread calls on it alone from now on."""
        self._check(self._library.pnf_torch_on_this_thread_alone())

    def profile(
        self, program: NDArray[np.int32], weights: NDArray[np.float32], pixels: NDArray[np.uint8]
    ) -> list[float]:
        """Seconds spent in each step of a program over uint8 images, on the calling thread.

        Raises:
            ValueError: The program or the pixels are refused.
        """
        # A step has a word at least.
        seconds = np.empty(program.size, np.float64)
        steps = c_size_t()
        self._check(
            self._library.pnf_profile(
                *(program, program.size, weights, weights.size, pixels, pixels.size),
                *(seconds, seconds.size, byref(steps)),
            )
        )
        found: list[float] = seconds[: steps.value].tolist()
        return found

    def exponential(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """exp(x) as the kernels compute it.

        Raises:
            ValueError: The length of x is no multiple of 16.
        """
        result = np.empty(x.size, np.float32)
        self._check(self._library.pnf_exponential(x, x.size, result))
        return result

    def peak_gflops(self, half: bool = False) -> float:
        """Measured multiply-add peak of the calling thread, of floats or of bfloat16, in GFLOP/s."""
        gflops = c_double()
        self._check(self._library.pnf_peak_gflops(half, byref(gflops)))
        return gflops.value

    def read_gbs(self, size: int) -> float:
        """Measured rate at which the calling thread reads so many bytes again and again, in GB/s."""
        gbs = c_double()
        self._check(self._library.pnf_read_gbs(size, byref(gbs)))
        return gbs.value
