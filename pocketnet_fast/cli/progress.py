"""Progress on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

INTERVAL: Final = 30.0
"""Seconds between two lines where there is no terminal."""


@contextlib.contextmanager
def progress(total: int, what: str) -> Iterator[Callable[..., None]]:
    """Show the progress of ``total`` steps; yields what to call after each, or with a number of them."""
    if not sys.stderr.isatty():
        yield _lines(total, what)
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps=1: bar.advance(task, steps)


def _lines(total: int, what: str) -> Callable[..., None]:
    start = said = time.monotonic()
    done = 0

    def advance(steps: int = 1) -> None:
        nonlocal said, done
        done += steps
        now = time.monotonic()
        if now - said >= INTERVAL and done < total:
            said = now
            left = timedelta(seconds=round((total - done) * (now - start) / done))
            print(f"{what}: {done:,} of {total:,}, {left} left", file=sys.stderr, flush=True)

    return advance


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show that something goes on whose length is not known."""
    from rich.console import Console

    with Console(stderr=True).status(what) if sys.stderr.isatty() else contextlib.nullcontext():
        yield
