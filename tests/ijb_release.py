"""A small benchmark in the form of IJB's files, for the tests of readers, measures and command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.alignment import TEMPLATE
from pocketnet_fast.data.images import encode_image
from pocketnet_fast.evaluation.ijb_files import IjbFiles

DIMENSIONS = 24
# How an image encodes its embedding: each number is a square of this many pixels, of value 128 + 16 x.
_SQUARE = 16


@dataclass
class Release:
    """What the files say, and what is needed to compute the results another way."""

    files: IjbFiles
    templates: npt.NDArray[np.int64]
    media: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    embeddings: npt.NDArray[np.float64]
    pairs: npt.NDArray[np.int64]
    subjects: dict[int, int]
    galleries: list[list[int]]
    probes: list[int]


def embed(crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Read the embeddings that ``write_release`` drew into images which alignment leaves as they are."""
    columns = 112 // _SQUARE
    read = [
        crops[:, row * _SQUARE + 8, column * _SQUARE + 8, 0]
        for row, column in (divmod(number, columns) for number in range(DIMENSIONS))
    ]
    return ((np.stack(read, 1).astype(np.float32) - 128) / 16).astype(np.float32)


def _picture(embedding: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    columns = 112 // _SQUARE
    picture = np.full((112, 112, 3), 128, np.uint8)
    for number, value in enumerate(embedding):
        row, column = divmod(number, columns)
        picture[row * _SQUARE : (row + 1) * _SQUARE, column * _SQUARE : (column + 1) * _SQUARE] = (
            128 + 16 * value
        )
    return picture


def write_release(root: Path, name: str = "ijbc", people: int = 14, seed: int = 0) -> Release:
    """Write a benchmark of drawn images, whose embeddings are whole numbers from -7 to 7.

    Every person has a template of several images of several media in one of the galleries, and probes.
    """
    rng = np.random.default_rng(seed)
    centres = rng.integers(-4, 5, (people, DIMENSIONS))
    templates, media, embeddings, subjects = [], [], [], {}
    template = 100
    galleries: list[list[int]] = [[], []]
    probes = []
    for person in range(people):
        for number in range(4):
            template += int(rng.integers(1, 4))
            subjects[template] = 1000 + person
            (galleries[person % 2] if number == 0 else probes).append(template)
            for _ in range(int(rng.integers(1, 5))):
                templates.append(template)
                media.append(int(rng.integers(0, 3)))
                embeddings.append(np.clip(centres[person] + rng.integers(-4, 5, DIMENSIONS), -7, 7))
    order = rng.permutation(len(templates))
    templates, media, embeddings = (np.array(a)[order] for a in (templates, media, embeddings))
    scores = np.round(rng.uniform(0.3, 1, len(order)), 6)

    files = IjbFiles(name, root / "loose_crop", root / "meta")
    files.images.mkdir(parents=True)
    files.meta.mkdir()
    landmarks = " ".join(f"{value:.4f}" for value in TEMPLATE.reshape(-1))
    with files.landmarks.open("w") as points, files.members.open("w") as members:
        for number, embedding in enumerate(embeddings):
            file = f"{number + 1}.png"
            (files.images / file).write_bytes(encode_image(_picture(embedding), ".png"))
            points.write(f"{file} {landmarks} {scores[number]:.6f}\n")
            members.write(f"{file} {templates[number]} {media[number]}\n")
    known = sorted(subjects)
    pairs = np.array([(a, b, subjects[a] == subjects[b]) for a in known for b in known if a < b], np.int64)
    pairs = pairs[rng.permutation(len(pairs))]
    np.savetxt(files.pairs, pairs, "%d")
    for path, held in zip((*files.galleries, files.probes), (*galleries, probes), strict=True):
        rows = [f"{t},{subjects[t]},img/{t}.jpg,7" for t in held for _ in range(2)]
        path.write_text("\n".join(["TEMPLATE_ID,SUBJECT_ID,FILENAME,FACE_X", *rows]) + "\n")
    return Release(
        files, templates, media, scores, embeddings.astype(float), pairs, subjects, galleries, probes
    )


def pooled(release: Release) -> dict[int, npt.NDArray[np.float64]]:
    """The templates' embeddings, medium by medium."""
    found = {}
    for template in np.unique(release.templates):
        mine = release.templates == template
        total = np.zeros(DIMENSIONS)
        for medium in np.unique(release.media[mine]):
            chosen = mine & (release.media == medium)
            total += (release.embeddings[chosen] * release.scores[chosen, None]).mean(0)
        found[int(template)] = total / np.linalg.norm(total)
    return found
