"""Pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pocketnet_fast.errors import PocketNetError
from readers.checksums import png_with_checksums
from readers.target import ROOT, Target


def _read_image_header(data: bytes, folder: Path) -> None:
    from pocketnet_fast.data.image_header import DamagedError, UnreadError, read_header, what_is
    from pocketnet_fast.data.jpeg_file import check_jpeg

    what_is(data)
    data = png_with_checksums(data)
    try:
        header = read_header(data)
        if data.startswith(b"\xff\xd8"):
            check_jpeg(data)
    except (DamagedError, UnreadError) as error:
        raise PocketNetError(str(error)) from None
    assert header.width > 0 and header.height > 0


def _read_image(data: bytes, folder: Path) -> None:
    from pocketnet_fast.data.images import ImageLimits, decode_image

    image = decode_image(png_with_checksums(data), limits=ImageLimits(pixels=1 << 20, bytes=1 << 20))
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size > 0


def _image_seeds() -> Iterator[bytes]:
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from hostile_files import hostile
        from image_files import readable
    finally:
        sys.path.pop(0)
    yield from (case.data for case in readable() if len(case.data) < 20_000)
    yield from (data for data in hostile().values() if len(data) < 20_000)


TARGETS = {
    "image_header": Target(
        _read_image_header, _image_seeds, (b"RIFF", b"WEBP", b"ftypavif", b"Exif\0\0", b"II*\0", b"meta")
    ),
    "image": Target(
        _read_image, _image_seeds, (b"RIFF", b"WEBP", b"ftypavif", b"Exif\0\0", b"II*\0", b"IHDR"), 20_000
    ),
}
