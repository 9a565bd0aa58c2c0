"""``pocketnet embed``: photos or crops to embeddings in a file."""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from pocketnet_fast.cli.loading import all_photos
from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import JsonOption, ManyFacesOptions, SkipImagesOption
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.cli.remarks import note, note_all, note_left_out
from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import make_folder

if TYPE_CHECKING:
    from pocketnet_fast.data.stored_images import ImageInputs
    from pocketnet_fast.faces.embedding_parts import Embedded, Job

_FORMATS = (".npz", ".csv", ".parquet")


@dataclass(frozen=True)
class _PartOptions:
    """Which part of all photos, or that Ray's workers share them."""

    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Of all photos in their order, take those of part I of N, as in 2/8: for N processes on any "
            "machines, each with a file of its own.",
            show_default=False,
        ),
    ] = None
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Embed parts of all photos on the workers of Ray (extra ray), here or on the cluster at "
            "$RAY_ADDRESS. Parts that are finished are not computed again.",
        ),
    ] = False
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Workers of --ray, one thread each without --threads; default: as many as fit."
        ),
    ] = None
    parts: Annotated[
        int | None,
        typer.Option(
            min=1, help="Parts of --ray; default: those begun, or one for 1,000 photos and four a worker."
        ),
    ] = None

    def check(self) -> None:
        """Refuse options that exclude each other."""
        if self.ray and self.shard is not None:
            raise PocketNetError("--ray and --shard exclude each other")
        if not self.ray and (self.workers is not None or self.parts is not None):
            raise PocketNetError("--workers and --parts are of --ray")
        self.numbers()

    def numbers(self) -> tuple[int, int]:
        """Which part, and of how many."""
        if self.shard is None:
            return 1, 1
        given = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", self.shard)
        if given is None or not 1 <= int(given[1]) <= int(given[2]):
            raise PocketNetError(f"--shard is {self.shard!r}; expected I/N with I from 1 to N, as in 2/8")
        return int(given[1]), int(given[2])


@grouped
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
    all_faces: Annotated[
        bool, typer.Option("--all-faces", help="Every face of a photo, not only the most prominent one.")
    ] = False,
    skip: SkipImagesOption = False,
    part: _PartOptions,
    faces: ManyFacesOptions,
    as_json: JsonOption = False,
) -> None:
    """Embed the most prominent face of each image, or every face that can be recognised.

    Embeddings have length 1, so the product of two is their cosine similarity; the lengths they had are kept
    as norms. An .npz holds files, embeddings, norms, and of detected faces boxes, landmarks, scores,
    qualities and counts; a .csv holds file, norm, and one column per dimension; a .parquet holds a row a face
    (docs/embedding_photos.md). With --all-faces, a photo has a row for each of its faces.

    Example: [bold]pocketnet embed photos/*.jpg -o faces.npz[/bold]
    """
    if output is None and (part.ray or not as_json):
        where = "-o FOLDER" if part.ray else "-o FILE.npz, -o FILE.csv, -o FILE.parquet or --json"
        raise PocketNetError(f"nowhere to put the embeddings: pass {where}")
    if all_faces and faces.aligned:
        raise PocketNetError("--aligned and --all-faces exclude each other")
    part.check()
    if output is not None and not part.ray:
        output = _file(output, part)

    from pocketnet_fast.data.stored_images import ImageInputs
    from pocketnet_fast.faces.embedding_parts import Job

    inputs = ImageInputs(all_photos(images))
    if part.ray and output is not None:
        on_worker = replace(faces, threads=faces.threads or 1)
        _on_ray(Job(on_worker, all_faces, skip), inputs, output, part, as_json)
    else:
        _here(faces, Job(faces, all_faces, skip), inputs, output, part, as_json)


def _here(
    faces: ManyFacesOptions,
    job: Job,
    inputs: ImageInputs,
    output: Path | None,
    part: _PartOptions,
    as_json: bool,
) -> None:
    from pocketnet_fast.faces.embedding_parts import about_part, embed_images
    from pocketnet_fast.faces.embedding_table import as_dicts
    from pocketnet_fast.files import atomic_write

    images = inputs.part(*part.numbers())
    if not images:
        raise PocketNetError(f"--shard {part.shard}: {len(inputs)} photos leave nothing for this part")
    with contextlib.ExitStack() as stack:
        # Opened first, so that a place that cannot be written is known before the work is done.
        stream = stack.enter_context(atomic_write(output)) if output is not None else None
        source = faces.source()
        with progress(len(images), "embedding") as advance:
            found = embed_images(job, source, images, on_image=advance, on_left_out=note_left_out)
        note_all(found.several.remarks())
        if not found.faces:
            raise PocketNetError("none of the images could be used; nothing was written")
        embedder = source.embedder
        about: dict[str, Any] = {"model": embedder.model_name, "weights": str(faces.weights or "") or None}
        about |= {"untrained": faces.untrained, "engine": embedder.engine, "flip": faces.flip}
        if stream is not None and output is not None:
            of_part = about_part(job.about(source), images, *part.numbers(), found)
            _write(stream, output.suffix.lower(), found, about, of_part)
    if as_json:
        print_json(about | {"embeddings": as_dicts(found.faces)}, indent=None)
    if output is not None:
        note(f"wrote {len(found.faces)} embeddings of {embedder.embedding_dim} dimensions to {output}")


def _write(
    stream: BinaryIO, suffix: str, found: Embedded, about: dict[str, Any], of_part: dict[str, Any]
) -> None:
    from pocketnet_fast.faces.embedding_table import write_csv, write_npz
    from pocketnet_fast.faces.parquet_part import write_faces

    if suffix == ".npz":
        write_npz(stream, found.faces, about)
    elif suffix == ".csv":
        write_csv(stream, found.faces)
    else:
        write_faces(stream, found.faces, of_part)


def _on_ray(job: Job, inputs: ImageInputs, folder: Path, part: _PartOptions, as_json: bool) -> None:
    from pocketnet_fast.faces.embedding_on_ray import embed_on_ray

    if folder.suffix.lower() in _FORMATS:
        raise PocketNetError(f"{folder}: --ray writes a folder of .parquet files; pass one with -o")
    source = job.settings.source()
    done = embed_on_ray(
        job, source, inputs, folder, workers=part.workers, parts=part.parts, progress=progress
    )
    if as_json:
        print_json({"output": str(folder)} | job.about(source) | asdict(done))
    if done.faces == 0:
        raise PocketNetError(f"none of the images could be used; the parts in {folder} are empty")
    note(
        f"wrote {done.faces:,} embeddings of {source.embedder.embedding_dim} dimensions to {folder}, in "
        f"{done.parts:,} parts"
    )


def _file(output: Path, part: _PartOptions) -> Path:
    """The file that is meant: of a folder, which is made, the one that ``--ray`` gives this part."""
    from pocketnet_fast.data.parquet_file import require_pyarrow
    from pocketnet_fast.faces.parquet_part import part_name

    if part.shard is not None and (output.is_dir() or not output.suffix):
        make_folder(output)
        output = output / part_name(*part.numbers())
    if output.suffix.lower() not in _FORMATS:
        raise PocketNetError(f"{output}: unknown kind of file; expected {', '.join(_FORMATS)}")
    if output.suffix.lower() == ".parquet":
        require_pyarrow()
    return output


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("embed")(embed)
