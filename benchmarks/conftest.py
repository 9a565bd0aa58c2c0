"""What the benchmarks under pytest share: one thread, and torch without gradients where none is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# The installed package is what is timed. From the project's root, `python -m pytest` would find the sources
# instead, which lack the compiled parts.
_ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != _ROOT]

import pytest  # noqa: E402 - after the path
import torch  # noqa: E402
from subjects import limit_threads  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one thread, pinned to one processor, and give back what was there before."""
    threads, processors = torch.get_num_threads(), os.sched_getaffinity(0)
    limit_threads(1)
    yield
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, processors)
