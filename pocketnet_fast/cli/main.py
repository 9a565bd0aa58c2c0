"""Entry point of ``pocketnet``: registers the commands and turns bad input into one line and exit code 2."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated, Final, NoReturn

import typer

from pocketnet_fast.cli import (
    bench,
    calibrate,
    cmake,
    data,
    distill,
    doctor,
    embed,
    eval,
    export,
    faces,
    gallery,
    ijb,
    info,
    megaface,
    search,
    train,
    verify,
)
from pocketnet_fast.cli.help import OrderedGroup, dress
from pocketnet_fast.cli.remarks import print_log
from pocketnet_fast.errors import NotBuiltError, PocketNetError
from pocketnet_fast.files import WRITE_ERRORS
from pocketnet_fast.waiting import choose_waiting_policy

_CLOSED: Final = "the output was closed before all of it was written"

app = typer.Typer(
    name="pocketnet",
    cls=OrderedGroup,
    help="Small face recognition networks, run fast.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        from pocketnet_fast import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse larger images; default: $POCKETNET_MAX_PIXELS or 50 million."),
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse larger image files; default: $POCKETNET_MAX_BYTES or 64 MiB."),
    ] = None,
) -> None:
    """Small face recognition networks, run fast."""
    # In the environment, so that the processes that load training images know them too.
    for variable, limit in (("POCKETNET_MAX_PIXELS", max_pixels), ("POCKETNET_MAX_BYTES", max_bytes)):
        if limit is not None:
            os.environ[variable] = str(limit)


info.register(app)
embed.register(app)
faces.register(app)
verify.register(app)
gallery.register(app)
ijb.register(app)
megaface.register(app)
export.register(app)
eval.register(app)
calibrate.register(app)
bench.register(app)
data.register(app)
train.register(app)
distill.register(app)
search.register(app)
doctor.register(app)
cmake.register(app)
dress(app)


def main() -> None:
    """Run the command line; bad input, a full disk or a closed pipe exits with 2, an interrupt with 130."""
    choose_waiting_policy()
    print_log()
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal cannot show is no reason to lose a result.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            _flush_output()
    except SystemExit as error:
        # So typer and rich end when whoever reads the output has gone.
        if error.code == 1 and isinstance(error.__context__, BrokenPipeError):
            _discard_output()
            _fail(_CLOSED, 2)
        raise
    except (PocketNetError, NotBuiltError) as error:
        _fail(str(error), 2)
    except OSError as error:
        if error.filename is not None:
            _fail(f"{error.filename}: {error.strerror}", 2)
        unwritten = "cannot write: " if error.errno in WRITE_ERRORS else ""
        _fail(f"{unwritten}{error.strerror or error}", 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def _flush_output() -> None:
    """Write what is left of the output while an error can still be told.

    Raises:
        PocketNetError: It cannot be written.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard_output()
        if isinstance(error, BrokenPipeError):
            raise PocketNetError(_CLOSED) from None
        raise PocketNetError(f"cannot write the output: {error.strerror}") from None


def _discard_output() -> None:
    # The interpreter flushes once more at its end, and would print that it cannot.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> NoReturn:
    with contextlib.suppress(OSError):
        typer.echo(f"pocketnet: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
