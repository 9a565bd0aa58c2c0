"""``pocketnet ijb``: verification and identification of templates on IJB-B and IJB-C."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.loading import (
    EngineOption,
    FlipOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
    UntrainedOption,
    WeightsOption,
    load_embedder,
    note,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress, waiting
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.strict_json import to_json

if TYPE_CHECKING:
    from pocketnet_fast.evaluation.ijb import GallerySearch, Templates, Verification
    from pocketnet_fast.evaluation.ijb_files import IjbFiles
    from pocketnet_fast.faces.pipeline import Embedder

_PROTOCOLS = ("1:1", "1:N", "both")


def ijb(
    *,
    root: Annotated[Path, typer.Option(help="Folder with loose_crop and meta, of IJB-B or IJB-C.")],
    protocol: Annotated[str, typer.Option(help="1:1, 1:N, or both.")] = "both",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for result.json and pictures of the curves.")
    ] = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    flip: FlipOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 32,
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

    from pocketnet_fast.evaluation.ijb import identify, verify
    from pocketnet_fast.evaluation.ijb_files import find_files
    from pocketnet_fast.pictures import require_matplotlib

    files = find_files(root)
    if output is not None:
        # A place that cannot be written to should be known before hours of embedding.
        require_matplotlib()
        _make_folder(output)
    embedder = load_embedder(
        model, weights, untrained, engine=engine, flip=flip, threads=threads, batch=batch
    )
    pairs, searches = protocol != "1:N", protocol != "1:1"
    templates = _pool(files, embedder, pairs, searches)
    with waiting("comparing templates"):
        verification = verify(files, templates) if pairs else None
        searched = identify(files, templates) if searches else None

    about: dict[str, Any] = {"benchmark": files.name, "templates": len(templates.ids)}
    about |= {"model": embedder.model_name, "weights_sha256": embedder.weights_sha256}
    about |= {"untrained": untrained, "flip": flip}
    if verification is not None:
        about["verification"] = _described_pairs(verification)
    if searched is not None:
        about["identification"] = _described_searches(files, searched)
    if output is not None:
        _write(output, files, about, verification, searched)
    if as_json:
        print_json(about)
    else:
        _print(about)
    if output is not None:
        note(f"wrote {output / 'result.json'} and pictures of the curves")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("ijb")(ijb)


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


def _described_pairs(result: Verification) -> dict[str, Any]:
    return {
        "genuine": result.genuine,
        "impostors": result.impostors,
        "points": [point.as_dict() for point in result.points],
    }


def _described_searches(files: IjbFiles, results: list[GallerySearch]) -> dict[str, Any]:
    import numpy as np

    from pocketnet_fast.evaluation.ijb import RANKS

    galleries = [
        {
            "file": path.name,
            "templates": result.gallery,
            "mated": result.mated,
            "others": result.others,
            "top": {str(rank): result.top(rank) for rank in RANKS},
            "points": [
                {
                    "fpir": point.far,
                    "tpir": point.tar,
                    "threshold": point.threshold,
                    "accepted": point.accepted,
                }
                for point in result.points
            ],
        }
        for path, result in zip(files.galleries, results, strict=True)
    ]
    mean = {
        "top": {str(rank): float(np.mean([result.top(rank) for result in results])) for rank in RANKS},
        "tpir": {
            f"{points[0].far:g}": float(np.mean([point.tar for point in points]))
            for points in zip(*(result.points for result in results), strict=True)
        },
    }
    return {"galleries": galleries, "mean": mean}


def _write(
    output: Path,
    files: IjbFiles,
    about: dict[str, Any],
    verification: Verification | None,
    searched: list[GallerySearch] | None,
) -> None:
    from pocketnet_fast.evaluation.ijb_plots import draw_cmc, draw_roc
    from pocketnet_fast.files import atomic_write

    title = f"{files.name}, {about['model']}" + (", untrained" if about["untrained"] else "")
    if verification is not None:
        draw_roc(output / "roc.png", verification, title)
    if searched is not None:
        draw_cmc(output / "cmc.png", searched, [path.stem for path in files.galleries], title)
    with atomic_write(output / "result.json") as file:
        file.write(to_json(about, indent=2).encode() + b"\n")


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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PocketNetError(f"cannot make the folder {folder}: {error.strerror}") from None
