"""The metadata of IJB-B and IJB-C in the files that the field exchanges them in.

A folder with ``loose_crop/``, the images, and ``meta/`` with, for IJB-C (for IJB-B ``ijbb`` and S1, S2):

- ``ijbc_name_5pts_score.txt``: file, five landmarks x y, detector's score;
- ``ijbc_face_tid_mid.txt``: file, template, medium, line by line for the same images;
- ``ijbc_template_pair_label.txt``: two templates, and 1 if they show one person, else 0;
- ``ijbc_1N_gallery_G1.csv``, ``ijbc_1N_gallery_G2.csv``, ``ijbc_1N_probe_mixed.csv``: a row per image with
  the columns TEMPLATE_ID and SUBJECT_ID, and others.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError

Integers = npt.NDArray[np.int64]

_PREFIXES: Final = ("ijbb", "ijbc")
_GALLERIES: Final = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}
_PAIR_LINES: Final = 1 << 19


class IjbImage(NamedTuple):
    """A line of the list of images.

    Attributes:
        number: Its place in the list, from 0.
        path: The image file.
        landmarks: 5 x 2, x and y in pixels of the image, in the order of ``data.alignment.TEMPLATE``.
        score: The detector's.
    """

    number: int
    path: Path
    landmarks: npt.NDArray[np.float64]
    score: float


class Pairs(NamedTuple):
    """Some pairs of templates.

    Attributes:
        first: N: a template of each.
        second: N: the other.
        same: N bool: whether they show one person.
        line: Number of the line of the first pair, from 1.
    """

    first: Integers
    second: Integers
    same: npt.NDArray[np.bool_]
    line: int


@dataclass(frozen=True)
class IjbFiles:
    """Where the files of a benchmark lie.

    Attributes:
        name: "ijbb" or "ijbc".
        images: Folder of the images.
        meta: Folder of the metadata.
    """

    name: str
    images: Path
    meta: Path

    @property
    def landmarks(self) -> Path:
        """The list of images with landmarks and scores."""
        return self.meta / f"{self.name}_name_5pts_score.txt"

    @property
    def members(self) -> Path:
        """The list of images with template and medium."""
        return self.meta / f"{self.name}_face_tid_mid.txt"

    @property
    def pairs(self) -> Path:
        """The pairs of templates to verify."""
        return self.meta / f"{self.name}_template_pair_label.txt"

    @property
    def galleries(self) -> tuple[Path, Path]:
        """The two galleries."""
        first, second = _GALLERIES[self.name]
        return (
            self.meta / f"{self.name}_1N_gallery_{first}.csv",
            self.meta / f"{self.name}_1N_gallery_{second}.csv",
        )

    @property
    def probes(self) -> Path:
        """The templates to search for."""
        return self.meta / f"{self.name}_1N_probe_mixed.csv"


def find_files(root: str | os.PathLike[str]) -> IjbFiles:
    """Find out which benchmark a folder holds.

    Raises:
        PocketNetError: It has no ``meta`` or ``loose_crop``, or the metadata are of neither benchmark or
            both.
    """
    root = Path(root)
    for name in ("meta", "loose_crop"):
        if not (root / name).is_dir():
            raise PocketNetError(f"{root} has no folder {name}; expected meta and loose_crop")
    found = [
        name
        for name in _PREFIXES
        if any(
            (root / "meta" / f"{name}_{rest}.txt").exists() for rest in ("face_tid_mid", "name_5pts_score")
        )
    ]
    if len(found) != 1:
        raise PocketNetError(f"{root / 'meta'} holds the metadata of {found or 'no benchmark'}; expected one")
    return IjbFiles(found[0], root / "loose_crop", root / "meta")


def read_members(files: IjbFiles) -> tuple[list[str], Integers, Integers]:
    """Read which template and medium each image belongs to.

    Returns:
        Names, templates and media, N each.

    Raises:
        PocketNetError: A missing file or a line of another form; the message names the line.
    """
    path = files.members
    names: list[str] = []
    numbers: list[tuple[int, int]] = []
    with _opened(path) as lines:
        for line, text in enumerate(lines, 1):
            fields = text.split()
            try:
                name, template, medium = fields
                numbers.append((_number(template), _number(medium)))
            except ValueError:
                raise PocketNetError(
                    f"{path}, line {line}: expected a file, a template and a medium, found {_short(text)}"
                ) from None
            names.append(name)
    if not names:
        raise PocketNetError(f"{path}: holds no images")
    columns = np.array(numbers, np.int64)
    return names, columns[:, 0], columns[:, 1]


def iterate_images(files: IjbFiles, names: list[str]) -> Iterator[IjbImage]:
    """Read the images' landmarks and scores one by one.

    Args:
        files: Where they lie.
        names: The names of all images, as ``read_members`` gives them; the lists have to agree.

    Raises:
        PocketNetError: A missing file, a line of another form, numbers that are not finite, a score that is
            negative, or images other than ``names``; the message names the line.
    """
    path = files.landmarks
    count = 0
    with _opened(path) as lines:
        for count, text in enumerate(lines, 1):
            fields = text.split()
            if len(fields) != 12:
                raise PocketNetError(
                    f"{path}, line {count}: expected a file, 10 numbers for the landmarks and a score, found "
                    f"{max(len(fields) - 1, 0)} numbers"
                )
            try:
                numbers = [float(field) for field in fields[1:]]
            except ValueError:
                numbers = [math.nan]
            if not all(map(math.isfinite, numbers)) or numbers[-1] < 0:
                raise PocketNetError(
                    f"{path}, line {count}: landmarks have to be finite, a score not negative: {_short(text)}"
                )
            if count > len(names) or fields[0] != names[count - 1]:
                expected = names[count - 1] if count <= len(names) else "the end"
                raise PocketNetError(
                    f"{path}, line {count}: {fields[0]}, where {files.members.name} has {expected}"
                )
            landmarks = np.array(numbers[:10]).reshape(5, 2)
            yield IjbImage(count - 1, files.images / fields[0], landmarks, numbers[10])
    if count < len(names):
        raise PocketNetError(f"{path}: {count} lines, but {files.members.name} has {len(names)}")


def iterate_pairs(files: IjbFiles) -> Iterator[Pairs]:
    """Read the pairs, half a million at a time.

    Raises:
        PocketNetError: A missing file, a line of another form, or no pairs; the message names the line.
    """
    path = files.pairs
    line = 1
    with _opened(path) as lines:
        while block := list(islice(lines, _PAIR_LINES)):
            try:
                if not any(map(str.strip, block)):
                    raise ValueError("numpy warns of nothing at all")
                columns = np.loadtxt(block, np.int64, comments=None, ndmin=2)
                right = columns.shape == (len(block), 3) and bool(((columns[:, 2] | 1) == 1).all())
            except ValueError:
                right = False
            if not right:
                # What numpy alone refuses is named by the first line.
                wrong = next((place for place, text in enumerate(block) if not _is_pair(text)), 0)
                raise PocketNetError(
                    f"{path}, line {line + wrong}: expected two templates and a label of 0 or 1, found "
                    f"{_short(block[wrong])}"
                )
            yield Pairs(columns[:, 0], columns[:, 1], columns[:, 2] == 1, line)
            line += len(block)
    if line == 1:
        raise PocketNetError(f"{path}: holds no pairs")


def read_subjects(path: Path, known: Integers | None = None) -> tuple[Integers, Integers]:
    """Read the templates of a gallery or of the probes, and whom they show.

    Args:
        path: The file.
        known: The templates that there are; None if that does not matter.

    Returns:
        Templates, rising, and the subject of each.

    Raises:
        PocketNetError: A missing file, other columns, a line of another form, or a template with two subjects
            or not known; the message names the line.
    """
    there = None if known is None else set(known.tolist())
    subjects: dict[int, int] = {}
    with _opened(path) as lines:
        reader = csv.reader(lines)
        header = [name.strip().upper() for name in next(reader, [])]
        if not {"TEMPLATE_ID", "SUBJECT_ID"} <= set(header):
            raise PocketNetError(f"{path}, line 1: expected the columns TEMPLATE_ID and SUBJECT_ID")
        columns = header.index("TEMPLATE_ID"), header.index("SUBJECT_ID")
        for row in reader:
            try:
                template, subject = (_number(row[column]) for column in columns)
            except (ValueError, IndexError):
                raise PocketNetError(
                    f"{path}, line {reader.line_num}: expected numbers of a template and a subject"
                ) from None
            if there is not None and template not in there:
                raise PocketNetError(f"{path}, line {reader.line_num}: template {template} has no image")
            if subjects.setdefault(template, subject) != subject:
                raise PocketNetError(
                    f"{path}, line {reader.line_num}: template {template} shows subject {subject} and, in an "
                    f"earlier line, subject {subjects[template]}"
                )
    if not subjects:
        raise PocketNetError(f"{path}: holds no templates")
    templates = np.array(sorted(subjects), np.int64)
    return templates, np.array([subjects[template] for template in templates.tolist()], np.int64)


def _opened(path: Path) -> TextIO:
    try:
        # A byte that is no ASCII becomes a character that no number has, and is then named with its line.
        return path.open(encoding="ascii", errors="replace", newline="")
    except FileNotFoundError:
        raise PocketNetError(f"{path}: no such file") from None
    except OSError as error:
        raise PocketNetError(f"{path} cannot be read: {error.strerror}") from None


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _number(text: str) -> int:
    """A whole number of 64 bits, or ValueError."""
    value = int(text)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError("too large")
    return value


def _is_pair(text: str) -> bool:
    try:
        _, _, label = map(_number, text.split())
    except ValueError:
        return False
    return label in (0, 1)
