"""SIGINT and SIGTERM as a request that the loop answers between two steps."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_WISH = 1.0  # seconds


class StoppedError(Exception):
    """Raised by a caller's ``on_batch`` to give an evaluation up."""


class Interruption:
    """While entered, the first signal is noted; another one a second later or more interrupts at once.

    Sooner ones are the same wish: Ctrl-C reaches a process both from the terminal and from torchrun.

    Attributes:
        signal: Number of the signal that came, 0 as long as none did.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.signal:
            self.signal, self._since = number, now
        elif now - self._since >= _SAME_WISH:
            raise KeyboardInterrupt
