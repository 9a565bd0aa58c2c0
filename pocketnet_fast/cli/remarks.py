"""Remarks on stderr, where they do not mix with results: those of commands, and what the library logs."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import typer


def note(text: str) -> None:
    """Print a remark."""
    typer.echo(f"pocketnet: {text}", err=True)


def note_all(remarks: Iterable[str]) -> None:
    """Print remarks, one a line."""
    for remark in remarks:
        note(remark)


def note_left_out(error: Exception | str) -> None:
    """Print what is wrong with an image that cannot be used."""
    note(f"left out: {error}")


class RemarkHandler(logging.Handler):
    """Prints what the library logs as a command's own remarks."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        note(record.getMessage())


def print_log() -> None:
    """Print from now on what the library logs."""
    logger = logging.getLogger("pocketnet_fast")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, RemarkHandler) for handler in logger.handlers):
        logger.addHandler(RemarkHandler())
