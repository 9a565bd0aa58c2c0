"""``pocketnet ijb``: verification and identification of templates on IJB-B and IJB-C."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import CropOptions, FlipOption, JsonOption
from pocketnet_fast.cli.output import print_report, write_json
from pocketnet_fast.cli.progress import progress, waiting
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write, make_folder
from pocketnet_fast.pictures import require_matplotlib

if TYPE_CHECKING:
    from pocketnet_fast.evaluation.ijb import Templates
    from pocketnet_fast.evaluation.ijb_files import IjbFiles
    from pocketnet_fast.faces.pipeline import Embedder

_PROTOCOLS = ("1:1", "1:N", "both")


@grouped
def ijb(
    *,
    root: Annotated[Path, typer.Option(help="Folder with loose_crop and meta, of IJB-B or IJB-C.")],
    protocol: Annotated[str, typer.Option(help="1:1, 1:N, or both.")] = "both",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for result.json and pictures of the curves.")
    ] = None,
    flip: FlipOption = True,
    crops: CropOptions,
    as_json: JsonOption = False,
) -> None:
    """Pool the images of each template and compare templates.

    1:1 prints true accept rates at false accept rates of 1e-6 to 1e-1; 1:N, averaged over the two galleries,
    the part of mated probes found with rank 1, 5 and 10 or better, and true at false positive identification
    rates. Rates are counted, not interpolated, and equal scores count as errors.

    Example: [bold]pocketnet ijb --root IJB_release/IJBC --protocol 1:1 --weights s128.safetensors -o
        ijbc[/bold]
    """
    if protocol not in _PROTOCOLS:
        raise PocketNetError(f"unknown protocol {protocol!r}; expected one of {', '.join(_PROTOCOLS)}")

    from pocketnet_fast.evaluation.ijb_files import find_files

    files = find_files(root)
    if output is not None:
        # A place that cannot be written to should be known before hours of embedding.
        require_matplotlib()
        make_folder(output)
    embedder = crops.embedder(flip=flip)
    about = {"model": embedder.model_name, "weights_sha256": embedder.weights_sha256}
    about = _evaluate(files, embedder, protocol, about | {"untrained": crops.untrained, "flip": flip}, output)
    print_report(about, _print, as_json)
    if output is not None:
        note(f"wrote {output / 'result.json'} and pictures of the curves")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("ijb")(ijb)


def _evaluate(
    files: IjbFiles, embedder: Embedder, protocol: str, about: dict[str, Any], output: Path | None
) -> dict[str, Any]:
    """Pool and compare the templates; write what was found, if a folder is given, and return it."""
    from pocketnet_fast.evaluation.ijb import identify, verify
    from pocketnet_fast.evaluation.ijb_report import draw_curves, identification_fields, verification_fields

    pairs, searches = protocol != "1:N", protocol != "1:1"
    templates = _pool(files, embedder, pairs, searches)
    with waiting("comparing templates"):
        verification = verify(files, templates) if pairs else None
        searched = identify(files, templates) if searches else None
    about = {"benchmark": files.name, "templates": len(templates.ids)} | about
    if verification is not None:
        about["verification"] = verification_fields(verification)
    if searched is not None:
        about["identification"] = identification_fields(files, searched)
    if output is not None:
        title = f"{files.name}, {about['model']}" + (", untrained" if about["untrained"] else "")
        draw_curves(output, files, title, verification, searched)
        with atomic_write(output / "result.json") as stream:
            write_json(stream, about)
    return about


def _pool(files: IjbFiles, embedder: Embedder, pairs: bool, searches: bool) -> Templates:
    from pocketnet_fast.evaluation.ijb import pool_templates

    with contextlib.ExitStack() as stack:
        stack.enter_context(waiting("reading the metadata"))
        advance: Callable[..., None]

        def begin(total: int) -> None:
            nonlocal advance
            stack.close()
            advance = stack.enter_context(progress(total, "embedding"))

        def step(count: int) -> None:
            advance(count)

        return pool_templates(
            files,
            embedder,
            embedder.embedding_dim,
            pairs=pairs,
            searches=searches,
            batch_size=embedder.batch_size,
            on_total=begin,
            on_images=step,
        )


def _print(about: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    typer.echo(f"{about['benchmark']}: {about['templates']:,} templates")
    if "verification" in about:
        found = about["verification"]
        typer.echo(f"1:1, {found['genuine']:,} genuine and {found['impostors']:,} impostor pairs")
        table = Table()
        for column in ("FAR", "TAR, %", "threshold"):
            table.add_column(column, justify="right")
        for point in found["points"]:
            rate = f"{100 * point['tar']:.2f}" + ("" if point["accepted"] else " *")
            table.add_row(f"{point['far']:g}", rate, f"{point['threshold']:.4f}")
        console.print(table)
        if not all(point["accepted"] for point in found["points"]):
            typer.echo("* too few impostor pairs to measure this rate; none is accepted")
    if "identification" in about:
        found = about["identification"]
        table = Table(title="1:N", title_justify="left")
        table.add_column("gallery")
        ranks, rates = found["mean"]["top"], found["mean"]["tpir"]
        for column in ("mated", "others", *(f"top {rank}, %" for rank in ranks)):
            table.add_column(column, justify="right")
        for rate in rates:
            table.add_column(f"TPIR at FPIR {rate}, %", justify="right")
        for gallery in found["galleries"]:
            figures = [*gallery["top"].values(), *(point["tpir"] for point in gallery["points"])]
            counts = (f"{gallery['mated']:,}", f"{gallery['others']:,}")
            table.add_row(
                Path(gallery["file"]).stem.rpartition("_")[2],
                *counts,
                *(f"{100 * figure:.2f}" for figure in figures),
            )
        means = [*ranks.values(), *rates.values()]
        table.add_row("mean", "", "", *(f"{100 * figure:.2f}" for figure in means))
        console.print(table)
