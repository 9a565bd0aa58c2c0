"""What a run shows on a terminal, elsewhere, and to nobody."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from pocketnet_fast.cli.progress import progress
from pocketnet_fast.evaluation.verification import VerificationResult
from pocketnet_fast.resumable.display import Display

RESULT = VerificationResult(0.9876, 0.0123, 1.4, 0.5, 0.1, 0.0011, 7.654, 6000)


def shown(terminal: bool) -> str:
    file = io.StringIO()
    display = Display(Console(file=file, force_terminal=terminal, width=200), 1000, 100)
    display.step(250, 3, 26, {"loss": 12.3456, "kd": 0.01234}, 0.025, 321.4)
    with display.verifying(64) as advance:
        advance(64)
    display.epoch(3, 26, {"loss": 11.5}, 0.025, 300.0)
    display.verification("lfw", RESULT)
    display.close()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())


def test_terminal() -> None:
    text = shown(True)
    for part in ("epoch 3/26", "250/1,000", "loss 12.35  kd 0.01234  lr 0.025  321 images/s"):
        assert part in text


def test_elsewhere() -> None:
    assert shown(False).splitlines() == [
        "epoch 3/26: loss 11.5000, lr 0.025, 300 images/s",
        "  lfw: accuracy 98.76 +- 1.23 %, VAL 50.00 % at FAR 0.11 %, XNorm 7.65, 6,000 pairs",
    ]


def test_lines_at_intervals_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    file = io.StringIO()
    display = Display(Console(file=file, width=200), 1000, 100)
    for step in range(101, 301):
        clock[0] += 1
        display.step(step, 1, 4, {"loss": 2.0}, 0.1, 32.0)
    lines = file.getvalue().splitlines()
    assert len(lines) == 6
    assert lines[0] == "step 130/1,000, epoch 1/4: loss 2.0000, lr 0.1, 32 images/s, 0:14:30 left"


def test_commands_say_how_far_they_are_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with progress(100, "embedding") as advance:
        for _ in range(10):
            clock[0] += 20
            advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "embedding: 20 of 100, 0:02:40 left"
    assert len(lines) == 4


def test_an_epoch_of_skipped_steps() -> None:
    file = io.StringIO()
    Display(Console(file=file, width=200), 10, 0).epoch(1, 2, {}, 0.1, 5.0)
    assert "every step was skipped" in file.getvalue()


def test_nobody() -> None:
    display = Display(None, 10, 0)
    display.step(1, 1, 1, {"loss": 1.0}, 0.1, 1.0)
    with display.verifying(3) as advance:
        advance(3)
    display.say("nothing")
    display.close()
