"""Entry point of ``pocketnet``: registers the commands and turns bad input into one line and exit code 2."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from pocketnet_fast.cli import (
    bench,
    calibrate,
    data,
    distill,
    doctor,
    embed,
    eval,
    export,
    gallery,
    ijb,
    info,
    megaface,
    search,
    train,
    verify,
)
from pocketnet_fast.errors import PocketNetError

app = typer.Typer(
    name="pocketnet",
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


def main() -> None:
    """Run the command line; bad input exits with 2, an interrupt with 130."""
    try:
        app()
    except PocketNetError as error:
        typer.echo(f"pocketnet: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("pocketnet: interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
