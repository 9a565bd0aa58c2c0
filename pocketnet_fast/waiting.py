"""How torch's threads wait for work, and how long threads waited for a processor."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Final

# Of any OpenMP runtime, of GNU's, of Intel's and LLVM's.
_POLICIES: Final = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_TASKS: Final = Path("/proc/self/task")

BUSY: Final = 0.05
"""Of the time that threads would have run, what they wait for a processor on a machine that is shared."""


def choose_waiting_policy() -> None:
    """Have torch's threads sleep while they wait for work, unless the environment says what they do.

    By default they spin for milliseconds after each parallel operator. Where other programs run beside this
    one, they spin in time slices that whoever holds them up would need, and every operator takes as long as a
    slice. It is the program's choice, so the commands make it and the package does not; OpenMP reads it when
    torch is loaded, and where torch is loaded already nothing changes.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in _POLICIES):
        os.environ["OMP_WAIT_POLICY"] = "passive"


class ProcessorWaits:
    """Measures, as a context, for which part of their time this process's threads waited for a processor.

    Attributes:
        share: Of the time that they ran or would have run; None where the system does not say.
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
