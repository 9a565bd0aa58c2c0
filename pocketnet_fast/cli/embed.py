"""``pocketnet embed``: photos or crops to embeddings in a file."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from pocketnet_fast.cli.embed_parts import Job, about_part, embed_images
from pocketnet_fast.cli.loading import (
    AlignedOption,
    BatchOption,
    DetectorOption,
    EngineOption,
    FlipOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
    UntrainedOption,
    UprightOption,
    WeightsOption,
    all_photos,
    note,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.data.parquet_file import require_pyarrow
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.data.stored_images import ImageInputs
    from pocketnet_fast.faces.sources import EmbeddedFace

_FORMATS = (".npz", ".csv", ".parquet")


def embed(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTOS",
            help="Photos and folders of them, or aligned crops with --aligned; also record files (.rec) and "
            "tables with a column image (.parquet, extra parquet).",
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File to write, .npz, .csv or .parquet; with --ray, and with --shard if you like, a folder "
            "of .parquet files.",
        ),
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
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Embed parts of all photos on the workers of Ray (extra ray), here or on the cluster at "
            "$RAY_ADDRESS. Parts that are finished are not computed again.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Workers of --ray, one thread each without --threads; default: as many as fit."
        ),
    ] = None,
    parts: Annotated[
        int | None,
        typer.Option(
            min=1, help="Parts of --ray; default: those begun, or one for 1,000 photos and four a worker."
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
    qualities and counts; a .csv holds file, norm, and one column per dimension; a .parquet holds a row a face
    (docs/embedding_photos.md). With --all-faces, a photo has a row for each of its faces.

    Example: [bold]pocketnet embed photos/*.jpg -o faces.npz[/bold]
    """
    if output is None and (ray or not as_json):
        raise PocketNetError(
            "nowhere to put the embeddings: pass -o FOLDER"
            if ray
            else "nowhere to put the embeddings: pass -o FILE.npz, -o FILE.csv, -o FILE.parquet or --json"
        )
    if all_faces and aligned:
        raise PocketNetError("--aligned and --all-faces exclude each other")
    if ray and shard is not None:
        raise PocketNetError("--ray and --shard exclude each other")
    if not ray and (workers is not None or parts is not None):
        raise PocketNetError("--workers and --parts are of --ray")
    number, count = _shard(shard)
    if output is not None and not ray:
        output = _file(output, shard, number, count)

    from pocketnet_fast.data.stored_images import ImageInputs

    inputs = ImageInputs(all_photos(images))
    job = Job(
        model,
        weights,
        untrained,
        aligned,
        detector,
        upright,
        engine,
        flip,
        threads or (1 if ray else None),
        batch,
        every_face=all_faces,
        skip=skip,
    )
    if ray:
        assert output is not None
        _on_ray(job, inputs, output, workers, parts, as_json)
        return
    _here(job, inputs, output, shard, number, count, as_json)


def _here(
    job: Job,
    inputs: ImageInputs,
    output: Path | None,
    shard: str | None,
    number: int,
    count: int,
    as_json: bool,
) -> None:
    from pocketnet_fast.files import atomic_write

    images = inputs.part(number, count)
    if not images:
        raise PocketNetError(f"--shard {shard}: {len(inputs)} photos leave nothing for this part")
    with contextlib.ExitStack() as stack:
        # Opened first, so that a place that cannot be written is known before the work is done.
        stream = stack.enter_context(atomic_write(output)) if output is not None else None
        source = job.source()
        with progress(len(images), "embedding") as advance:
            found = embed_images(job, source, images, on_image=advance, on_left_out=_say_left_out)
        found.several.say()
        if not found.faces:
            raise PocketNetError("none of the images could be used; nothing was written")
        about: dict[str, Any] = {
            "model": source.embedder.model_name,
            "weights": str(job.weights or "") or None,
        }
        about |= {"untrained": job.untrained, "engine": source.embedder.engine, "flip": job.flip}
        table = _Table(found.faces)
        if stream is not None and output is not None:
            suffix = output.suffix.lower()
            if suffix == ".npz":
                table.write_npz(stream, about)
            elif suffix == ".csv":
                table.write_csv(stream)
            else:
                from pocketnet_fast.faces.parquet_part import write_faces

                part = about_part(job.about(source), images, number, count, found)
                write_faces(stream, found.faces, part)
    if as_json:
        print_json(about | {"embeddings": table.as_dicts()}, indent=None)
    if output is not None:
        dimensions = source.embedder.embedding_dim
        note(f"wrote {len(found.faces)} embeddings of {dimensions} dimensions to {output}")


def _on_ray(
    job: Job, inputs: ImageInputs, folder: Path, workers: int | None, parts: int | None, as_json: bool
) -> None:
    from pocketnet_fast.cli.embed_on_ray import embed_on_ray

    if folder.suffix.lower() in _FORMATS:
        raise PocketNetError(f"{folder}: --ray writes a folder of .parquet files; pass one with -o")
    source = job.source()
    done = embed_on_ray(job, source, inputs, folder, workers=workers, parts=parts)
    if as_json:
        print_json({"output": str(folder)} | job.about(source) | asdict(done))
    if done.faces == 0:
        raise PocketNetError(f"none of the images could be used; the parts in {folder} are empty")
    note(
        f"wrote {done.faces:,} embeddings of {source.embedder.embedding_dim} dimensions to {folder}, in "
        f"{done.parts:,} parts"
    )


def _shard(shard: str | None) -> tuple[int, int]:
    """Which part, and of how many."""
    if shard is None:
        return 1, 1
    given = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    if given is None or not 1 <= int(given[1]) <= int(given[2]):
        raise PocketNetError(f"--shard is {shard!r}; expected I/N with I from 1 to N, as in 2/8")
    return int(given[1]), int(given[2])


def _file(output: Path, shard: str | None, number: int, count: int) -> Path:
    """The file that is meant: of a folder, the one that ``--ray`` gives this part."""
    if shard is not None and output.is_dir():
        from pocketnet_fast.faces.parquet_part import part_name

        output = output / part_name(number, count)
    if output.suffix.lower() not in _FORMATS:
        raise PocketNetError(f"{output}: unknown kind of file; expected {', '.join(_FORMATS)}")
    if output.suffix.lower() == ".parquet":
        require_pyarrow()
    return output


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("embed")(embed)


class _Table:
    def __init__(self, faces: list[EmbeddedFace]) -> None:
        self.faces = faces

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


def _say_left_out(reason: str) -> None:
    note(f"left out: {reason}")
