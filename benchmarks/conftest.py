"""What the benchmarks under pytest share: one thread, and torch without gradients where none is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from subjects import limit_threads


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one thread, pinned to one processor, and give back what was there before."""
    threads, processors = torch.get_num_threads(), os.sched_getaffinity(0)
    limit_threads(1)
    yield
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, processors)
