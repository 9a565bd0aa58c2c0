"""What is measured on a GPU, in turns and while there is time, and the rows that say what was found."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console

Call = Callable[[], Any]
# Of inference and of training; other batches keep the tiles of the rule.
TUNED_BATCHES = (256, 512)


Figure = float | None
"""What was measured; None where it could not be."""


@dataclass
class Row:
    """One line of a table; where a figure is missing, ``note`` says why."""

    part: str
    subject: str
    precision: str
    size: str
    milliseconds: Figure = None
    images_per_second: Figure = None
    peak_mib: Figure = None
    error: Figure = None
    over_eager: Figure = None
    floor_milliseconds: Figure = None
    note: str = ""


@dataclass
class Run:
    """The settings, the clock, and what was found so far."""

    device: torch.device
    tiny: bool
    end: float
    seconds: float
    console: Console
    tune: float
    rows: list[Row] = field(default_factory=list)
    tuned: set[tuple[str, int, str]] = field(default_factory=set)

    def tunes(self, part: str, batch: int, precision: str) -> bool:
        """Whether tiles are to be measured now, which is once."""
        wanted = self.device.type == "cuda" and self.tune > 0 and (part, batch, precision) not in self.tuned
        if not wanted or batch not in TUNED_BATCHES or precision not in ("fp32", "bf16"):
            return False
        self.tuned.add((part, batch, precision))
        return True

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def reason(error: Exception) -> str:
    """Why a subject has no figures, in a line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:80]}"


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def once(call: Call, device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def take_turns(run: Run, subjects: dict[str, Call]) -> dict[str, float]:
    """Median milliseconds of each, after three calls to warm up."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for call in subjects.values():
        for _ in range(3):
            call()
    synchronize(run.device)
    deadline = time.monotonic() + min(run.seconds * len(subjects), max(run.left, 0.0))
    while time.monotonic() < deadline or min(map(len, times.values())) < 3:
        for name, call in subjects.items():
            times[name].append(once(call, run.device))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_of(call: Call, device: torch.device) -> float | None:
    """MiB that one call allocates beyond what is held."""
    if device.type != "cuda":
        return None
    synchronize(device)
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - held) / 2**20


def graphed(call: Call) -> Call:
    """A call as one CUDA graph; what it reads and writes stays where it is."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
