"""Lists of images as MegaFace and FaceScrub publish them, and lists of those that are noise.

A list is the development kit's JSON, an object with ``path`` and, of probes, ``id`` (for example
``facescrub_features_list.json`` and ``megaface_features_list.json_1000000_1``), or text with a path a line;
the identity is then the folder that the image lies in. A noise list is text with a name a line, the last
parts of a path: ``Aaron_Eckhart_136.png`` for FaceScrub, ``375/37531198@N00/4174611825_0.jpg`` for MegaFace.
Where a line has tabs, the name is the second field; lines that start with ``#`` are remarks.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pocketnet_fast.errors import PocketNetError


@dataclass(frozen=True)
class FaceList:
    """Images and who they show.

    Attributes:
        paths: Relative to a folder of images or features.
        ids: The identity of each.
    """

    paths: list[str]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.paths)


def read_face_list(path: str | os.PathLike[str]) -> FaceList:
    """Read a list in either form.

    Raises:
        PocketNetError: No such file, no list, a path that is empty or leads out of its folder, or a number of
            identities other than that of paths.
    """
    path = Path(path)
    text = _read_text(path)
    if text.lstrip().startswith("{"):
        paths, ids = _from_json(path, text)
    else:
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
        paths = [line for _, line in lines if line]
        ids = None
    if not paths:
        raise PocketNetError(f"{path}: holds no paths")
    for place, name in enumerate(paths):
        if name.startswith("/") or ".." in PurePosixPath(name).parts or not PurePosixPath(name).name:
            raise PocketNetError(f"{path}, entry {place}: {name!r} is no path inside a folder")
    if ids is None:
        ids = [PurePosixPath(name).parent.name for name in paths]
    return FaceList(paths, ids)


def read_noise_list(path: str | os.PathLike[str]) -> frozenset[tuple[str, ...]]:
    """Read the names of images to leave out, as ``is_noise`` takes them.

    Raises:
        PocketNetError: No such file, or it names nothing.
    """
    names = set()
    for line in _read_text(Path(path)).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.strip().split("\t")
        names.add(_parts(fields[1] if len(fields) > 1 else fields[0]))
    if not names:
        raise PocketNetError(f"{path}: names no images; expected a name a line")
    return frozenset(names)


def is_noise(path: str, noise: frozenset[tuple[str, ...]]) -> bool:
    """Whether the last parts of a path are on the list.

    Suffixes do not count, and blanks are underscores: FaceScrub's copies differ in both.
    """
    parts = _parts(path)
    return any(parts[first:] in noise for first in range(len(parts)))


def without_noise(faces: FaceList, noise: frozenset[tuple[str, ...]]) -> list[int]:
    """Places of the images that are not on the list."""
    return [place for place, path in enumerate(faces.paths) if not is_noise(path, noise)]


def _parts(path: str) -> tuple[str, ...]:
    name = PurePosixPath(path.strip().replace(" ", "_"))
    return name.with_suffix("").parts if name.name else ()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PocketNetError(f"{path}: no such list") from None
    except OSError as error:
        raise PocketNetError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise PocketNetError(f"{path}: no text in UTF-8 at byte {error.start}") from None


def _from_json(path: Path, text: str) -> tuple[list[str], list[str] | None]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PocketNetError(f"{path}: damaged: {error}") from None
    paths, ids = content.get("path"), content.get("id")
    if not isinstance(paths, list) or not all(isinstance(name, str) for name in paths):
        raise PocketNetError(f"{path}: expected an object with a list of paths, 'path'")
    if ids is None:
        return paths, None
    if not isinstance(ids, list) or len(ids) != len(paths):
        raise PocketNetError(f"{path}: expected an identity, 'id', for each of the {len(paths)} paths")
    return paths, [str(name) for name in ids]
