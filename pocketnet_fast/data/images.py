"""Reading image files: whatever they hold, the result is RGB uint8, upright, or one clear error."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.errors import PocketNetError

ImageArray = npt.NDArray[np.uint8]

BACKGROUND: Final = 255  # white, which is what viewers put behind a cut-out portrait

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_ORIENTATION_TAG: Final = 0x0112
# In entropy-coded data 0xFF is followed by 0x00 (a stuffed byte), by a restart marker or by fill bytes.
_NEXT_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Start of frame, which holds the size; 0xC4, 0xC8 and 0xCC mean something else.
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SOI, _JPEG_EOI, _JPEG_SOS, _JPEG_APP1 = 0xD8, 0xD9, 0xDA, 0xE1


class _DamagedError(Exception):
    """Why the container of an image is broken; becomes a PocketNetError that names the file."""


def read_image(path: str | os.PathLike[str]) -> ImageArray:
    """Read an image file; see ``decode_image`` for what becomes of its content.

    Returns:
        H x W x 3 uint8, RGB.

    Raises:
        PocketNetError: no such file, a folder, no permission, or what ``decode_image`` refuses.
    """
    return decode_image(read_bytes(path), str(path))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read a file whole.

    Raises:
        PocketNetError: no such file, a folder, or no permission.
    """
    try:
        return Path(path).read_bytes()
    except IsADirectoryError as error:
        raise PocketNetError(f"{path} is a folder, not an image file") from error
    except FileNotFoundError as error:
        raise PocketNetError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise PocketNetError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def decode_image(data: bytes, name: str = "image") -> ImageArray:
    """Decode an encoded image of any format that OpenCV reads.

    The orientation stored as EXIF is applied (JPEG, PNG, WebP, TIFF). Grey becomes RGB; transparency is
    composited on white; 16 bits per channel are rounded to 8.

    JPEG and PNG are checked for completeness first, because decoders fill what is missing with grey or
    with copies of the last row: a file whose end is missing or whose segments are broken is an error.
    JPEG has no checksum, so damage inside its compressed data that leaves every marker intact cannot be
    told from picture content.

    Args:
        data: the bytes of the file.
        name: how errors call it.

    Returns:
        H x W x 3 uint8, RGB.

    Raises:
        PocketNetError: empty, damaged, truncated, not an image, or with pixels that are not integers.
    """
    if not data:
        raise PocketNetError(f"{name} is empty")
    try:
        orientation = _checked_orientation(data)
    except (_DamagedError, struct.error) as error:
        raise PocketNetError(f"{name} is damaged: {error}") from error
    pixels = _decode(data, name)
    return np.ascontiguousarray(_upright(_to_rgb(pixels, name), orientation))


def stated_size(data: bytes) -> tuple[int, int] | None:
    """Read how large a PNG or JPEG says that it is, without decoding: a few bytes can announce gigabytes.

    Returns:
        Height and width as stored, before any orientation is applied; None if it is of another kind.
    """
    if data.startswith(_PNG_SIGNATURE) and data[12:16] == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    position = 2 if data.startswith(b"\xff\xd8\xff") else len(data)
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return height, width
        else:
            position += 2 + max(int.from_bytes(data[position + 2 : position + 4], "big"), 2)
    return None


def encode_image(image: ImageArray, suffix: str) -> bytes:
    """Encode an image; JPEG with quality 95.

    Args:
        image: H x W x 3 uint8, RGB.
        suffix: The kind of file: ".png", ".jpg", or another that OpenCV writes.

    Raises:
        PocketNetError: OpenCV cannot write this kind.
    """
    import cv2

    try:
        done, data = cv2.imencode(suffix, image[..., ::-1])
    except cv2.error as error:
        raise PocketNetError(f"OpenCV cannot write {suffix} files: {error.err}") from error
    if not done:
        raise PocketNetError(f"OpenCV cannot write {suffix} files")
    return bytes(data)


def _decode(data: bytes, name: str) -> npt.NDArray[Any]:
    import cv2

    try:
        # Unchanged keeps alpha and the bit depth, and leaves the orientation to us whatever the version.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise PocketNetError(f"{name} cannot be decoded: {error.err}") from error
    if pixels is None or pixels.size == 0:
        raise PocketNetError(f"{name} is not an image that can be decoded")
    return np.asarray(pixels)


def _to_rgb(pixels: npt.NDArray[Any], name: str) -> ImageArray:
    if pixels.dtype not in (np.uint8, np.uint16):
        raise PocketNetError(f"{name} has {pixels.dtype} pixels; 8 and 16 bit integers are supported")
    full = int(np.iinfo(pixels.dtype).max)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 3 and full == 255:
        import cv2

        # The usual case, where reversing the channels with numpy takes half as long as decoding a crop.
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
    if channels in (2, 4):
        alpha = pixels[..., -1:].astype(np.uint32)
        background = BACKGROUND * (full // 255)
        mixed = pixels[..., :-1] * alpha + background * (full - alpha)
        pixels = ((mixed + full // 2) // full).astype(pixels.dtype)
    if full > 255:
        # 65535 = 255 * 257
        pixels = (pixels.astype(np.uint32) + 128) // 257
    if channels <= 2:
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return pixels[..., ::-1].astype(np.uint8)


def _upright(image: ImageArray, orientation: int) -> ImageArray:
    """Undo the EXIF orientation: from 5 on the axes are exchanged; then mirrored or turned by 180 degrees."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _checked_orientation(data: bytes) -> int:
    """Return the EXIF orientation, 1 if there is none, after checking that the container is whole."""
    exif = b""
    if data.startswith(b"\xff\xd8\xff"):
        exif = _jpeg_exif(data)
    elif data.startswith(_PNG_SIGNATURE):
        exif = _png_exif(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        exif = _webp_exif(data)
    return _orientation(exif)


def _jpeg_exif(data: bytes) -> bytes:
    exif = b""
    position = 2
    while True:
        if position + 2 > len(data):
            raise _DamagedError("the JPEG ends before its end marker (truncated?)")
        if data[position] != 0xFF:
            raise _DamagedError(f"the JPEG has no marker at byte {position}, where one belongs")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        position += 2
        if marker == _JPEG_EOI:
            return exif
        if marker < 0xC0 or marker == _JPEG_SOI or 0xD0 <= marker <= 0xD7:
            raise _DamagedError(f"the JPEG has the marker 0x{marker:02x} at byte {position - 2}")
        end = position + int.from_bytes(data[position : position + 2], "big")
        if end < position + 2 or end > len(data):
            raise _DamagedError("the JPEG ends inside a segment (truncated?)")
        if marker == _JPEG_APP1 and data[position + 2 : position + 8] == b"Exif\0\0":
            exif = exif or data[position + 8 : end]
        position = end
        if marker == _JPEG_SOS:
            found = _NEXT_JPEG_MARKER.search(data, position)
            if found is None:
                raise _DamagedError("the JPEG ends inside its picture (truncated?)")
            position = found.start()


def _png_exif(data: bytes) -> bytes:
    exif = b""
    position = len(_PNG_SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise _DamagedError("the PNG ends before its last chunk (truncated?)")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _DamagedError("the PNG ends inside a chunk (truncated?)")
        if zlib.crc32(data[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise _DamagedError(f"the PNG's chunk {kind.decode('latin-1')!r} fails its checksum")
        if kind == b"IEND":
            return exif
        if kind == b"eXIf":
            exif = data[position + 8 : end - 4]
        position = end


def _webp_exif(data: bytes) -> bytes:
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0")
        position += 8 + length + length % 2
    return b""


def _orientation(exif: bytes) -> int:
    """Return the orientation tag of the first directory; EXIF that makes no sense counts as upright."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
