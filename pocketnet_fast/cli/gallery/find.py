"""``pocketnet gallery search`` and ``claim``: who a face is, and whether it is a certain person."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketnet_fast.cli.gallery.options import (
    GalleryFlip,
    Where,
    Who,
    on_one_line,
    person_key,
    shown,
    space_of,
)
from pocketnet_fast.cli.loading import (
    AlignedOption,
    DetectorOption,
    EngineOption,
    JsonOption,
    ModelOption,
    SeveralFaces,
    ThreadsOption,
    UntrainedOption,
    UprightOption,
    WeightsOption,
    all_photos,
    load_source,
    note,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.cli.thresholds import FarOption, check_options, decide, decision_fields
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pocketnet_fast.faces.sources import FaceSource
    from pocketnet_fast.gallery.search import Match

_Queries = Annotated[
    list[Path],
    typer.Argument(metavar="PHOTOS", help="Photos and folders of them, or aligned crops with --aligned."),
]
_Threshold = Annotated[
    float | None,
    typer.Option(
        min=-1.0,
        max=1.0,
        help="Least cosine similarity of a match; default: the calibrated one of weights that carry one; "
        "-1 shows all.",
        show_default=False,
    ),
]


def search(
    where: Where,
    queries: _Queries,
    *,
    top: Annotated[int, typer.Option(min=1, help="Matches of each query, at most.")] = 5,
    threshold: _Threshold = None,
    far: FarOption = None,
    margin: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="By how much the best person must exceed the second, else nobody matches."
        ),
    ] = None,
    by: Annotated[
        str, typer.Option("--by", help="person: the best face of each; face: all faces.")
    ] = "person",
    precision: Annotated[
        str, typer.Option(help="fp32: exactly; int8: in bytes, the best candidates exactly (extra int8).")
    ] = "fp32",
    model: ModelOption = None,
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    aligned: AlignedOption = False,
    detector: DetectorOption = None,
    upright: UprightOption = True,
    flip: GalleryFlip = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find whom the most prominent face of each photo looks most like.

    A person's score is that of the best of their faces, a cosine similarity. A threshold that was calibrated
    for pairs accepts a stranger more often the more people the gallery holds; --far chooses a stricter one,
    for a false accept rate that the weights were calibrated for.

    Example: [bold]pocketnet gallery search people.gallery who.jpg --far 1e-5[/bold]
    """
    check_options(threshold, far)

    from pocketnet_fast.gallery.gallery import Gallery
    from pocketnet_fast.gallery.search import check_search

    check_search(top, by, margin, precision)
    queries = all_photos(queries)
    gallery = Gallery(where)
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
    )
    gallery.space.require_same(space_of(source.embedder), where)
    decided = decide(source.embedder.calibration, flip, threshold, far)
    rows, faces = _embedded(source, queries)
    least = -1.0 if decided is None else decided.threshold
    with gallery.snapshot():
        held = len(gallery)
        ranked = gallery.search(rows, top=top, by=by, precision=precision, threads=threads)
    if gallery.cache_problem is not None:
        note(gallery.cache_problem)
    found = [_accepted(matches, least, margin) for matches in ranked]
    if as_json:
        results = [
            {
                "query": str(query),
                "faces": count,
                "matches": [asdict(match) for match in matches],
                "nearest": asdict(nearest[0]) if nearest else None,
            }
            for query, count, matches, nearest in zip(queries, faces, found, ranked, strict=True)
        ]
        about = {"gallery": str(where), "faces": held, "by": by, "precision": precision}
        print_json(about | decision_fields(decided) | {"margin": margin, "results": results})
        return
    for query, matches, nearest in zip(queries, found, ranked, strict=True):
        typer.echo(f"{query}:" + ("" if matches else _nobody(nearest, least, margin)))
        for match in matches:
            typer.echo(f"  {match.score:7.4f}  {_described(match)}")
    if decided is not None and decided.source == "calibration":
        note(f"matches are those from the weights' calibrated threshold of {least:.3f}{decided.of_far} on")


def claim(
    where: Where,
    who: Who,
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photo, or a crop with --aligned.")],
    *,
    threshold: _Threshold = None,
    far: FarOption = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    aligned: AlignedOption = False,
    detector: DetectorOption = None,
    upright: UprightOption = True,
    flip: GalleryFlip = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide whether the most prominent face of a photo is that of a certain person.

    It is compared with this person's faces alone, so that the false accept rate is that of the threshold,
    however many people the gallery holds.

    Example: [bold]pocketnet gallery claim people.gallery "Ann Lee" who.jpg[/bold]
    """
    check_options(threshold, far)

    from pocketnet_fast.gallery.gallery import Gallery

    gallery = Gallery(where)
    person = gallery.person(person_key(who))
    if person.faces == 0:
        raise PocketNetError(f"{where}: there is no face of {shown(person.name)}")
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
    )
    gallery.space.require_same(space_of(source.embedder), where)
    decided = decide(source.embedder.calibration, flip, threshold, far)
    if decided is None:
        raise PocketNetError("the weights carry no calibrated threshold; pass --threshold")
    rows, _ = _embedded(source, [photo])
    result = gallery.claim(rows[0], person.id, threshold=decided.threshold)
    if as_json:
        print_json({"gallery": str(where), "photo": str(photo)} | asdict(result) | decision_fields(decided))
        return
    verdict = "accepted" if result.accepted else "rejected"
    score = 0.0 if result.score is None else result.score
    typer.echo(
        f"{verdict}: {photo} as {shown(result.name)}, cosine {score:.4f}, threshold "
        f"{decided.threshold:.4f}{decided.of_far}"
    )


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("search")(search)
    app.command("claim")(claim)


def _embedded(source: FaceSource, photos: list[Path]) -> tuple[list[npt.NDArray[np.float32]], list[int]]:
    several = SeveralFaces()
    rows, faces = [], []
    with progress(len(photos), "embedding") as advance:
        for face in source.faces(photos, on_photo=advance):
            several.add(face)
            faces.append(len(face.faces))
            rows.append(face.embedding)
    several.say()
    return rows, faces


def _accepted(matches: list[Match], least: float, margin: float | None) -> list[Match]:
    if margin is not None and matches and matches[0].margin is not None and matches[0].margin < margin:
        return []
    return [match for match in matches if match.score >= least]


def _described(match: Match) -> str:
    return shown(match.name) + (f"  ({on_one_line(match.photo)})" if match.photo else "")


def _nobody(nearest: list[Match], threshold: float, margin: float | None) -> str:
    if not nearest:
        return " nobody in the gallery is similar"
    best = nearest[0]
    if best.score >= threshold:
        return (
            f" it is not clear who it is: {shown(best.name)} at {best.score:.3f} exceeds the second by "
            f"{best.margin or 0:.3f}, less than {margin:g}"
        )
    return (
        f" nobody in the gallery is that similar; {shown(best.name)} is nearest at {best.score:.3f}, below "
        f"the threshold of {threshold:.3f}"
    )
