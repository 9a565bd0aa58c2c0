"""``pocketnet megaface``: features for the MegaFace challenge, and its scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.embedding import embedded_faces
from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import JsonOption, ManyFacesOptions, SkipImagesOption, ThreadsOption
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.cli.remarks import note
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pocketnet_fast.evaluation.face_list import FaceList
    from pocketnet_fast.evaluation.megaface import MegaFaceResult
    from pocketnet_fast.faces.sources import EmbeddedFace

    _Loaded = tuple[FaceList, list[int], npt.NDArray[np.float32]]

SUFFIX = "_pocketnet.bin"

_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="The MegaFace challenge with FaceScrub's probes."
)

_List = typer.Option(help="Images: the kit's JSON, or a path a line.")
_Suffix = Annotated[str, typer.Option(help="What feature files add to the paths of a list.")]


@dataclass(frozen=True, kw_only=True)
class _Sets:
    """Where the probes and the distractors are."""

    probe_list: Annotated[Path, _List]
    probes: Annotated[Path, typer.Option(help="Their features: a folder, or a .bin file with a row each.")]
    distractor_list: Annotated[Path, _List]
    distractors: Annotated[Path, typer.Option(help="Their features, likewise.")]
    suffix: _Suffix = SUFFIX
    probe_noise: Annotated[
        Path | None, typer.Option(help="Probes to leave out, a name a line: facescrub_noises.txt.")
    ] = None
    distractor_noise: Annotated[
        Path | None, typer.Option(help="Distractors to leave out: megaface_noises.txt.")
    ] = None

    def load_probes(self) -> _Loaded:
        """The list, the places in it that are kept, and their features."""
        return _load(self.probe_list, self.probes, self.suffix, self.probe_noise)

    def load_distractors(self) -> _Loaded:
        """The same of the distractors."""
        return _load(self.distractor_list, self.distractors, self.suffix, self.distractor_noise)


@_app.command()
@grouped
def extract(
    images: Annotated[Path, typer.Argument(metavar="LIST", help="Images: the kit's JSON, or a path a line.")],
    *,
    root: Annotated[Path, typer.Option(help="The folder that the paths start from.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for a file per image, or a .bin file for all.")
    ],
    suffix: _Suffix = SUFFIX,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out images that have a feature file.")
    ] = False,
    skip: SkipImagesOption = False,
    faces: ManyFacesOptions,
) -> None:
    """Embed the images of a list into feature files that the development kit reads.

    Each is an OpenCV matrix of float32 with the embedding, of length 1, as a column. With a .bin file as
    output all go into one matrix, a row for each image, which `pocketnet megaface evaluate` reads much
    faster.

    Example: [bold]pocketnet megaface extract facescrub_features_list.json --root facescrub --aligned
    --weights s128.safetensors -o features/facescrub[/bold]
    """
    whole = output.suffix.lower() == ".bin"
    if whole and (skip or resume):
        raise PocketNetError("one file for all images has a row for each: --skip and --resume need a folder")

    from pocketnet_fast.evaluation.face_list import read_face_list

    listed = read_face_list(images).paths
    source = faces.source()
    wanted = [path for path in listed if not (resume and (output / (path + suffix)).exists())]
    found = embedded_faces(source, [root / path for path in wanted], skip=skip)
    if whole:
        done = _write_matrix(output, len(wanted), source.embedder.embedding_dim, found)
    else:
        done = _write_files({str(root / path): output / (path + suffix) for path in wanted}, found)
    note(f"wrote {done:,} embeddings of {source.embedder.embedding_dim} dimensions to {output}")


def _write_matrix(file: Path, rows: int, dimensions: int, found: Iterator[EmbeddedFace]) -> int:
    """Write all into one file, a row each; how many there were."""
    from pocketnet_fast.evaluation.feature_file import writing_features

    done = 0
    with writing_features(file, rows, dimensions) as write:
        for face in found:
            write(face.embedding)
            done += 1
    return done


def _write_files(targets: dict[str, Path], found: Iterator[EmbeddedFace]) -> int:
    """Write each into its own file; how many there were."""
    from pocketnet_fast.evaluation.feature_file import write_embedding
    from pocketnet_fast.files import make_folder

    done = 0
    for face in found:
        target = targets[face.path]
        make_folder(target.parent)
        write_embedding(target, face.embedding)
        done += 1
    return done


@_app.command()
@grouped
def evaluate(
    *,
    sets: _Sets,
    size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Number of distractors; repeatable; default: powers of ten, and all."),
    ] = None,
    rank: Annotated[list[int] | None, typer.Option(min=1, help="Repeatable; default: 1 and 10.")] = None,
    fpr: Annotated[
        list[float] | None, typer.Option(min=0.0, max=1.0, help="Repeatable; default: 1e-6.")
    ] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find every probe's other photos among the distractors, and tell mates from distractors by a threshold.

    Identification: each ordered pair of photos of one person is a search in a gallery of the one photo and
    all distractors. Verification: pairs of photos of one person against all pairs of probe and distractor.
    Equal scores count as errors. Smaller numbers of distractors are the first ones of the list.

    Example: [bold]pocketnet megaface evaluate --probe-list facescrub_features_list.json
    --probes features/facescrub --distractor-list megaface_features_list.json_1000000_1
    --distractors features/megaface.bin --probe-noise facescrub_noises.txt
    --distractor-noise megaface_noises.txt[/bold]
    """
    from pocketnet_fast.evaluation.megaface import evaluate as measure

    people, probe_places, probe_rows = sets.load_probes()
    others, other_places, other_rows = sets.load_distractors()
    with progress(len(other_rows), "scoring") as advance:
        result = measure(
            probe_rows,
            [people.ids[place] for place in probe_places],
            other_rows,
            sizes=size,
            ranks=rank or (1, 10),
            fars=fpr or (1e-6,),
            threads=threads,
            on_rows=advance,
        )
    left_out = len(people) - len(probe_places), len(others) - len(other_places)
    if as_json:
        print_json(_fields(result, left_out))
    else:
        _print(result, left_out)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(_app, name="megaface")


def _load(path: Path, features: Path, suffix: str, noise: Path | None) -> _Loaded:
    from pocketnet_fast.evaluation.face_list import read_face_list, read_noise_list, without_noise
    from pocketnet_fast.evaluation.megaface import load_features

    faces = read_face_list(path)
    places = list(range(len(faces)))
    if noise is not None:
        places = without_noise(faces, read_noise_list(noise))
    with progress(len(places), f"reading {PurePosixPath(features).name}") as advance:
        return faces, places, load_features(faces, features, suffix, places, on_rows=advance)


def _fields(result: MegaFaceResult, left_out: tuple[int, int]) -> dict[str, Any]:
    about = asdict(result) | {"noisy_probes": left_out[0], "noisy_distractors": left_out[1]}
    for entry, size_result in zip(about["sizes"], result.sizes, strict=True):
        entry["verification"] = [point.as_dict() for point in size_result.verification]
    return about


def _print(result: MegaFaceResult, left_out: tuple[int, int]) -> None:
    from rich.console import Console
    from rich.table import Table

    typer.echo(
        f"{result.probes:,} probes of {result.identities:,} people, {result.pairs:,} searches; left out as "
        f"noise: {left_out[0]:,} probes, {left_out[1]:,} distractors"
    )
    table = Table()
    table.add_column("distractors", justify="right")
    for k in result.sizes[0].identification:
        table.add_column(f"rank {k}, %", justify="right")
    for point in result.sizes[0].verification:
        table.add_column(f"TPR at FPR {point.far:g}, %", justify="right")
    for size in result.sizes:
        cells = [f"{100 * rate:.2f}" for rate in size.identification.values()]
        cells += [f"{100 * point.tar:.2f}" + ("" if point.accepted else " *") for point in size.verification]
        table.add_row(f"{size.distractors:,}", *cells)
    Console().print(table)
    if any(point.accepted == 0 for size in result.sizes for point in size.verification):
        typer.echo("* too few pairs to measure this rate; no distractor at all is accepted")
