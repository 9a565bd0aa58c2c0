"""``pocketnet embed``: photos or crops to embeddings in a file."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from pocketnet_fast.cli.loading import (
    AlignedOption,
    BatchOption,
    DetectorOption,
    EngineOption,
    FlipOption,
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
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.faces.sources import EmbeddedFace

_FORMATS = (".npz", ".csv")


def embed(
    images: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTOS", help="Photos and folders of them, or aligned crops with --aligned."),
    ],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write, .npz or .csv.")
    ] = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    aligned: AlignedOption = False,
    detector: DetectorOption = None,
    upright: UprightOption = True,
    flip: FlipOption = True,
    all_faces: Annotated[
        bool, typer.Option("--all-faces", help="Every face of a photo, not only the most prominent one.")
    ] = False,
    skip: Annotated[
        bool, typer.Option("--skip", help="Leave out images that cannot be used, naming each.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Of all photos in their order, take those of part I of N, as in 2/8: for N processes on any "
            "machines, each with a file of its own.",
            show_default=False,
        ),
    ] = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    batch: BatchOption = 32,
    as_json: JsonOption = False,
) -> None:
    """Embed the most prominent face of each image, or every face that can be recognised.

    Embeddings have length 1, so the product of two is their cosine similarity; the lengths they had are kept
    as norms. An .npz holds files, embeddings, norms, and of detected faces boxes, landmarks, scores,
    qualities and counts; a .csv holds file, norm, and one column per dimension. With --all-faces, a photo has
    a row for each of its faces.

    Example: [bold]pocketnet embed photos/*.jpg -o faces.npz[/bold]
    """
    if output is None and not as_json:
        raise PocketNetError("nowhere to put the embeddings: pass -o FILE.npz, -o FILE.csv or --json")
    if output is not None and output.suffix.lower() not in _FORMATS:
        raise PocketNetError(f"{output}: unknown kind of file; expected {' or '.join(_FORMATS)}")

    if all_faces and aligned:
        raise PocketNetError("--aligned and --all-faces exclude each other")
    images = _part(all_photos(images), shard)

    from pocketnet_fast.files import atomic_write

    with contextlib.ExitStack() as stack:
        # Opened first, so that a place that cannot be written is known before the work is done.
        stream = stack.enter_context(atomic_write(output)) if output is not None else None
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
        embedder = source.embedder
        table = _Table()
        several = SeveralFaces()
        with progress(len(images), "embedding") as advance:
            report = _report if skip else None
            for face in source.faces(images, every_face=all_faces, on_photo=advance, on_error=report):
                table.faces.append(face)
                if not all_faces:
                    several.add(face)
        several.say()
        if not table.faces:
            raise PocketNetError("none of the images could be used; nothing was written")
        about = {"model": embedder.model_name, "weights": str(weights or "") or None, "untrained": untrained}
        about |= {"engine": embedder.engine, "flip": flip}
        if stream is not None and output is not None:
            if output.suffix.lower() == ".npz":
                table.write_npz(stream, about)
            else:
                table.write_csv(stream)
    if as_json:
        print_json(about | {"embeddings": table.as_dicts()}, indent=None)
    if output is not None:
        note(f"wrote {len(table.faces)} embeddings of {embedder.embedding_dim} dimensions to {output}")


def _part(images: list[Path], shard: str | None) -> list[Path]:
    """Every N-th image from the I-th on, so that parts are of like size and of like photos."""
    if shard is None:
        return images
    given = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    if given is None or not 1 <= int(given[1]) <= int(given[2]):
        raise PocketNetError(f"--shard is {shard!r}; expected I/N with I from 1 to N, as in 2/8")
    part = images[int(given[1]) - 1 :: int(given[2])]
    if not part:
        raise PocketNetError(f"--shard {shard}: {len(images)} photos leave nothing for this part")
    return part


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("embed")(embed)


class _Table:
    def __init__(self) -> None:
        self.faces: list[EmbeddedFace] = []

    def write_npz(self, stream: BinaryIO, about: dict[str, Any]) -> None:
        import numpy as np

        columns: dict[str, Any] = {
            "files": np.array([face.path for face in self.faces]),
            "embeddings": np.stack([face.embedding for face in self.faces]),
            "norms": np.array([face.norm for face in self.faces], np.float32),
            "about": np.array(json.dumps(about)),
        }
        if self.faces[0].faces:
            chosen = [face.faces[0] for face in self.faces]
            columns["boxes"] = np.array([face.box for face in chosen])
            columns["landmarks"] = np.stack([face.landmarks for face in chosen])
            columns["scores"] = np.array([face.score for face in chosen])
            columns["qualities"] = np.array([face.quality for face in chosen])
            columns["counts"] = np.array([len(face.faces) for face in self.faces])
        np.savez(stream, **columns)

    def write_csv(self, stream: BinaryIO) -> None:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(text)
        writer.writerow(["file", "norm", *(f"e{index}" for index in range(len(self.faces[0].embedding)))])
        for face in self.faces:
            # Nine digits give a float32 back exactly.
            writer.writerow([face.path, f"{face.norm:.9g}", *(f"{value:.9g}" for value in face.embedding)])
        text.flush()
        text.detach()

    def as_dicts(self) -> list[dict[str, Any]]:
        rows = []
        for face in self.faces:
            row: dict[str, Any] = {"file": face.path, "embedding": face.embedding.tolist(), "norm": face.norm}
            if face.faces:
                first = face.faces[0]
                row |= {"box": first.box, "landmarks": first.landmarks.tolist(), "score": first.score}
                row |= {"quality": first.quality, "faces": len(face.faces)}
            rows.append(row)
        return rows


def _report(error: PocketNetError) -> None:
    note(f"left out: {error}")
