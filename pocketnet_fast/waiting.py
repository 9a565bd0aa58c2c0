"""How torch's threads wait for work, and how long threads waited for a processor."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Final

# Of any OpenMP runtime, of GNU's, of Intel's and LLVM's.
_POLICIES: Final = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# Some 0.2 ms on a processor of 4 GHz; docs/benchmarks/inference.md has figures for more and fewer.
_SPINS: Final = "10000"
_TASKS: Final = Path("/proc/self/task")

BUSY: Final = 0.05
"""The share of their time that threads wait for a processor on a machine that is shared."""


def waiting_policy() -> dict[str, str]:
    """What to add to the environment so that torch's threads spin briefly between operators, then sleep.

    GNU's OpenMP lets them spin for milliseconds. Beside other programs that takes the time slices which those
    need that they wait for, and each operator may take as long as a slice; where they sleep at once, waking
    them takes longer than most operators. Nothing is added to an environment that chooses for itself.
    """
    return {} if any(name in os.environ for name in _POLICIES) else {"GOMP_SPINCOUNT": _SPINS}


def choose_waiting_policy() -> None:
    """Add ``waiting_policy`` to the environment of this program, unless torch has read it already.

    It concerns a whole program, so that the commands do it, and the package does not.
    """
    if "torch" not in sys.modules:
        os.environ.update(waiting_policy())


class ProcessorWaits:
    """Measures, as a context, for which part of their time this process's threads waited for a processor.

    Attributes:
        share: The part of the time that they ran or would have run; None where the system does not say.
    """

    def __init__(self) -> None:
        self.share: float | None = None

    def __enter__(self) -> ProcessorWaits:
        self._before = _scheduled()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        after = _scheduled()
        ran = waited = 0
        for task, (run, wait) in after.items():
            run_before, wait_before = self._before.get(task, (0, 0))
            ran += run - run_before
            waited += wait - wait_before
        self.share = waited / (ran + waited) if ran > 0 else None

    @property
    def busy(self) -> bool:
        """Whether other programs took so much that times say more of them."""
        return self.share is not None and self.share > BUSY


def _scheduled() -> dict[str, tuple[int, int]]:
    """Nanoseconds that each thread ran, and was ready to run but did not."""
    found: dict[str, tuple[int, int]] = {}
    try:
        tasks = list(_TASKS.iterdir())
    except OSError:
        return found
    for task in tasks:
        try:
            run, wait, _ = (task / "schedstat").read_text().split()
        except (OSError, ValueError):  # it has ended, or the kernel keeps no such figures
            continue
        found[task.name] = int(run), int(wait)
    return found
