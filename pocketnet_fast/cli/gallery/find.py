"""``pocketnet gallery search`` and ``claim``: who a face is, and whether it is a certain person."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.embedding import embedded_faces
from pocketnet_fast.cli.gallery.options import (
    GalleryFaces,
    Where,
    Who,
    matching_source,
    on_one_line,
    person_key,
    shown,
)
from pocketnet_fast.cli.loading import all_photos
from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import FarOption, JsonOption
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.cli.thresholds import Decision, check_options, decide, decision_fields
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.faces.sources import FaceSource
    from pocketnet_fast.gallery.gallery import Gallery
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


@dataclass(frozen=True)
class _Wanted:
    """Which matches are asked for."""

    top: Annotated[int, typer.Option(min=1, help="Matches of each query, at most.")] = 5
    threshold: _Threshold = None
    far: FarOption = None
    margin: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="By how much the best person must exceed the second, else nobody matches."
        ),
    ] = None
    by: Annotated[str, typer.Option("--by", help="person: the best face of each; face: all faces.")] = (
        "person"
    )
    precision: Annotated[
        str, typer.Option(help="fp32: exactly; int8: in bytes, the best candidates exactly (extra int8).")
    ] = "fp32"

    def check(self) -> None:
        """Refuse what no search takes."""
        from pocketnet_fast.gallery.search import check_search

        check_options(self.threshold, self.far)
        check_search(self.top, self.by, self.margin, self.precision)


@grouped
def search(
    where: Where, queries: _Queries, *, wanted: _Wanted, faces: GalleryFaces, as_json: JsonOption = False
) -> None:
    """Find whom the most prominent face of each photo looks most like.

    A person's score is that of the best of their faces, a cosine similarity. A threshold that was calibrated
    for pairs accepts a stranger more often the more people the gallery holds; --far chooses a stricter one,
    for a false accept rate that the weights were calibrated for.

    Example: [bold]pocketnet gallery search people.gallery who.jpg --far 1e-5[/bold]
    """
    wanted.check()

    from pocketnet_fast.gallery.gallery import Gallery

    queries = all_photos(queries)
    gallery = Gallery(where)
    source = matching_source(faces, gallery, where)
    decided = decide(source.embedder.calibration, faces.flip, wanted.threshold, wanted.far)
    least = -1.0 if decided is None else decided.threshold
    held, answers = _answers(gallery, source, queries, wanted, least, faces.threads)
    if as_json:
        about = {"gallery": str(where), "faces": held, "by": wanted.by, "precision": wanted.precision}
        results = {"margin": wanted.margin, "results": [answer.as_dict() for answer in answers]}
        print_json(about | decision_fields(decided) | results)
    else:
        _print(answers, decided, least, wanted.margin)


@dataclass(frozen=True)
class _Answer:
    """What was found for a photo.

    Attributes:
        query: The photo.
        faces: How many it shows.
        nearest: Who is most like it, the nearest first.
        matches: Those of them who are like enough.
    """

    query: Path
    faces: int
    nearest: list[Match]
    matches: list[Match]

    def as_dict(self) -> dict[str, Any]:
        """What JSON says of it."""
        return {
            "query": str(self.query),
            "faces": self.faces,
            "matches": [asdict(match) for match in self.matches],
            "nearest": asdict(self.nearest[0]) if self.nearest else None,
        }


def _answers(
    gallery: Gallery,
    source: FaceSource,
    queries: list[Path],
    wanted: _Wanted,
    least: float,
    threads: int | None,
) -> tuple[int, list[_Answer]]:
    """How many faces the gallery holds, and what it has for each photo."""
    found = [(face.embedding, len(face.faces)) for face in embedded_faces(source, queries)]
    rows = [embedding for embedding, _ in found]
    with gallery.snapshot():
        held = len(gallery)
        ranked = gallery.search(
            rows, top=wanted.top, by=wanted.by, precision=wanted.precision, threads=threads
        )
    if gallery.cache_problem is not None:
        note(gallery.cache_problem)
    return held, [
        _Answer(query, faces, nearest, _accepted(nearest, least, wanted.margin))
        for query, (_, faces), nearest in zip(queries, found, ranked, strict=True)
    ]


@grouped
def claim(
    where: Where,
    who: Who,
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photo, or a crop with --aligned.")],
    *,
    threshold: _Threshold = None,
    far: FarOption = None,
    faces: GalleryFaces,
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
    source = matching_source(faces, gallery, where)
    decided = decide(source.embedder.calibration, faces.flip, threshold, far)
    if decided is None:
        raise PocketNetError("the weights carry no calibrated threshold; pass --threshold")
    (face,) = embedded_faces(source, [photo])
    result = gallery.claim(face.embedding, person.id, threshold=decided.threshold)
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


def _print(answers: list[_Answer], decided: Decision | None, least: float, margin: float | None) -> None:
    for answer in answers:
        nobody = "" if answer.matches else _nobody(answer.nearest, least, margin)
        typer.echo(f"{answer.query}:{nobody}")
        for match in answer.matches:
            typer.echo(f"  {match.score:7.4f}  {_described(match)}")
    if decided is not None and decided.source == "calibration":
        note(f"matches are those from the weights' calibrated threshold of {least:.3f}{decided.of_far} on")


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
