"""``pocketnet gallery evaluate``: how well people are told apart in a folder of them, strangers included."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.embedding import embedded_faces
from pocketnet_fast.cli.gallery.options import ManyGalleryFaces, on_one_line, shown
from pocketnet_fast.cli.loading import photos_below
from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import JsonOption, SkipOption
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.pictures import require_matplotlib

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pocketnet_fast.evaluation.open_set import OpenSetResult
    from pocketnet_fast.faces.sources import FaceSource


@grouped
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with a folder for each person.")],
    *,
    enrol: Annotated[int, typer.Option(min=1, help="Photos of each person that are enrolled.")] = 1,
    fpir: Annotated[
        list[float] | None,
        typer.Option(
            help="A false positive identification rate; may be repeated. Default: 0.1 and 0.01.",
            show_default=False,
        ),
    ] = None,
    worst: Annotated[int, typer.Option(min=1, help="Confusions to name and draw.")] = 10,
    show: Annotated[
        Path | None, typer.Option(help="Draw the worst confusions to this .png file (extra eval).")
    ] = None,
    skip: SkipOption = False,
    faces: ManyGalleryFaces,
    as_json: JsonOption = False,
) -> None:
    """Measure open-set identification: rank 1, and how often people are found at a rate of strangers found.

    The first photos of each person by name are enrolled, the others searched twice: among everybody, and
    among everybody but their own person, as strangers are. TPIR is the part of the first searches in which
    the right person comes first above the threshold, FPIR the part of the second with anybody above it.

    Example: [bold]pocketnet gallery evaluate people/ --show confusions.png[/bold]
    """
    _check_picture(show)
    rates = fpir or [0.1, 0.01]
    for rate in rates:
        if not 0 < rate < 1:
            raise PocketNetError(f"--fpir is {rate:g}; expected a rate above 0 and below 1")

    from pocketnet_fast.evaluation import open_set

    people = _People.of(folder)
    source = faces.source()
    rows, files, owner = _embedded(source, people, skip)
    enrolled = open_set.first_of_each(owner, enrol)
    result = open_set.evaluate(rows, owner, enrolled, fpirs=rates, worst=worst, threads=faces.threads)
    if show is not None:
        _draw(show, result, files, [people.names[person] for person in owner], source)
    if as_json:
        print_json({"folder": str(folder), "enrol": enrol} | _fields(result, files))
        return
    _print(result, files)
    if show is not None:
        note(f"wrote {show}")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("evaluate")(evaluate)


def _check_picture(show: Path | None) -> None:
    if show is None:
        return
    if show.suffix.lower() != ".png":
        raise PocketNetError(f"{show}: unknown kind of picture; expected .png")
    require_matplotlib()


@dataclass(frozen=True)
class _People:
    """The people of a folder.

    Attributes:
        names: The names of their folders.
        photos: Each with the place of its person among the names.
    """

    names: list[str]
    photos: list[tuple[Path, int]]

    @classmethod
    def of(cls, folder: Path) -> _People:
        """Find them: a folder for each."""
        if not folder.is_dir():
            raise PocketNetError(f"{folder} is no folder; expected one with a folder for each person")
        folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        if len(folders) < 2:
            raise PocketNetError(
                f"{folder} holds {len(folders)} folders; expected one for each of two people or more"
            )
        photos = [(path, person) for person, one in enumerate(folders) for path in photos_below(one)]
        return cls([one.name for one in folders], photos)


def _embedded(
    source: FaceSource, people: _People, skip: bool
) -> tuple[npt.NDArray[np.float32], list[str], npt.NDArray[np.int64]]:
    """The embeddings of all photos that can be used, their files, and whom each shows."""
    import numpy as np

    owner_of = {str(path): person for path, person in people.photos}
    rows, files = [], []
    for face in embedded_faces(source, [path for path, _ in people.photos], skip=skip):
        rows.append(face.embedding)
        files.append(face.path)
    if not rows:
        raise PocketNetError("none of the photos could be used")
    return np.stack(rows), files, np.array([owner_of[file] for file in files], np.int64)


def _print(result: OpenSetResult, files: list[str]) -> None:
    typer.echo(
        f"{result.people:,} people enrolled with {result.enrolled:,} photos, {result.probes:,} searched"
    )
    typer.echo(f"rank 1: {100 * result.rank_one:.2f} %")
    for point in result.points:
        few = "" if point.accepted else "  (too few photos to measure this rate)"
        typer.echo(
            f"TPIR {100 * point.tar:.2f} % at FPIR {point.far:g}, cosine above {point.threshold:.4f}{few}"
        )
    for confusion in result.confusions:
        if confusion.other_score < confusion.own_score:
            continue
        probe, other, own = (on_one_line(files[i]) for i in (confusion.probe, confusion.other, confusion.own))
        typer.echo(
            f"  {probe} is more like {other} ({confusion.other_score:.3f}) than {own} "
            f"({confusion.own_score:.3f})"
        )


def _fields(result: OpenSetResult, files: list[str]) -> dict[str, Any]:
    about = asdict(result) | {"points": [_point(point.as_dict()) for point in result.points]}
    about["confusions"] = [
        {
            "photo": files[confusion.probe],
            "other": files[confusion.other],
            "own": files[confusion.own],
            "other_score": confusion.other_score,
            "own_score": confusion.own_score,
        }
        for confusion in result.confusions
    ]
    return about


def _point(point: dict[str, float | int | None]) -> dict[str, float | int | bool | None]:
    return {
        "fpir": point["far"],
        "tpir": point["tar"],
        "threshold": point["threshold"],
        "measurable": bool(point["accepted"]),
    }


def _draw(show: Path, result: OpenSetResult, files: list[str], names: list[str], source: FaceSource) -> None:
    from pocketnet_fast.evaluation.confusion_picture import ConfusedFaces, draw_confusions

    needed = sorted({face for one in result.confusions for face in (one.probe, one.other, one.own)})
    # Embedded again, because keeping all crops would take the memory of all photos.
    faces = source.faces([files[face] for face in needed])
    crops = {face: found.crop for face, found in zip(needed, faces, strict=True)}
    drawn = [
        ConfusedFaces(
            (crops[one.probe], crops[one.other], crops[one.own]),
            (
                f"searched: {shown(names[one.probe])[:28]}",
                f"{shown(names[one.other])[:28]} {one.other_score:.3f}",
                f"own {one.own_score:.3f}",
            ),
        )
        for one in result.confusions
    ]
    draw_confusions(show, drawn, f"The {len(drawn)} worst of {result.probes:,} searches")
