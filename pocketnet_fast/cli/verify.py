"""``pocketnet verify``: do two photos show the same person?"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import FaceOptions, FarOption, JsonOption
from pocketnet_fast.cli.output import check_picture, print_json
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.cli.thresholds import Decision, check_options, decide, decision_fields

if TYPE_CHECKING:
    from pocketnet_fast.data.images import ImageArray
    from pocketnet_fast.faces.sources import EmbeddedFace

_THRESHOLD = 0.3


@grouped
def verify(
    first: Annotated[Path, typer.Argument(metavar="A", help="A photo, or a crop with --aligned.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    *,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=-1.0,
            max=1.0,
            help="Cosine similarity from which it is the same person; default: the weights' calibrated one, "
            f"else {_THRESHOLD}.",
        ),
    ] = None,
    far: FarOption = None,
    show: Annotated[
        Path | None, typer.Option(help="Draw boxes, landmarks, crops and result to this .png or .jpg.")
    ] = None,
    faces: FaceOptions,
    as_json: JsonOption = False,
) -> None:
    """Compare the most prominent faces of two photos.

    Prints the cosine similarity, the squared distance of the normalised embeddings (cosine = 1 - distance/2),
    and the decision. The right threshold depends on the model and on how costly each kind of error is:
    `pocketnet calibrate` writes thresholds for false accept rates into the weights, and --far chooses among
    them. Without any, 0.3 accepts 0.14 % of different and 97.9 % of equal pairs of LFW with a MobileFaceNet
    trained on MS1M.

    Example: [bold]pocketnet verify a.jpg b.jpg --far 1e-5 --show result.png[/bold]
    """
    check_options(threshold, far)
    check_picture(show)

    from pocketnet_fast.data.images import read_image
    from pocketnet_fast.files import atomic_write

    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(atomic_write(show)) if show is not None else None
        photos = read_image(first), read_image(second)
        source = faces.source()
        embedder = source.embedder
        decided = decide(embedder.calibration, faces.flip, threshold, far) or _uncalibrated()
        compared = _compare((source.face(photos[0], first), source.face(photos[1], second)), decided)
        if stream is not None and show is not None:
            stream.write(_picture(photos, compared, faces.untrained, show.suffix.lower()))
    if not as_json:
        _print(compared)
        return
    about: dict[str, Any] = {"model": embedder.model_name, "weights": str(faces.weights or "") or None}
    about |= {"untrained": faces.untrained, "engine": embedder.engine, "flip": faces.flip}
    print_json(compared.as_dict() | about)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("verify")(verify)


@dataclass(frozen=True)
class _Compared:
    """Two faces, how like they are, and what follows.

    Attributes:
        faces: The two.
        cosine: The cosine of their embeddings.
        distance: The squared distance of the normalised embeddings.
        decided: By what the decision is made.
    """

    faces: tuple[EmbeddedFace, EmbeddedFace]
    cosine: float
    distance: float
    decided: Decision

    @property
    def same(self) -> bool:
        """Whether they count as one person's."""
        return self.cosine >= self.decided.threshold

    @property
    def decision(self) -> str:
        """The decision in words."""
        return "same person" if self.same else "different people"

    def as_dict(self) -> dict[str, Any]:
        """What JSON says of them."""
        return {
            "cosine": self.cosine,
            "squared_distance": self.distance,
            **decision_fields(self.decided),
            "same": self.same,
            "a": _described(self.faces[0]),
            "b": _described(self.faces[1]),
        }


def _compare(faces: tuple[EmbeddedFace, EmbeddedFace], decided: Decision) -> _Compared:
    import numpy as np

    one, other = (face.embedding.astype(np.float64) for face in faces)
    cosine = float(np.clip(one @ other, -1, 1))
    return _Compared(faces, cosine, 2 - 2 * cosine, decided)


def _uncalibrated() -> Decision:
    note(f"these weights carry no calibrated threshold; deciding at a cosine of {_THRESHOLD}")
    return Decision(_THRESHOLD, "default")


def _picture(
    photos: tuple[ImageArray, ImageArray], compared: _Compared, untrained: bool, suffix: str
) -> bytes:
    from pocketnet_fast.data.images import encode_image
    from pocketnet_fast.faces.drawing import draw_comparison

    decided = compared.decided
    lines = [
        compared.decision,
        f"cosine {compared.cosine:.3f}, threshold {decided.threshold:.3f}{decided.of_far}",
        f"squared distance {compared.distance:.3f}",
    ]
    if untrained:
        lines.append("untrained weights: this means nothing")
    return encode_image(draw_comparison(photos, compared.faces, lines, compared.same), suffix)


def _print(compared: _Compared) -> None:
    for face in compared.faces:
        typer.echo(f"{face.path}: {_summary(face)}")
    typer.echo(f"cosine similarity: {compared.cosine:.4f}")
    typer.echo(f"squared distance:  {compared.distance:.4f}")
    decided = compared.decided
    typer.echo(
        f"{compared.decision} (threshold: cosine {decided.threshold:.3f}{decided.of_far}, squared distance "
        f"{2 - 2 * decided.threshold:.3f})"
    )


def _summary(face: EmbeddedFace) -> str:
    if not face.faces:
        return "aligned crop"
    first, others = face.faces[0], len(face.faces) - 1
    text = f"face of {first.size:.0f} pixels, score {first.score:.2f}, quality {first.quality:.2f}"
    text += f"; the photo was turned by {first.turn} degrees" if first.turn else ""
    return text + (f"; {others} less prominent left aside" if others else "")


def _described(face: EmbeddedFace) -> dict[str, Any]:
    return {"file": face.path, "faces": [found.as_dict() for found in face.faces]}
