"""The manifest of a gallery: which embeddings it holds, how many, and what its files have to be like."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.files import atomic_write

MANIFEST: Final = "manifest.json"
PARTS: Final = {"embeddings": ".f32", "entries": ".txt", "ends": ".u64"}
_FORMAT: Final = "pocketnet gallery 1"


@dataclass(frozen=True)
class EmbeddingSpace:
    """Which embeddings may be compared: those of one model with one set of weights, made in one way.

    Attributes:
        model: The architecture's name.
        weights_sha256: Hash of the weights, ``models.weights.weights_sha256``.
        flip: Whether the embedding of the mirror image was added.
        dimensions: Length of an embedding.
    """

    model: str
    weights_sha256: str
    flip: bool
    dimensions: int

    def require_same(self, other: EmbeddingSpace, where: object) -> None:
        """Refuse embeddings of another space.

        Raises:
            PocketNetError: Says what differs: model, dimensions, weights or flip.
        """
        if self == other:
            return
        if self.model != other.model:
            found = f"of {self.model}, not of {other.model}"
        elif self.dimensions != other.dimensions:
            found = f"of {self.dimensions} dimensions, not {other.dimensions}"
        elif self.weights_sha256 != other.weights_sha256:
            mine, others = self.weights_sha256[:12], other.weights_sha256[:12]
            found = f"of {self.model} with the weights {mine}, not {others}"
        else:
            found = f"made {_flipped(self.flip)}, not {_flipped(other.flip)}"
        raise PocketNetError(f"{where}: its embeddings are {found}; the two cannot be compared")


@dataclass(frozen=True)
class Index:
    """A search index of a gallery, as its manifest describes it.

    Attributes:
        file: Its name in the gallery's folder.
        rows: How many of the gallery's first rows it holds.
        lists: Into how many parts it divides them.
        probes: How many of the parts a search looks at.
        recall: Mean part of the exact ten best that it finds.
        crc32: Checksum of the file.
    """

    file: str
    rows: int
    lists: int
    probes: int
    recall: float
    crc32: int


@dataclass(frozen=True)
class Manifest:
    """What a gallery's files hold.

    Attributes:
        space: Which embeddings.
        rows: How many.
        bytes: Bytes of each data file that belong to the gallery, by part.
        crc32: Checksum of those bytes.
        files: Name of each data file.
        index: The search index, or None.
        name_by: How names were made of photos, for those who add more; empty if it is not known.
    """

    space: EmbeddingSpace
    rows: int
    bytes: dict[str, int]
    crc32: dict[str, int]
    files: dict[str, str]
    index: Index | None
    name_by: str = ""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace a gallery's manifest in one step.

    Raises:
        PocketNetError: It cannot be written.
    """
    with atomic_write(folder / MANIFEST) as file:
        file.write(json.dumps({"format": _FORMAT} | asdict(manifest), indent=2).encode() + b"\n")


def read_manifest(folder: Path) -> Manifest:
    """Read a gallery's manifest, and see that the data files are there and large enough.

    Raises:
        PocketNetError: No gallery, or the manifest or a data file is damaged; the message names the file.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        reason = "unfinished or no gallery: it has no manifest.json" if folder.is_dir() else "no such gallery"
        raise PocketNetError(f"{folder}: {reason}; `pocketnet gallery build` makes one") from None
    except OSError as error:
        raise PocketNetError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise PocketNetError(f"{path}: damaged: {error}") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise PocketNetError(f"{path}: no manifest of a gallery of this version ({_FORMAT!r})")
    try:
        index = content["index"]
        manifest = Manifest(
            EmbeddingSpace(**content["space"]),
            int(content["rows"]),
            {part: int(content["bytes"][part]) for part in PARTS},
            {part: int(content["crc32"][part]) for part in PARTS},
            {part: str(content["files"][part]) for part in PARTS},
            Index(**index) if index is not None else None,
            str(content.get("name_by", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PocketNetError(f"{path}: damaged: {type(error).__name__} {error}") from None
    names = [*manifest.files.values(), *([manifest.index.file] if manifest.index else [])]
    if any(Path(name).name != name for name in names):
        raise PocketNetError(f"{path}: damaged: it names files outside its folder")
    expected = {"embeddings": 4 * manifest.space.dimensions * manifest.rows, "ends": 8 * manifest.rows}
    for part, size in expected.items():
        if manifest.bytes[part] != size:
            raise PocketNetError(
                f"{path}: damaged: it states {manifest.bytes[part]} bytes of {part}, not {size}"
            )
    for part, name in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise PocketNetError(f"{file}: missing; the gallery's manifest names it")
        size = file.stat().st_size
        if size < manifest.bytes[part]:
            raise PocketNetError(
                f"{file}: truncated: {size} bytes, of which the manifest states {manifest.bytes[part]}"
            )
    return manifest


def _flipped(flip: bool) -> str:
    return "with the mirror image (--flip)" if flip else "without the mirror image (--no-flip)"
