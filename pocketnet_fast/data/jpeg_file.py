"""JPEG files: what is wrong with them, what viewers forgive, and the pixels."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.image_header import (
    JPEG_BARE,
    JPEG_MARKER,
    MAX_PARTS,
    MAX_STRAY,
    DamagedError,
    UnreadError,
)

_SOI, _EOI, _SOS, _APP0, _APP1, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
_FRAMES: Final = frozenset((0xC0, 0xC1, 0xC2))
# What a decoder needs: tables, frame, restart interval, scans, and the two markers that tell the colours.
_KEPT: Final = frozenset((0xC4, 0xDB, 0xDD, _SOS, _APP0, _APP14)) | _FRAMES
# In entropy-coded data 0xFF is followed by 0x00 (a stuffed byte), by a restart marker or by fill bytes.
_AFTER_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MAX_SCANS: Final = 100
"""A progressive file has about ten; each one costs a pass over the whole picture."""
# Columns and rows of luma for one of chroma: 4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1.
_SAMPLINGS: Final = ((1, 1), (2, 1), (2, 2), (1, 2), (4, 1))
_ODD_SAMPLING: Final = "a JPEG whose channels differ in resolution in a way that is not read"
_PADDING: Final = 8
"""Zero bytes at the end of a file without end marker that count as a download's unwritten rest."""


@dataclass
class _Frame:
    progressive: bool
    blocks: int
    components: int
    scans: int = 0
    # By component and coefficient, the bits that are still to come; None where no scan has brought any.
    missing: dict[int, list[int | None]] = field(default_factory=dict)

    def note_scan(self, content: bytes) -> int:
        """Note what a scan brings; returns the length of its header."""
        count = content[0] if content else 0
        if not 1 <= count <= 4 or len(content) < 1 + 2 * count + 3:
            raise DamagedError("the JPEG has a scan without channels")
        self.scans += 1
        if self.scans > _MAX_SCANS:
            raise DamagedError(f"the JPEG has more than {_MAX_SCANS} scans")
        first, last, bits = content[1 + 2 * count : 4 + 2 * count]
        if not self.progressive:
            first, last, bits = 0, 63, 0
        for index in range(count):
            left = self.missing.setdefault(content[1 + 2 * index], [None] * 64)
            left[first : last + 1] = [bits & 15] * len(left[first : last + 1])
        return 8 + 2 * count

    def is_whole(self) -> bool:
        """Whether the scans so far bring every coefficient with all its bits."""
        return len(self.missing) == self.components and all(
            not any(left is None or left for left in bits) for bits in self.missing.values()
        )


@dataclass(frozen=True)
class JpegFile:
    """A JPEG without what decoding does not need.

    Attributes:
        data: The file from start to end marker: tables, frame, scans.
        exif: Content of its EXIF segment, or nothing.
        components: 1 grey, 3 colour, 4 CMYK or YCCK.
    """

    data: bytes
    exif: bytes
    components: int


def check_jpeg(data: bytes) -> JpegFile:
    """Walk through the segments of a JPEG.

    Bytes between segments and after the end marker are passed over. A missing end marker is supplied if all
    scans are there; whether the last one is whole, the decoder finds out.

    Raises:
        DamagedError: It is truncated, has too many scans, or its segments make no sense.
        UnreadError: Its chroma has an unusual resolution.
    """
    kept = [b"\xff\xd8"]
    exif, coded, ended = b"", 0, False
    frame: _Frame | None = None
    for marker, start, end in _segments(data):
        content = data[start + 4 : end]
        if marker == _EOI:
            ended = True
        elif marker == _APP1 and content.startswith(b"Exif\0\0"):
            exif = exif or content[6:]
        elif marker in _FRAMES:
            if frame is not None:
                raise DamagedError("the JPEG has two frames")
            frame = _frame(content, marker)
        elif marker == _SOS:
            if frame is None:
                raise DamagedError("the JPEG has no frame before its picture")
            coded += end - frame.note_scan(content) - start
        if marker in _KEPT:
            kept.append(data[start:end])
    if frame is None or not frame.scans:
        raise DamagedError("the JPEG ends before its picture (truncated?)")
    if not ended:
        if not frame.is_whole():
            raise DamagedError("the JPEG ends before its last scan (truncated?)")
        kept[-1] = _without_padding(kept[-1])
    # At least two bits for a block in one scan, one in the first of several.
    if coded * 8 < frame.blocks * (1 if frame.progressive else 2):
        raise DamagedError("the JPEG holds less than the picture it states (truncated?)")
    return JpegFile(b"".join((*kept, b"\xff\xd9")), exif, frame.components)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment, a scan's with its coded data, up to the end marker."""
    position = 2
    for _ in range(MAX_PARTS):
        found = JPEG_MARKER.search(data, position, position + MAX_STRAY)
        if found is None:
            return
        start, position = found.span()
        marker = data[start + 1]
        if marker in JPEG_BARE or marker < 0xC0:
            continue
        if marker == _SOI:
            raise DamagedError(f"the JPEG starts again at byte {start}")
        if marker == _EOI:
            yield marker, start, position
            return
        end = position + int.from_bytes(data[position : position + 2], "big")
        if end < position + 2 or end > len(data):
            raise DamagedError("the JPEG ends inside a segment (truncated?)")
        if marker == _SOS:
            after = _AFTER_SCAN.search(data, end)
            end = len(data) if after is None else after.start()
        yield marker, start, end
        position = end
    raise DamagedError(f"the JPEG has more than {MAX_PARTS:,} segments")


def decode_jpeg(file: JpegFile) -> npt.NDArray[np.uint8]:
    """Decode.

    Returns:
        H x W x 3, RGB, or H x W x 1.

    Raises:
        DamagedError: The picture ends early or its codes are broken.
    """
    import simplejpeg

    colors = {1: "GRAY", 3: "RGB", 4: "CMYK"}[file.components]
    try:
        try:
            pixels = simplejpeg.decode_jpeg(file.data, colors)
        except ValueError as error:
            if "extraneous bytes before marker" not in str(error):
                raise
            pixels = simplejpeg.decode_jpeg(file.data, colors, strict=False)
    except ValueError as error:
        if "subsampling" in str(error):
            raise UnreadError(_ODD_SAMPLING) from None
        reason = str(error).removeprefix("Corrupt JPEG data: ")
        early = "premature end" in reason.lower()
        raise DamagedError(
            "the JPEG ends inside its picture (truncated?)" if early else f"the JPEG is broken: {reason}"
        ) from None
    return _from_cmyk(pixels) if file.components == 4 else np.asarray(pixels)


def _from_cmyk(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """RGB of inks that are stored inverted, which is how every program that writes CMYK JPEG stores them."""
    inks = pixels.astype(np.uint16)
    return ((inks[..., :3] * inks[..., 3:] + 127) // 255).astype(np.uint8)


def _frame(segment: bytes, marker: int) -> _Frame:
    try:
        _, height, width, components = struct.unpack_from(">BHHB", segment)
        factors = [segment[7 + 3 * index] for index in range(components)]
    except (struct.error, IndexError):
        raise DamagedError("the JPEG's frame is cut") from None
    sides = [(factor >> 4, factor & 15) for factor in factors]
    if not all(1 <= side <= 4 for pair in sides for side in pair):
        raise DamagedError("the JPEG's channels have senseless resolutions")
    if components > 1:
        ratios = [(sides[0][0] / across, sides[0][1] / down) for across, down in sides]
        if ratios[1] != ratios[2] or ratios[1] not in _SAMPLINGS or ratios[-1] not in (ratios[1], (1, 1)):
            raise UnreadError(_ODD_SAMPLING)
    most = [max(side[axis] for side in sides) for axis in (0, 1)]
    blocks = sum(
        -(-width * across // (8 * most[0])) * -(-height * down // (8 * most[1])) for across, down in sides
    )
    return _Frame(marker == 0xC2, blocks, components)


def _without_padding(scan: bytes) -> bytes:
    stripped = scan.rstrip(b"\0")
    if len(scan) - len(stripped) < _PADDING:
        return scan.removesuffix(b"\xff")
    # The zero behind 0xFF is a stuffed one.
    return stripped + b"\0" if stripped.endswith(b"\xff") else stripped
