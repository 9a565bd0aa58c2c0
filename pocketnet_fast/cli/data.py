"""``pocketnet data``: look at a dataset, convert it, make a synthetic one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pocketnet_fast.cli.options import JsonOption
from pocketnet_fast.cli.output import check_picture, print_report
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.errors import PocketNetError

_DAMAGED_SHOWN = 10

_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Look at, convert and make datasets.")


@_app.command()
def inspect(
    source: Annotated[
        str,
        typer.Argument(help="A .rec file, a folder with train.rec, a folder of folders, or synthetic:..."),
    ],
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Read labels alone; decode no image.")] = False,
    show: Annotated[
        Path | None, typer.Option(help="Draw some images of some identities to this .png or .jpg.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count a dataset's images and identities, and find the images that cannot be used.

    Every image is read and decoded, unless --quick is given. The exit code is 1 if there are damaged ones.

    Example: [bold]pocketnet data inspect faces/train.rec --show sheet.png[/bold]
    """
    check_picture(show)

    from pocketnet_fast.data.inspection import damaged_images, described, write_sheet
    from pocketnet_fast.data.opening import open_dataset
    from pocketnet_fast.data.recordio import CorruptRecordError
    from pocketnet_fast.data.records import damaged_records

    try:
        dataset = open_dataset(source)
    except CorruptRecordError:
        about: dict[str, Any] = {"source": source, "kind": "record", "decoded": False}
        damaged = damaged_records(source)
        if not damaged or show is not None:
            raise
    else:
        damaged = {}
        if not quick:
            with progress(len(dataset), "decoding") as advance:
                damaged = damaged_images(dataset, advance)
        about = described(dataset) | {"decoded": not quick}
        if show is not None:
            write_sheet(dataset, damaged, show)
    about["damaged"] = [{"image": index, "error": error} for index, error in damaged.items()]
    print_report(about, _print, as_json)
    if damaged:
        raise typer.Exit(1)


@_app.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="A .rec file, a folder with train.rec, or a folder of folders.")
    ],
    target: Annotated[Path, typer.Argument(help="A .rec file, or the folder to make.")],
) -> None:
    """Convert between a record file and a folder of one folder per identity.

    Images are copied as they are stored. Identities become the classes 0, 1, ... of a record file in the
    order of their folders' names; folders are named by the identities' numbers in the record file. What is
    written appears when it is complete.

    Example: [bold]pocketnet data convert faces/ records/train.rec[/bold]
    """
    from pocketnet_fast.data.folder import FolderDataset
    from pocketnet_fast.data.opening import open_dataset
    from pocketnet_fast.data.records import RecordDataset
    from pocketnet_fast.data.writing import write_folder, write_records

    dataset = open_dataset(source)
    if isinstance(dataset, FolderDataset) and target.suffix == ".rec":
        with progress(len(dataset), "converting") as advance:
            write_records(target, dataset.labels, dataset.encoded, advance)
    elif isinstance(dataset, RecordDataset) and target.suffix != ".rec":
        with progress(len(dataset), "converting") as advance:
            write_folder(target, dataset.labels, _numbered(dataset.identities), dataset.encoded, advance)
    else:
        raise PocketNetError(
            f"{source} to {target}: expected a folder to a .rec file, or a .rec file to a folder"
        )
    note(f"wrote {len(dataset):,} images of {dataset.classes:,} identities to {target}")


@_app.command()
def pairs(
    source: Annotated[Path, typer.Argument(help="A .bin file, an .npz file, or a folder with pairs.csv.")],
    target: Annotated[Path, typer.Argument(help="A .bin or .npz file, or the folder to make.")],
) -> None:
    """Convert verification pairs between .bin, .npz and a folder of images with pairs.csv.

    An .npz holds plain arrays, a .bin a pickle, which is read as nothing but data. Images are copied as they
    are stored; none is decoded. What is written appears when it is complete.

    Example: [bold]pocketnet data pairs lfw.bin lfw.npz[/bold]
    """
    from pocketnet_fast.evaluation.pair_files import open_pairs, write_pairs

    opened = open_pairs(source)
    with progress(len(opened.images), "converting") as advance:
        write_pairs(target, opened, advance)
    note(f"wrote {len(opened):,} pairs to {target}")


@_app.command()
def make(
    target: Annotated[Path, typer.Argument(help="A .rec file, a folder to make, or with --pairs a .bin.")],
    *,
    identities: Annotated[int, typer.Option(min=1, help="Number of identities.")] = 64,
    images: Annotated[int, typer.Option(min=1, help="Images of each identity.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other people.")] = 0,
    first_identity: Annotated[
        int, typer.Option(min=0, help="Number of the first; disjoint ranges are different people.")
    ] = 0,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Make this many verification pairs instead of a dataset.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Store PNG instead of JPEG with quality 95.")] = False,
) -> None:
    """Render synthetic people, as a dataset or as verification pairs (which are always PNG).

    The same options give the same people, in every kind of output.

    Examples: [bold]pocketnet data make people/train.rec --identities 1000[/bold],
    [bold]pocketnet data make test.bin --pairs 600 --first-identity 1000 --identities 200[/bold]
    """
    from pocketnet_fast.data.images import encode_image
    from pocketnet_fast.data.synthetic import SyntheticDataset, verification_pairs
    from pocketnet_fast.data.writing import write_folder, write_records
    from pocketnet_fast.evaluation.bin_file import write_bin
    from pocketnet_fast.evaluation.pairs import VerificationPairs

    if (pairs is not None) != (target.suffix == ".bin"):
        raise PocketNetError(f"{target}: pairs are written to a .bin file, and nothing else is; use --pairs")
    if pairs is not None:
        with progress(2 * pairs, "rendering") as advance:
            rendered, same = verification_pairs(identities, pairs, seed, first_identity, on_image=advance)
        write_bin(target, VerificationPairs(rendered, same))
        note(f"wrote {pairs:,} pairs of {identities:,} identities to {target}")
        return

    dataset = SyntheticDataset(identities, images, seed, first_identity)
    suffix = ".png" if png else ".jpg"

    def read(index: int) -> bytes:
        return encode_image(dataset.image(index), suffix)

    with progress(len(dataset), "rendering") as advance:
        if target.suffix == ".rec":
            write_records(target, dataset.labels, read, advance)
        else:
            names = _numbered(range(first_identity, first_identity + identities))
            write_folder(target, dataset.labels, names, read, advance)
    note(f"wrote {len(dataset):,} images of {identities:,} identities to {target}")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(_app, name="data")


def _numbered(identities: Any) -> list[str]:
    digits = len(str(max(identities)))
    return [f"{identity:0{digits}}" for identity in identities]


def _print(about: dict[str, Any]) -> None:
    damaged = about["damaged"]
    if "images" in about:
        counts = about["images_per_identity"]
        typer.echo(f"{about['source']}: {about['images']:,} images of {about['identities']:,} identities")
        typer.echo(f"images per identity: {counts['min']} to {counts['max']}, median {counts['median']:g}")
    else:
        typer.echo(f"{about['source']}: {len(damaged)} damaged records; the dataset cannot be opened")
    if "bytes" in about:
        rebuilt = "rebuilt, as there is no file" if about["index_rebuilt"] else "read"
        typer.echo(f"record file: {about['bytes']:,} bytes; index: {rebuilt}")
    if about["decoded"]:
        good = about["images"] - len(damaged)
        height, width = about["size"]
        typer.echo(f"{good:,} images of {width}x{height} decoded, {len(damaged)} damaged")
    else:
        typer.echo("no image was decoded")
    for entry in damaged[:_DAMAGED_SHOWN]:
        typer.echo(f"  {entry['error']}")
    if len(damaged) > _DAMAGED_SHOWN:
        typer.echo(f"  and {len(damaged) - _DAMAGED_SHOWN} more; --json lists all")
