"""PNG files: checked whole, and rebuilt of what decoding needs, so that libpng finds nothing to say."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.image_header import MAX_PARTS, PNG_SIGNATURE, DamagedError, UnreadError

_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE: Final = 3
# Adam7: first row, first column, and the steps between rows and between columns of each pass.
_PASSES: Final = (
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
)  # fmt: skip
_MOST_PACKED: Final = 1032
"""Bytes that one byte of deflate can stand for."""


@dataclass(frozen=True)
class PngFile:
    """A PNG whose chunks and compressed data are whole.

    Attributes:
        data: The file with its picture stored uncompressed, and without chunks that do not concern it.
        exif: Content of its EXIF chunk, or nothing.
        transparent: The one grey or RGB value that is transparent, if the file names one.
    """

    data: bytes
    exif: bytes
    transparent: tuple[int, ...] | None


def check_png(data: bytes) -> PngFile:
    """Check every chunk and unpack the picture.

    Raises:
        DamagedError: It is truncated, a checksum fails, or its parts contradict each other.
        UnreadError: It is animated.
    """
    header = data[16:29]
    width, height, depth, color, _, _, interlace = struct.unpack(">IIBBBBB", header)
    chunks: dict[bytes, bytes] = {}
    packed: list[bytes] = []
    for kind, content in _chunks(data):
        if kind == b"acTL" and not packed:
            raise UnreadError("an animated PNG image")
        if kind == b"IDAT":
            packed.append(content)
        elif kind in (b"PLTE", b"tRNS", b"eXIf"):
            chunks.setdefault(kind, content)
    rows = _rows(width, height, depth * _CHANNELS[color], interlace)
    raw = _unpacked(packed, rows)
    parts = [PNG_SIGNATURE, _chunk(b"IHDR", header)]
    transparent = None
    if color == _PALETTE:
        parts += _palette(chunks, 1 << depth)
    elif b"tRNS" in chunks and color in (0, 2):
        values = chunks[b"tRNS"]
        if len(values) != 2 * _CHANNELS[color]:
            raise DamagedError("the PNG's transparent colour makes no sense")
        transparent = tuple(
            value & ((1 << depth) - 1) for value in struct.unpack(f">{_CHANNELS[color]}H", values)
        )
        if color == 0 and depth < 8:
            # Decoders spread fewer bits over eight.
            transparent = (transparent[0] * 255 // ((1 << depth) - 1),)
    parts += [_chunk(b"IDAT", zlib.compress(raw, 0)), _chunk(b"IEND", b"")]
    return PngFile(b"".join(parts), chunks.get(b"eXIf", b""), transparent)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each chunk up to the last one, their checksums checked."""
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_PARTS):
        if position + 12 > len(data):
            raise DamagedError("the PNG ends before its last chunk (truncated?)")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise DamagedError("the PNG ends inside a chunk (truncated?)")
        checked = data[position + 4 : end - 4]
        if zlib.crc32(checked) != struct.unpack_from(">I", data, end - 4)[0]:
            raise DamagedError(f"the PNG's chunk {kind.decode('latin-1')!r} fails its checksum")
        if kind == b"IEND":
            return
        yield kind, checked[4:]
        position = end
    raise DamagedError(f"the PNG has more than {MAX_PARTS:,} chunks")


def with_transparent_color(pixels: npt.NDArray[Any], color: tuple[int, ...]) -> npt.NDArray[Any]:
    """Add the alpha channel to H x W x C pixels, C 1 or 3 (BGR), of which one colour is transparent."""
    shown = (pixels != np.array(color[::-1], pixels.dtype)).any(axis=2, keepdims=True)
    alpha = shown.astype(pixels.dtype) * np.array(np.iinfo(pixels.dtype).max, pixels.dtype)
    return np.concatenate([pixels, alpha], axis=2)


def _rows(width: int, height: int, bits: int, interlace: int) -> list[tuple[int, int]]:
    """Number and length in bytes of the rows of each pass, each with the byte that names its filter."""
    passes = _PASSES if interlace else ((0, 0, 1, 1),)
    sizes = [(-(-(height - y) // dy), -(-(width - x) // dx)) for y, x, dy, dx in passes]
    return [(high, 1 + (wide * bits + 7) // 8) for high, wide in sizes if high > 0 and wide > 0]


def _unpacked(packed: list[bytes], rows: list[tuple[int, int]]) -> bytes:
    size = sum(count * length for count, length in rows)
    content = b"".join(packed)
    if size > _MOST_PACKED * len(content) + 1024:
        raise DamagedError("the PNG holds less than the picture it states (truncated?)")
    try:
        raw = zlib.decompressobj().decompress(content, size + 1)[:size]
    except zlib.error as error:
        raise DamagedError(f"the PNG's compressed picture is broken: {error}") from None
    if len(raw) < size:
        raise DamagedError("the PNG's compressed picture ends early (truncated?)")
    position = 0
    for count, length in rows:
        filters = np.frombuffer(raw, np.uint8, count * length, position)[::length]
        if filters.max() > 4:
            raise DamagedError("the PNG's picture has a filter that there is not")
        position += count * length
    return raw


def _palette(chunks: dict[bytes, bytes], entries: int) -> list[bytes]:
    colors = chunks.get(b"PLTE", b"")
    if not colors or len(colors) % 3:
        raise DamagedError("the PNG has no usable palette")
    # Pixels beyond the palette's end are black, as libpng has it, and not a reason to warn.
    parts = [_chunk(b"PLTE", colors[: 3 * entries].ljust(3 * entries, b"\0"))]
    if b"tRNS" in chunks:
        parts.append(_chunk(b"tRNS", chunks[b"tRNS"][:entries]))
    return parts


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
