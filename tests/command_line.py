"""The command line, run in the test's process as the console script would run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pocketnet_fast.cli import main as cli


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *command: str) -> Run:
    """What runs ``pocketnet COMMAND ARGUMENTS...``."""

    def run_command(*arguments: object) -> Result:
        monkeypatch.setattr("sys.argv", ["pocketnet", *command, *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = exit_.code or 0
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run_command


def refused(result: Result, *words: str) -> bool:
    """Exit code 2, nothing on stdout, and the reason on one line of stderr (the last)."""
    last = result.err.strip().splitlines()[-1]
    return result.code == 2 and result.out == "" and all(word in last for word in ("pocketnet: ", *words))


def runner_without_detector(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *command: str
) -> Run:
    """``runner``, whatever detector the environment names."""
    monkeypatch.delenv("POCKETNET_DETECTOR", raising=False)
    return runner(monkeypatch, capsys, *command)
