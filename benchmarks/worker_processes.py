"""Processes that work for a benchmark."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator


@contextlib.contextmanager
def ended_at_last() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Yield a place for processes, by name, which are ended with the block."""
    started: dict[str, subprocess.Popen[str]] = {}
    try:
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.communicate()
