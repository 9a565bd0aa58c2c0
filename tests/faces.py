"""Small datasets of drawn crops for the tests of data."""

from __future__ import annotations

import csv
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.images import ImageArray, encode_image
from pocketnet_fast.data.recordio import ImageRecord, RecordWriter, pack_image
from pocketnet_fast.faces.analyzer import FaceAnalyzer
from pocketnet_fast.faces.sources import FaceSource


def crop(number: int, size: int = 112) -> ImageArray:
    """A smooth picture that its number can be told from."""
    y, x = np.mgrid[0:size, 0:size]
    planes = [(x + 7 * number) % 256, (2 * y + 13 * number) % 256, (x + y + 29 * number) // 2 % 256]
    return np.dstack(planes).astype(np.uint8)


def write_crops(folder: Path, count: int) -> None:
    """The files ``0.png``, ``1.png``, ... of ``crop(0)``, ``crop(1)``, ..."""
    for number in range(count):
        (folder / f"{number}.png").write_bytes(encode_image(crop(number), ".png"))


def write_records(path: Path, labels: list[list[float]], suffix: str = ".png", size: int = 112) -> Path:
    """A record file of ``crop(0)``, ``crop(1)``, ... with these labels and no record 0 of its own."""
    with RecordWriter(path) as writer:
        for key, label in enumerate(labels):
            image = encode_image(crop(key, size), suffix)
            writer.write(key, pack_image(ImageRecord(np.array(label, np.float32), image, key)))
    return path


def write_folder(path: Path, identities: dict[str, int], suffix: str = ".png") -> Path:
    """A folder of folders with this many images each, ``crop(0)``, ``crop(1)``, ... in order of the names."""
    number = 0
    for name in sorted(identities):
        (path / name).mkdir(parents=True)
        for image in range(identities[name]):
            (path / name / f"{image}{suffix}").write_bytes(encode_image(crop(number), suffix))
            number += 1
    return path


def png_of_size(width: int, height: int) -> bytes:
    """A PNG file that announces an image and holds none of it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def photo_cosines(
    photos: Path, analyzer: FaceAnalyzer
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """The cosine of each pair in ``pairs.csv`` of a folder of photos, and whether it is one person."""
    with (photos / "pairs.csv").open(newline="") as stream:
        pairs = list(csv.DictReader(stream))
    paths = [photos / pair[side] for pair in pairs for side in ("left", "right")]
    unit = np.stack([face.embedding for face in FaceSource(analyzer).faces(paths)])
    return (unit[0::2] * unit[1::2]).sum(axis=1), np.array([pair["same"] == "1" for pair in pairs])
