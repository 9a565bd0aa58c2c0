"""What a run writes down: one JSON object a line, and TensorBoard's files."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any, Final

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write
from pocketnet_fast.strict_json import to_json

LOG_NAME: Final = "log.jsonl"
TENSORBOARD: Final = "tensorboard"
# Of the whole run: text in TensorBoard, where a point alone makes no curve.
_FACTS: Final = ("start", "resume", "ended")
# Made after a step, and not a part of it.
_TESTS: Final = ("verification", "validation")


class RunLog:
    """Appends to ``log.jsonl``: every line has "event", "step" and "time" (seconds since 1970).

    Args:
        folder: The run's folder.
        tensorboard: True, False, or "auto": if it is installed.
        step: The step from which the run goes on; TensorBoard hides what an earlier attempt wrote after it.

    Attributes:
        remark: What the user should know once; None if nothing.

    Raises:
        PocketNetError: TensorBoard is asked for and not installed, or the log cannot be written.
    """

    def __init__(self, folder: Path, tensorboard: bool | str, step: int) -> None:
        self.remark: str | None = None
        self._writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                advice = "pip install 'pocketnet_fast[train]'"
                if tensorboard is True:
                    raise PocketNetError(
                        f"run.tensorboard is true, and it is not installed: {advice}"
                    ) from None
                self.remark = f"TensorBoard is not installed ({advice}); the log goes to {LOG_NAME} alone"
            else:
                self._writer = SummaryWriter(folder / TENSORBOARD, purge_step=step + 1 if step else None)
        self._path = folder / LOG_NAME
        try:
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise PocketNetError(f"cannot write {self._path}: {error.strerror}") from None

    def write(self, event: str, step: int, **values: Any) -> None:
        """Add a line; TensorBoard gets numbers as curves, and what is said of the whole run as text.

        Raises:
            PocketNetError: It cannot be written.
        """
        line = to_json({"event": event, "step": step, **values, "time": round(time.time(), 3)})
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise PocketNetError(f"cannot write {self._path}: {error.strerror}") from None
        if self._writer is not None:
            self._draw(event, step, values)

    def _draw(self, event: str, step: int, values: dict[str, Any]) -> None:
        if event in _FACTS:
            table = "\n".join(f"| {name} | {value} |" for name, value in values.items())
            self._writer.add_text(event, f"| | |\n|---|---|\n{table}", step)
            return
        # Several verification sets have a curve each.
        dataset = values.get("dataset")
        group = event if dataset is None else f"{event}/{dataset}"
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "epoch":
                self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Finish the files."""
        # What a full disk does not take was said when it was written.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._writer is not None:
            self._writer.close()


def truncate_log(folder: Path, step: int, verified_step: int) -> None:
    """Drop the lines that a run resumed after ``step`` writes again, and a last one that was not finished.

    Args:
        folder: The run's folder.
        step: Lines of later steps go.
        verified_step: A verification or validation of ``step`` goes too unless this is that step.
    """
    path = folder / LOG_NAME
    if not path.is_file():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
            later = entry["step"] > step
            pending = entry["event"] in _TESTS and entry["step"] == step != verified_step
        except (ValueError, KeyError, TypeError):
            raise PocketNetError(f"{path}: {line[:80]!r} is no line of a run's log") from None
        if not later and not pending:
            kept.append(line)
    with atomic_write(path) as file:
        file.writelines(kept)


def read_log(folder: Path, event: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's log, all or those of one event."""
    with (folder / LOG_NAME).open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if event is None or line["event"] == event]
