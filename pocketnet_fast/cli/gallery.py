"""``pocketnet gallery``: a gallery of faces on disk, and who a face looks most like."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    all_photos,
    load_source,
    note,
    photos_below,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress, waiting
from pocketnet_fast.cli.thresholds import FarOption, check_options, decide, decision_fields
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pocketnet_fast.faces.pipeline import Embedder
    from pocketnet_fast.faces.sources import FaceSource
    from pocketnet_fast.gallery.manifest import EmbeddingSpace
    from pocketnet_fast.gallery.store import Gallery, Match

_NAMED_BY = ("file", "folder")

_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", help="Keep faces with names, and search among them."
)

_Where = Annotated[Path, typer.Argument(metavar="GALLERY", help="The gallery's folder.")]
_Photos = Annotated[
    list[Path] | None,
    typer.Argument(metavar="PHOTOS", help="Photos, and folders whose photos are all taken."),
]
_Table = Annotated[
    Path | None,
    typer.Option("--csv", help="Take photos and names from this file with the columns file and name."),
]
_NamedBy = Annotated[
    str | None,
    typer.Option(
        "--name-by",
        help="Name a photo by its file, or by the folder that it lies in. Default: file; where photos are "
        "added, as the gallery was built.",
        show_default=False,
    ),
]
_Duplicates = Annotated[
    bool,
    typer.Option("--duplicates", help="Keep photos whose embedding the gallery holds under the same name."),
]
_Flip = Annotated[
    bool,
    typer.Option(
        "--flip/--no-flip", help="Add the embeddings of the mirror images; queries must do the same."
    ),
]
_Skip = Annotated[bool, typer.Option("--skip", help="Leave out photos that cannot be used, naming each.")]


@_app.command()
def build(
    photos: _Photos = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The gallery's folder.")],
    table: _Table = None,
    name_by: _NamedBy = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the gallery that is there.")
    ] = False,
    model: ModelOption = None,
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    aligned: AlignedOption = False,
    detector: DetectorOption = None,
    upright: UprightOption = True,
    flip: _Flip = True,
    skip: _Skip = False,
    duplicates: _Duplicates = False,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    batch: BatchOption = 32,
    as_json: JsonOption = False,
) -> None:
    """Make a gallery of the most prominent face of each photo.

    The gallery appears when all photos are done. It keeps the model's name, the hash of its weights and
    whether mirror images were added, and takes no embeddings or queries made in another way.

    Example: [bold]pocketnet gallery build people/ --name-by folder -o gallery[/bold]
    """
    from pocketnet_fast.gallery.store import Gallery

    name_by = name_by or "file"
    named = _named_photos(photos or [], table, name_by)
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
    rule = "" if table is not None else name_by
    with Gallery.building(output, _space(source.embedder), overwrite=overwrite, name_by=rule) as append:
        added = _append(append, named, source, skip, _Known(None, duplicates))
    _report_size(Gallery(output), added, as_json)


@_app.command()
def add(
    where: _Where,
    photos: _Photos = None,
    *,
    table: _Table = None,
    name_by: _NamedBy = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    aligned: AlignedOption = False,
    detector: DetectorOption = None,
    upright: UprightOption = True,
    flip: _Flip = True,
    skip: _Skip = False,
    duplicates: _Duplicates = False,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    batch: BatchOption = 32,
    as_json: JsonOption = False,
) -> None:
    """Add photos to a gallery: all of them, or after an error or a kill none.

    Example: [bold]pocketnet gallery add gallery new/*.jpg[/bold]
    """
    from pocketnet_fast.gallery.store import Gallery

    gallery = Gallery(where)
    named = _named_photos(photos or [], table, name_by or gallery.name_by or "file")
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
    gallery.space.require_same(_space(source.embedder), where)
    known = _Known(gallery, duplicates)
    with gallery.adding() as append:
        added = _append(append, named, source, skip, known)
    if added and gallery.index is not None:
        note("the index lacks the new rows; `pocketnet gallery index` builds it again")
    _report_size(gallery, added, as_json)


@_app.command()
def search(
    where: _Where,
    queries: Annotated[
        list[Path],
        typer.Argument(metavar="PHOTOS", help="Photos and folders of them, or aligned crops with --aligned."),
    ],
    *,
    top: Annotated[int, typer.Option(min=1, help="Matches of each query, at most.")] = 5,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=-1.0,
            max=1.0,
            help="Least cosine similarity of a match; default: the calibrated one of weights that carry one; "
            "-1 shows all.",
            show_default=False,
        ),
    ] = None,
    far: FarOption = None,
    use_index: Annotated[
        bool, typer.Option("--index", help="Search the faiss index, which may miss matches.")
    ] = False,
    probes: Annotated[
        int | None, typer.Option(min=1, help="Lists of the index to read; default: as it was built.")
    ] = None,
    model: ModelOption = None,
    weights: WeightsOption = None,
    untrained: UntrainedOption = False,
    aligned: AlignedOption = False,
    detector: DetectorOption = None,
    upright: UprightOption = True,
    flip: _Flip = True,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find whom the most prominent face of each photo looks most like.

    The search is exact unless --index is given. Scores are cosine similarities. A threshold that was
    calibrated for pairs accepts a stranger more often the more people the gallery holds; --far chooses a
    stricter one, for a false accept rate that the weights were calibrated for.

    Example: [bold]pocketnet gallery search gallery who.jpg --far 1e-5[/bold]
    """
    check_options(threshold, far)
    if probes is not None and not use_index:
        raise PocketNetError("--probes is about the index; pass --index too")

    from pocketnet_fast.gallery.index import IndexedSearch
    from pocketnet_fast.gallery.store import Gallery

    queries = all_photos(queries)
    gallery = Gallery(where)
    indexed = IndexedSearch(gallery, probes=probes) if use_index else None
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
    gallery.space.require_same(_space(source.embedder), where)
    decided = decide(source.embedder.calibration, flip, threshold, far)
    several = SeveralFaces()
    rows, faces = [], []
    with progress(len(queries), "embedding") as advance:
        for face in source.faces(queries, on_photo=advance):
            several.add(face)
            faces.append(len(face.faces))
            rows.append(face.embedding)
    several.say()
    if indexed is not None:
        ranked = indexed.search(rows, top=top)
    else:
        ranked = gallery.search(rows, top=top, threads=threads)
    least = -1.0 if decided is None else decided.threshold
    found = [[match for match in matches if match.score >= least] for matches in ranked]
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
        about = {
            "gallery": str(where),
            "rows": len(gallery),
            **decision_fields(decided),
            "exact": not use_index,
        }
        print_json(about | {"results": results})
        return
    for query, matches, nearest in zip(queries, found, ranked, strict=True):
        typer.echo(f"{query}:" + ("" if matches else _nobody(nearest, least)))
        for match in matches:
            typer.echo(f"  {match.score:7.4f}  {_described_match(match)}")
    if decided is not None and decided.source == "calibration":
        note(f"matches are those from the weights' calibrated threshold of {least:.3f}{decided.of_far} on")


@_app.command()
def info(
    where: _Where,
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not compare the data with their checksums.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a gallery holds, after comparing all of it with its checksums.

    Example: [bold]pocketnet gallery info gallery[/bold]
    """
    from pocketnet_fast.gallery.store import Gallery

    gallery = Gallery(where)
    if not quick:
        with progress(len(gallery), "checking") as advance:
            gallery.verify(advance)
    about = _described(gallery) | {"checked": not quick}
    if as_json:
        print_json(about)
        return
    space = gallery.space
    typer.echo(f"{where}: {len(gallery):,} faces, {about['bytes']:,} bytes")
    typer.echo(
        f"embeddings: {space.dimensions} dimensions of {space.model}, mirror image added: {space.flip}"
    )
    typer.echo(f"weights: SHA-256 {space.weights_sha256}")
    if gallery.index is None:
        typer.echo("index: none; searches are exact")
    else:
        index = gallery.index
        typer.echo(
            f"index: {index.rows:,} rows in {index.lists} lists; reading {index.probes} of them finds "
            f"{100 * index.recall:.1f} % of the ten best"
        )
    typer.echo("not compared with its checksums" if quick else "all data match their checksums")


@_app.command("index")
def build_index_command(
    where: _Where,
    *,
    lists: Annotated[
        int | None,
        typer.Option(min=1, help="Lists to divide it into; default: 4 times the root of its rows."),
    ] = None,
    probes: Annotated[int, typer.Option(min=1, help="Lists that a search reads.")] = 16,
    as_json: JsonOption = False,
) -> None:
    """Build the faiss index that `search --index` uses, and measure what part of the exact matches it finds.

    Example: [bold]pocketnet gallery index gallery --probes 32[/bold]
    """
    from pocketnet_fast.gallery.index import build_index
    from pocketnet_fast.gallery.store import Gallery

    gallery = Gallery(where)
    with waiting("indexing"):
        index = build_index(gallery, lists=lists, probes=probes)
    if as_json:
        print_json(asdict(index))
        return
    typer.echo(f"{index.rows:,} rows in {index.lists} lists, of which a search reads {index.probes}")
    typer.echo(f"recall: {100 * index.recall:.1f} % of the exact ten best")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(_app, name="gallery")


def _space(embedder: Embedder) -> EmbeddingSpace:
    from pocketnet_fast.gallery.manifest import EmbeddingSpace

    return EmbeddingSpace(embedder.model_name, embedder.weights_sha256, embedder.flip, embedder.embedding_dim)


def _named_photos(photos: list[Path], table: Path | None, name_by: str) -> list[tuple[str, Path]]:
    if name_by not in _NAMED_BY:
        raise PocketNetError(f"unknown --name-by {name_by!r}; expected one of {', '.join(_NAMED_BY)}")
    if bool(photos) == (table is not None):
        raise PocketNetError("pass either photos or --csv FILE")
    if table is not None:
        return list(_read_table(table))
    named = []
    for photo in photos:
        for path in photos_below(photo) if photo.is_dir() else [photo]:
            # Resolved, so that a photo given by its file name alone has the folder it lies in.
            named.append((path.stem if name_by == "file" else path.resolve().parent.name, path))
    return named


def _read_table(path: Path) -> Iterator[tuple[str, Path]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"file", "name"} <= set(reader.fieldnames or ()):
                raise PocketNetError(f"{path}, line 1: expected the columns file and name")
            for row in reader:
                if not row["file"] or not row["name"]:
                    raise PocketNetError(f"{path}, line {reader.line_num}: expected a file and a name")
                yield row["name"], path.parent / row["file"]
    except OSError as error:
        raise PocketNetError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise PocketNetError(f"{path} is no CSV file in UTF-8: {error}") from None


def _append(
    append: Callable[..., None],
    named: list[tuple[str, Path]],
    source: FaceSource,
    skip: bool,
    known: _Known,
) -> int:
    """Embed all and append batch by batch, so that memory does not grow; returns the number of rows."""
    used = added = 0
    several = SeveralFaces()
    # Files that cannot be used are missing from what comes back; their names are passed over.
    pending = iter(named)
    with progress(len(named), "embedding") as advance:
        found = source.faces(
            [path for _, path in named], on_photo=advance, on_error=_report if skip else None
        )
        while faces := list(islice(found, source.embedder.batch_size)):
            names = [next(name for name, path in pending if str(path) == face.path) for face in faces]
            rows, sources = [face.embedding for face in faces], [face.path for face in faces]
            for face in faces:
                several.add(face)
            used += len(rows)
            new = known.new(names, rows, sources)
            if new:
                append([names[i] for i in new], [rows[i] for i in new], [sources[i] for i in new])
            added += len(new)
    several.say()
    known.say()
    if used == 0:
        raise PocketNetError("none of the photos could be used; nothing was written")
    return added


def _described_match(match: Match) -> str:
    return match.name + (f"  ({match.source})" if match.source else "")


def _nobody(nearest: list[Match], threshold: float) -> str:
    if not nearest:
        return " nobody in the gallery is similar"
    best = nearest[0]
    return (
        f" nobody in the gallery is that similar; {best.name} is nearest at {best.score:.3f}, below the "
        f"threshold of {threshold:.3f}"
    )


class _Known:
    """Tells photos that a gallery holds already: their embedding, under the same name.

    Args:
        gallery: What photos are added to; None for a new one.
        keep: Leave none out.
    """

    _SHOWN = 5
    # Rounding is below 1e-6; two photos of one person are much further apart.
    _SAME = 0.99999

    def __init__(self, gallery: Gallery | None, keep: bool) -> None:
        self._gallery, self._keep = gallery, keep
        self._seen: dict[bytes, tuple[str, str]] = {}
        self._remarks: list[str] = []

    def new(self, names: list[str], rows: list[npt.NDArray[np.float32]], sources: list[str]) -> list[int]:
        """Which of a batch's rows are to be added."""
        new = []
        for i, held in enumerate(self._held(names, rows, sources)):
            if held is None:
                new.append(i)
                continue
            name, source = held
            if name != names[i]:
                self._remarks.append(
                    f"{sources[i]} is named {names[i]}, and the same photo is {name} ({source})"
                )
                new.append(i)
            elif self._keep:
                new.append(i)
            else:
                self._remarks.append(f"left out {sources[i]}: the gallery holds it as {name} ({source})")
        return new

    def _held(
        self, names: list[str], rows: list[npt.NDArray[np.float32]], sources: list[str]
    ) -> Iterator[tuple[str, str] | None]:
        from hashlib import blake2b

        found: list[list[Match]] = [[] for _ in rows]
        if rows and self._gallery is not None and len(self._gallery):
            found = self._gallery.search(rows, top=3, threshold=self._SAME)
        for name, row, source, matches in zip(names, rows, sources, found, strict=True):
            key = blake2b(row.tobytes(), digest_size=16).digest()
            best = next((match for match in matches if match.name == name), None) or next(iter(matches), None)
            if best is not None:
                yield best.name, best.source
            else:
                yield self._seen.get(key)
            self._seen.setdefault(key, (name, source))

    def say(self) -> None:
        """Say what was left out or looks wrong: the first ones, and how many more."""
        for remark in self._remarks[: self._SHOWN]:
            note(remark)
        if len(self._remarks) > self._SHOWN:
            note(f"and {len(self._remarks) - self._SHOWN:,} more photos that are in the gallery already")


def _report(error: PocketNetError) -> None:
    note(f"left out: {error}")


def _described(gallery: Gallery) -> dict[str, Any]:
    about: dict[str, Any] = {"gallery": str(gallery.path), "rows": len(gallery)}
    about |= asdict(gallery.space) | {"bytes": gallery.bytes_on_disk()}
    return about | {"index": asdict(gallery.index) if gallery.index is not None else None}


def _report_size(gallery: Gallery, added: int, as_json: bool) -> None:
    if as_json:
        print_json(_described(gallery) | {"added": added})
    else:
        typer.echo(f"{gallery.path}: added {added:,} faces; it holds {len(gallery):,}")
