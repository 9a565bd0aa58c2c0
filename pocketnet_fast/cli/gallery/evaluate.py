"""``pocketnet gallery evaluate``: how well people are told apart in a folder of them, strangers included."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.gallery.options import GalleryFlip, on_one_line, shown
from pocketnet_fast.cli.loading import (
    AlignedOption,
    BatchOption,
    DetectorOption,
    EngineOption,
    JsonOption,
    ModelOption,
    SeveralFaces,
    ThreadsOption,
    UntrainedOption,
    UprightOption,
    WeightsOption,
    load_source,
    note,
    photos_below,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.evaluation.open_set import OpenSetResult
    from pocketnet_fast.faces.sources import FaceSource


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
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out photos that cannot be used, naming each.")
    ] = False,
    model: ModelOption = None,
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    aligned: AlignedOption = False,
    detector: DetectorOption = None,
    upright: UprightOption = True,
    flip: GalleryFlip = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    batch: BatchOption = 32,
    as_json: JsonOption = False,
) -> None:
    """Measure open-set identification: rank 1, and how often people are found at a rate of strangers found.

    The first photos of each person by name are enrolled, the others searched twice: among everybody, and
    among everybody but their own person, as strangers are. TPIR is the part of the first searches in which
    the right person comes first above the threshold, FPIR the part of the second with anybody above it.

    Example: [bold]pocketnet gallery evaluate people/ --show confusions.png[/bold]
    """
    import numpy as np

    from pocketnet_fast.evaluation import open_set
    from pocketnet_fast.pictures import require_matplotlib

    if show is not None:
        if show.suffix.lower() != ".png":
            raise PocketNetError(f"{show}: unknown kind of picture; expected .png")
        require_matplotlib()
    rates = fpir or [0.1, 0.01]
    for rate in rates:
        if not 0 < rate < 1:
            raise PocketNetError(f"--fpir is {rate:g}; expected a rate above 0 and below 1")
    names, photos = _people(folder)
    source = load_source(
        model,
        weights,
        untrained,
        aligned=aligned,
        detector=detector,
        upright=upright,
        engine=engine,
        flip=flip,
        threads=threads,
        batch=batch,
    )
    owner_of = {str(path): person for path, person in photos}
    rows, files, people = [], [], []
    several = SeveralFaces()
    report = _report if skip else None
    with progress(len(photos), "embedding") as advance:
        for face in source.faces([path for path, _ in photos], on_photo=advance, on_error=report):
            several.add(face)
            rows.append(face.embedding)
            files.append(face.path)
            people.append(owner_of[face.path])
    several.say()
    if not rows:
        raise PocketNetError("none of the photos could be used")
    owner = np.array(people, np.int64)
    counts: Counter[int] = Counter()
    earlier = np.zeros(len(people), np.int64)
    for place, person in enumerate(people):
        earlier[place] = counts[person]
        counts[person] += 1
    result = open_set.evaluate(
        np.stack(rows), owner, earlier < enrol, fpirs=rates, worst=worst, threads=threads
    )
    if show is not None:
        _draw(show, result, files, [names[person] for person in people], source)
    if as_json:
        print_json({"folder": str(folder), "enrol": enrol} | _fields(result, files))
        return
    typer.echo(
        f"{result.people:,} people enrolled with {result.enrolled:,} photos, {result.probes:,} searched"
    )
    typer.echo(f"rank 1: {100 * result.rank_one:.2f} %")
    for point in result.points:
        few = "" if point.accepted else "  (too few photos to measure this rate)"
        typer.echo(
            f"TPIR {100 * point.tar:.2f} % at FPIR {point.far:g}, cosine above {point.threshold:.4f}{few}"
        )
    wrong = [confusion for confusion in result.confusions if confusion.other_score >= confusion.own_score]
    for confusion in wrong:
        probe, other, own = (on_one_line(files[i]) for i in (confusion.probe, confusion.other, confusion.own))
        typer.echo(
            f"  {probe} is more like {other} ({confusion.other_score:.3f}) than {own} "
            f"({confusion.own_score:.3f})"
        )
    if show is not None:
        note(f"wrote {show}")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("evaluate")(evaluate)


def _people(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    if not folder.is_dir():
        raise PocketNetError(f"{folder} is no folder; expected one with a folder for each person")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 2:
        raise PocketNetError(
            f"{folder} holds {len(folders)} folders; expected one for each of two people or more"
        )
    photos = [(path, person) for person, one in enumerate(folders) for path in photos_below(one)]
    return [one.name for one in folders], photos


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


def _report(error: PocketNetError) -> None:
    note(f"left out: {error}")
