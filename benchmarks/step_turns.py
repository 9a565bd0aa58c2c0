"""Subjects of a benchmark whose steps are long, each in a process of its own, taking turns.

The script that is compared starts itself again with ``--work SUBJECT``; there it calls ``serve``. Peak memory
is the rise of the resident peak over the first steps, in which an allocator comes to rest: torch itself and
weights are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from worker_processes import ended_at_last


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def limit_threads(threads: int) -> None:
    """Give torch so many threads, and pin a single one to one processor."""
    torch.set_num_threads(threads)
    if threads == 1:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def serve(step: Callable[[], None]) -> None:
    """Print the peak memory of three steps in bytes; then answer each line with the seconds of one."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is resident now
    for _ in range(3):
        step()
    print(_resident("VmHWM") - before, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)


@contextlib.contextmanager
def _workers(
    script: str, subjects: Mapping[str, Mapping[str, str]], arguments: Sequence[str]
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    # Here, as the processes may have another version of the package, which lacks it.
    from pocketnet_fast.waiting import waiting_policy

    with ended_at_last() as started:
        for name, environment in subjects.items():
            command = [sys.executable, script, "--work", name, *arguments]
            started[name] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | waiting_policy() | environment,
            )
        yield started


def _answer(name: str, process: subprocess.Popen[str]) -> float:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(
            f"{name} ended with status {process.wait()}; a step may need more memory than there is"
        )
    return float(line)


def take_turns(
    script: str,
    subjects: Mapping[str, Mapping[str, str]],
    arguments: Sequence[str],
    *,
    rounds: int,
    scale: float,
) -> dict[str, dict[str, float]]:
    """Median and best of each subject's seconds times ``scale``, and its peak in MiB.

    Args:
        script: The benchmark's own file.
        subjects: Names, and what each adds to the environment.
        arguments: Given to every process.
        rounds: Steps of each subject, in a new order every round.
        scale: From seconds to the unit of the result, such as 1e3 / batch for milliseconds per image.
    """
    with _workers(script, subjects, arguments) as started:
        peaks = {name: _answer(name, process) for name, process in started.items()}
        seconds: dict[str, list[float]] = {name: [] for name in started}
        order = random.Random(0)
        for _ in range(rounds):
            for name in order.sample(list(subjects), len(subjects)):
                stdin = started[name].stdin
                assert stdin is not None
                stdin.write("step\n")
                stdin.flush()
                seconds[name].append(_answer(name, started[name]))
    return {
        name: {
            "median_ms": statistics.median(times) * scale,
            "best_ms": min(times) * scale,
            "peak_mib": peaks[name] / 2**20,
        }
        for name, times in seconds.items()
    }


def keep(arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    """Write what was measured, and how, to the file that ``--json`` names."""
    if arguments.json is not None:
        content = {"arguments": vars(arguments) | {"json": None}, **results}
        arguments.json.write_text(json.dumps(content, default=str))
