"""What a run shows: a progress bar on a terminal; elsewhere a line now and then, and one per epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pocketnet_fast.evaluation.verification import VerificationResult

if TYPE_CHECKING:
    from rich.console import Console

INTERVAL: Final = 30.0
"""Seconds between two lines on the way through an epoch where there is no terminal."""


class Display:
    """Progress with loss parts, learning rate, images per second and the time left.

    Args:
        console: Where; None shows nothing.
        steps: The number of steps of the whole run.
        done: Steps made already.
    """

    def __init__(self, console: Console | None, steps: int, done: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console
        self._steps, self._done = steps, done
        self._start = self._said = time.monotonic()
        self._progress: Progress | None = None
        if console is not None and console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,}/{task.total:,}"),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=console,
            )
            self._task = self._progress.add_task("", total=steps, completed=done, state="")
            self._progress.start()

    def step(
        self, step: int, epoch: int, epochs: int, parts: dict[str, float], rate: float, speed: float
    ) -> None:
        """Show a step; without a terminal, one in ``INTERVAL`` seconds."""
        if self._progress is None:
            self._say_now_and_then(step, epoch, epochs, parts, rate, speed)
            return
        losses = "  ".join(f"{name} {value:.4g}" for name, value in parts.items())
        self._progress.update(
            self._task,
            completed=step,
            description=f"epoch {epoch}/{epochs}",
            state=f"{losses}  lr {rate:.3g}  {speed:.0f} images/s",
        )

    def _say_now_and_then(
        self, step: int, epoch: int, epochs: int, parts: dict[str, float], rate: float, speed: float
    ) -> None:
        now = time.monotonic()
        if now - self._said < INTERVAL:
            return
        self._said = now
        losses = ", ".join(f"{name} {value:.4f}" for name, value in parts.items())
        left = (self._steps - step) * (now - self._start) / max(step - self._done, 1)
        self.say(
            f"step {step:,}/{self._steps:,}, epoch {epoch}/{epochs}: {losses}, lr {rate:.3g}, "
            f"{speed:.0f} images/s, {timedelta(seconds=round(left))} left"
        )

    def epoch(self, epoch: int, epochs: int, parts: dict[str, float], rate: float, speed: float) -> None:
        """Say how an epoch went."""
        losses = ", ".join(f"{name} {value:.4f}" for name, value in parts.items()) or "every step was skipped"
        self.say(f"epoch {epoch}/{epochs}: {losses}, lr {rate:.3g}, {speed:.0f} images/s")

    @contextlib.contextmanager
    def verifying(self, images: int) -> Iterator[Callable[[int], None]]:
        """Show the progress of a verification; yields what takes the number of images done in each batch."""
        if self._progress is None:
            yield lambda images: None
            return
        progress = self._progress
        task = progress.add_task("verifying", total=images, state="")
        try:
            yield lambda images: progress.advance(task, images)
        finally:
            progress.remove_task(task)

    def verification(self, name: str, result: VerificationResult) -> None:
        """Say what verification found."""
        self.say(
            f"  {name}: accuracy {100 * result.accuracy:.2f} +- {100 * result.accuracy_std:.2f} %, "
            f"VAL {100 * result.val:.2f} % at FAR {100 * result.far:.2f} %, XNorm {result.xnorm:.2f}, "
            f"{result.pairs:,} pairs"
        )

    def say(self, text: str) -> None:
        """Print a line."""
        if self._console is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()
