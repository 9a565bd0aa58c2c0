"""``pocketnet faces``: everything about the faces of photos."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketnet_fast.cli.loading import all_photos
from pocketnet_fast.cli.option_groups import grouped
from pocketnet_fast.cli.options import (
    DetectorOption,
    FlipOption,
    JsonOption,
    MaxFacesOption,
    NetworkOptions,
    ThreadsOption,
    UprightOption,
)
from pocketnet_fast.cli.output import print_json
from pocketnet_fast.cli.progress import progress
from pocketnet_fast.cli.remarks import note_left_out
from pocketnet_fast.errors import PocketNetError

if TYPE_CHECKING:
    from pocketnet_fast.data.images import ImageArray
    from pocketnet_fast.faces.analyzer import FaceAnalyzer
    from pocketnet_fast.faces.face import Face


@grouped
def faces(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTOS", help="Photos and folders of them.")],
    *,
    show: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw what was found into copies of the photos.")
    ] = None,
    crops: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the aligned crops, 112x112, as .png.")
    ] = None,
    max_faces: MaxFacesOption = None,
    network: NetworkOptions,
    detector: DetectorOption = None,
    upright: UprightOption = True,
    flip: FlipOption = True,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find all faces of photos: where, how good, which way up, and with --json landmarks and embeddings.

    The most prominent face of a photo comes first. A doubtful one comes last and has no embedding, as nothing
    can be decided by it. Quality is from 0 to 1; faces below 0.05 are decided wrongly most often. A photo
    that cannot be read is named and left out; with none that can, the command fails.

    Example: [bold]pocketnet faces party.jpg --show seen/ --crops crops/[/bold]
    """
    files = all_photos(photos)

    from pocketnet_fast.faces.analyzer import FaceAnalyzer

    analyzer = FaceAnalyzer(
        model=network.network(),
        detector=detector,
        upright=upright,
        flip=flip,
        threads=threads,
        max_faces=max_faces,
    )
    report: list[dict[str, Any]] = []
    for path, found in _analyzed(analyzer, files, _Pictures(show, crops)):
        report.append({"file": str(path), "faces": [_described(face) for face in found]})
        if not as_json:
            _print(path, found)
    if not report:
        raise PocketNetError("none of the photos could be read")
    if as_json:
        print_json(report, indent=None)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("faces")(faces)


def _analyzed(
    analyzer: FaceAnalyzer, files: list[Path], pictures: _Pictures
) -> Iterator[tuple[Path, list[Face]]]:
    """Look for faces in photos, draw them where that is asked for, and name photos that cannot be read."""
    broken: set[Path] = set()

    def left_out(photo: object, error: PocketNetError) -> None:
        assert isinstance(photo, Path)
        broken.add(photo)
        note_left_out(error)

    with progress(len(files), "looking for faces") as advance:
        given = _Given(files, pictures.draws, left_out)
        for found in analyzer.analyze_many(given.photos(), on_error=left_out):
            path, image = given.taken.popleft()
            advance()
            if path not in broken:
                pictures.write(path, image, found)
                yield path, found


class _Given:
    """The photos as the analyzer takes them: files, or read already where they are drawn into later.

    Attributes:
        taken: Path and image, if it was read, of each photo that was taken and whose turn has not come.
    """

    def __init__(
        self, files: list[Path], read: bool, on_error: Callable[[object, PocketNetError], None]
    ) -> None:
        self._files, self._read, self._on_error = files, read, on_error
        self.taken: deque[tuple[Path, ImageArray | None]] = deque()

    def photos(self) -> Iterator[Path | ImageArray]:
        """Give one after the other; those that cannot be read are left out here."""
        from pocketnet_fast.data.images import read_image

        for path in self._files:
            try:
                image = read_image(path) if self._read else None
            except PocketNetError as error:
                self._on_error(path, error)
                continue
            self.taken.append((path, image))
            yield path if image is None else image


class _Pictures:
    """Writes what was asked for; photos of one name in different folders get numbers.

    Attributes:
        draws: Whether faces are drawn into photos, for which these are needed.
    """

    def __init__(self, show: Path | None, crops: Path | None) -> None:
        self._show, self._crops = show, crops
        self.draws = show is not None
        self._seen: dict[str, int] = {}
        for folder in (show, crops):
            if folder is None:
                continue
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PocketNetError(f"{folder}: cannot be a folder: {error.strerror}") from None

    def write(self, path: Path, image: ImageArray | None, found: list[Face]) -> None:
        from pocketnet_fast.data.images import encode_image
        from pocketnet_fast.faces.drawing import draw_faces
        from pocketnet_fast.files import atomic_write

        count = self._seen[path.stem] = self._seen.get(path.stem, 0) + 1
        name = path.stem if count == 1 else f"{path.stem}-{count}"
        if self._show is not None and image is not None:
            with atomic_write(self._show / f"{name}.png") as stream:
                stream.write(encode_image(draw_faces(image, found), ".png"))
        if self._crops is not None:
            for index, face in enumerate(found):
                if face.crop is not None:
                    with atomic_write(self._crops / f"{name}_{index}.png") as stream:
                        stream.write(encode_image(face.crop, ".png"))


def _described(face: Face) -> dict[str, Any]:
    return face.as_dict() | {"embedding": None if face.embedding is None else face.embedding.tolist()}


def _print(path: Path, found: list[Face]) -> None:
    typer.echo(f"{path}: {len(found)} face{'' if len(found) == 1 else 's'}")
    for index, face in enumerate(found):
        left, top, width, height = face.box
        line = (
            f"  {index}  {width:.0f}x{height:.0f} pixels at ({left:.0f}, {top:.0f}), score {face.score:.2f}"
        )
        line += "" if face.quality is None else f", quality {face.quality:.2f}"
        if face.turn:
            line += f", the photo turned by {face.turn} degrees"
        typer.echo(line + (f", doubtful: {face.doubt}" if face.doubt else ""))
