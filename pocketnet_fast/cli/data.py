"""``pocketnet data``: look at a dataset, convert it, make a synthetic one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.loading import JsonOption, note
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pocketnet_fast.data.dataset import FaceDataset
    from pocketnet_fast.data.images import ImageArray

_PICTURES = (".png", ".jpg", ".jpeg")
_SHEET_ROWS, _SHEET_COLUMNS = 8, 8
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
    _check_picture(show)

    from pocketnet_fast.data.dataset import open_dataset
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
        damaged = {} if quick else _damaged(dataset)
        about = _described(dataset) | {"decoded": not quick}
        if show is not None:
            _write_sheet(dataset, damaged, show)
    about["damaged"] = [{"image": index, "error": error} for index, error in damaged.items()]
    if as_json:
        print_json(about)
    else:
        _print(about)
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
    from pocketnet_fast.data.dataset import open_dataset
    from pocketnet_fast.data.folder import FolderDataset
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
    from pocketnet_fast.evaluation.pairs import open_pairs, write_pairs

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


def _check_picture(path: Path | None) -> None:
    if path is not None and path.suffix.lower() not in _PICTURES:
        raise PocketNetError(f"{path}: unknown kind of picture; expected one of {', '.join(_PICTURES)}")


def _numbered(identities: Any) -> list[str]:
    digits = len(str(max(identities)))
    return [f"{identity:0{digits}}" for identity in identities]


def _damaged(dataset: FaceDataset) -> dict[int, str]:
    """Why an image cannot be used, by index."""
    found = {}
    with progress(len(dataset), "decoding") as advance:
        for index in range(len(dataset)):
            try:
                dataset.image(index)
            except PocketNetError as error:
                found[index] = str(error)
            advance()
    return found


def _described(dataset: FaceDataset) -> dict[str, Any]:
    import numpy as np

    from pocketnet_fast.data.alignment import CROP_SIZE
    from pocketnet_fast.data.records import RecordDataset

    counts = np.bincount(dataset.labels, minlength=dataset.classes)
    about: dict[str, Any] = {
        "source": dataset.name,
        "kind": type(dataset).__name__.removesuffix("Dataset").lower(),
        "images": len(dataset),
        "identities": dataset.classes,
        "images_per_identity": {
            "min": int(counts.min()),
            "median": float(np.median(counts)),
            "max": int(counts.max()),
        },
        "size": [CROP_SIZE, CROP_SIZE],
    }
    if isinstance(dataset, RecordDataset):
        about["bytes"] = dataset.file.path.stat().st_size
        about["index_rebuilt"] = dataset.file.index_was_rebuilt
    return about


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


def _write_sheet(dataset: FaceDataset, damaged: dict[int, str], path: Path) -> None:
    """Draw the first images of identities that are spread over the dataset, one row each."""
    import numpy as np

    from pocketnet_fast.data.alignment import CROP_SIZE
    from pocketnet_fast.data.images import encode_image
    from pocketnet_fast.files import atomic_write

    rows = []
    shown = np.unique(np.linspace(0, dataset.classes - 1, _SHEET_ROWS).round().astype(int))
    for label in shown:
        held = [int(index) for index in np.flatnonzero(dataset.labels == label) if index not in damaged]
        rows.append(held[:_SHEET_COLUMNS])
    columns = max(map(len, rows))
    if columns == 0:
        raise PocketNetError(
            f"{dataset.name} has no image to show: all those of the identities drawn are damaged"
        )
    side = CROP_SIZE
    sheet: ImageArray = np.full((len(rows) * side, columns * side, 3), 255, np.uint8)
    for row, indices in enumerate(rows):
        for column, index in enumerate(indices):
            tile: npt.NDArray[np.uint8] = dataset.image(index)
            sheet[row * side : (row + 1) * side, column * side : (column + 1) * side] = tile
    with atomic_write(path) as file:
        file.write(encode_image(sheet, path.suffix.lower()))
