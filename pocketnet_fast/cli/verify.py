"""``pocketnet verify``: do two photos show the same person?"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.loading import (
    AlignedOption,
    DetectorOption,
    EngineOption,
    FlipOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
    UntrainedOption,
    UprightOption,
    WeightsOption,
    load_source,
    note,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.thresholds import Decision, FarOption, check_options, decide, decision_fields
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.faces.sources import EmbeddedFace

_PICTURES = (".png", ".jpg", ".jpeg")
_THRESHOLD = 0.3


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
    model: ModelOption = None,
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    aligned: AlignedOption = False,
    detector: DetectorOption = None,
    upright: UprightOption = True,
    flip: FlipOption = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
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
    if show is not None and show.suffix.lower() not in _PICTURES:
        raise PocketNetError(f"{show}: unknown kind of picture; expected one of {', '.join(_PICTURES)}")

    import numpy as np

    from pocketnet_fast.data.images import encode_image, read_image
    from pocketnet_fast.faces.drawing import draw_comparison
    from pocketnet_fast.files import atomic_write

    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(atomic_write(show)) if show is not None else None
        photos = read_image(first), read_image(second)
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
        embedder = source.embedder
        decided = decide(embedder.calibration, flip, threshold, far) or _uncalibrated()
        faces = source.face(photos[0], first), source.face(photos[1], second)
        one, other = (face.embedding.astype(np.float64) for face in faces)
        cosine = float(np.clip(one @ other, -1, 1))
        distance = 2 - 2 * cosine
        same = cosine >= decided.threshold
        decision = "same person" if same else "different people"
        if stream is not None and show is not None:
            lines = [
                decision,
                f"cosine {cosine:.3f}, threshold {decided.threshold:.3f}{decided.of_far}",
                f"squared distance {distance:.3f}",
            ]
            if untrained:
                lines.append("untrained weights: this means nothing")
            stream.write(encode_image(draw_comparison(photos, faces, lines, same), show.suffix.lower()))

    if as_json:
        result = {
            "cosine": cosine,
            "squared_distance": distance,
            **decision_fields(decided),
            "same": same,
            "a": _described(faces[0]),
            "b": _described(faces[1]),
            "model": embedder.model_name,
            "weights": str(weights or "") or None,
            "untrained": untrained,
            "engine": embedder.engine,
            "flip": flip,
        }
        print_json(result)
        return
    for face in faces:
        typer.echo(f"{face.path}: {_summary(face)}")
    typer.echo(f"cosine similarity: {cosine:.4f}")
    typer.echo(f"squared distance:  {distance:.4f}")
    cut = 2 - 2 * decided.threshold
    typer.echo(
        f"{decision} (threshold: cosine {decided.threshold:.3f}{decided.of_far}, squared distance {cut:.3f})"
    )


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("verify")(verify)


def _uncalibrated() -> Decision:
    note(f"these weights carry no calibrated threshold; deciding at a cosine of {_THRESHOLD}")
    return Decision(_THRESHOLD, "default")


def _summary(face: EmbeddedFace) -> str:
    if not face.faces:
        return "aligned crop"
    first, others = face.faces[0], len(face.faces) - 1
    text = f"face of {first.size:.0f} pixels, score {first.score:.2f}, quality {first.quality:.2f}"
    text += f"; the photo was turned by {first.turn} degrees" if first.turn else ""
    return text + (f"; {others} less prominent left aside" if others else "")


def _described(face: EmbeddedFace) -> dict[str, Any]:
    found = [
        {
            "box": found.box,
            "landmarks": found.landmarks.tolist(),
            "score": found.score,
            "turn": found.turn,
            "doubt": found.doubt,
            "quality": found.quality,
        }
        for found in face.faces
    ]
    return {"file": face.path, "faces": found}
