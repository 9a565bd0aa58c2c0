"""What an image file says of itself in its first bytes: its kind, its size, and how it is to be turned.

Nothing is decoded here, so that a file that announces gigabytes is known for it at the price of its header.
``read_header`` takes any bytes at all and raises nothing but ``DamagedError`` and ``UnreadError``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
READ_KINDS: Final = "JPEG, PNG, WebP, AVIF, TIFF, BMP or binary PPM"
MAX_PARTS: Final = 10_000
"""Segments, chunks, boxes or strips of one file; more would be there only to cost time."""

MAX_STRAY: Final = 1 << 16
"""Bytes between two segments of a JPEG that are passed over."""

JPEG_MARKER: Final = re.compile(rb"\xff[\x01-\xfe]")
# Start of frame, which holds the size; 0xC4, 0xC8 and 0xCC mean something else.
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_READ_FRAMES: Final = frozenset((0xC0, 0xC1, 0xC2))
# Markers that are followed by no length: TEM and the restarts.
JPEG_BARE: Final = frozenset((0x01, *range(0xD0, 0xD8)))

_ORIENTATION_TAG: Final = 0x0112
_MAX_ENTRIES: Final = 1000
_PNG_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}

# EXIF's number for a turn by irot (quarter turns anticlockwise), followed by imir (None, 0: top to bottom,
# 1: left to right).
_TURNS: Final = {
    (0, None): 1, (0, 0): 4, (0, 1): 2,
    (1, None): 8, (1, 0): 5, (1, 1): 7,
    (2, None): 3, (2, 0): 2, (2, 1): 4,
    (3, None): 6, (3, 0): 7, (3, 1): 5,
}  # fmt: skip

_TIFF_COMPRESSIONS: Final = {1, 5, 7, 8, 32773, 32946}
_TIFF_COLORS: Final = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # photometric interpretation to samples

_OTHERS: Final = (
    (b"GIF8", "a GIF image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\1\0", "a Windows icon"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"#?RGBE", "a Radiance HDR image"),
    (b"\x59\xa6\x6a\x95", "a Sun raster image"),
    (b"qoif", "a QOI image"),
    (b"8BPS", "a Photoshop file"),
    (b"II+\0", "a BigTIFF image"),
    (b"MM\0+", "a BigTIFF image"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` fetches the image)"),
)
_BRANDS: Final = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "a HEIC image"),
    **dict.fromkeys((b"mif1", b"msf1", b"mif2"), "a HEIF image"),
    b"crx ": "a camera's raw file",
    **dict.fromkeys((b"qt  ", b"isom", b"iso2", b"mp41", b"mp42", b"M4V ", b"avc1"), "a video"),
}


class DamagedError(Exception):
    """Why an image file is broken."""


class UnreadError(Exception):
    """What a file is instead of an image that is read, as in "is a GIF image"."""


@dataclass(frozen=True)
class ImageHeader:
    """What the start of a file states.

    Attributes:
        kind: "JPEG", "PNG", "WebP", "AVIF", "TIFF", "BMP" or "PPM".
        height: As stored, before any orientation is applied.
        width: The same.
        orientation: 1 to 8 as in EXIF, of the kinds whose header says it: all but JPEG and PNG.
        extra: TIFF: what the channel behind the colours is, 0 anything, 1 or 2 alpha, with colours multiplied
            by it or not; None where the file does not say.
        upright: Offsets, and the bytes which, put there, keep a decoder from turning the picture itself.
    """

    kind: str
    height: int
    width: int
    orientation: int = 1
    extra: int | None = None
    upright: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)


def read_header(data: bytes) -> ImageHeader:
    """Read kind and size of an image.

    Args:
        data: The file whole; of a JPEG, PNG or AVIF the start will do.

    Raises:
        DamagedError: The header is cut or contradicts itself.
        UnreadError: Another kind of file, or a variant that is not read.
    """
    kind = image_kind(data)
    if kind is None:
        raise UnreadError(_other_kind(data))
    try:
        header = _READERS[kind](data)
    except (struct.error, IndexError):
        raise DamagedError(f"the {kind} ends inside its header (truncated?)") from None
    if header.height < 1 or header.width < 1:
        raise DamagedError(f"the {kind} states {header.width}x{header.height} pixels")
    return header


def image_kind(data: bytes) -> str | None:
    """Tell the kind by the first bytes; None if it is none that is read."""
    for kind, signature in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] in (b"P5", b"P6") and data[2:3].isspace():
        return "PPM"
    return "AVIF" if b"avif" in _brands(data) else None


def what_is(data: bytes) -> str | None:
    """Say what a file is by its first bytes, as in "a HEIC image"; None if it is an image that is read."""
    return None if image_kind(data) is not None else _other_kind(data)


def exif_orientation(exif: bytes) -> int:
    """Return the orientation in an EXIF block or the first directory of a TIFF; 1 if it makes no sense."""
    place, form = _orientation_entry(exif)
    value = struct.unpack_from(form, exif, place)[0] if form else 1
    return int(value) if 1 <= value <= 8 else 1


def _orientation_entry(exif: bytes) -> tuple[int, str]:
    """Offset and form of the orientation, as SHORT, LONG or BYTE; no form if there is none."""
    order = _byte_order(exif)
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(entries):
            place = start + 2 + 12 * entry
            tag, kind, count, _ = struct.unpack_from(f"{order}HHII", exif, place)
            if tag == _ORIENTATION_TAG:
                form = {1: "B", 3: "H", 4: "I"}.get(kind)
                return (place + 8, f"{order}{form}") if form and count else (0, "")
    except struct.error:
        pass
    return 0, ""


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of each chunk; those of a cut file end with it."""
    position = 12
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    for _ in range(MAX_PARTS):
        if position + 8 > end:
            return
        kind, length = struct.unpack_from("<4sI", data, position)
        yield kind, position + 8, position + 8 + length
        position += 8 + length + length % 2
    raise DamagedError(f"the WebP has more than {MAX_PARTS:,} chunks")


def _jpeg(data: bytes) -> ImageHeader:
    position = 2
    for _ in range(MAX_PARTS):
        found = JPEG_MARKER.search(data, position, position + MAX_STRAY)
        if found is None:
            raise DamagedError("the JPEG ends before its picture (truncated?)")
        marker, position = data[found.start() + 1], found.end()
        if marker in _JPEG_FRAMES:
            if marker not in _READ_FRAMES:
                raise UnreadError(
                    f"a JPEG of a kind that is not read (lossless or arithmetic, 0x{marker:02x})"
                )
            depth, height, width, components = struct.unpack_from(">BHHB", data, position + 2)
            if depth != 8:
                raise UnreadError(f"a JPEG of {depth} bits a channel")
            if components not in (1, 3, 4):
                raise UnreadError(f"a JPEG of {components} channels")
            return ImageHeader("JPEG", height, width)
        if marker in (0xD8, 0xD9, 0xDA):
            raise DamagedError("the JPEG has no frame before its picture")
        if marker > 0xBF and marker not in JPEG_BARE:
            position += max(struct.unpack_from(">H", data, position)[0], 2)
    raise DamagedError(f"the JPEG has more than {MAX_PARTS:,} segments")


def _png(data: bytes) -> ImageHeader:
    length, kind, width, height, depth, color, packing, filters, interlace = struct.unpack_from(
        ">I4sIIBBBBB", data, 8
    )
    if kind == b"CgBI":
        raise UnreadError("a PNG in Apple's own variant (CgBI)")
    if kind != b"IHDR" or length != 13:
        raise DamagedError("the PNG does not start with its header")
    if depth not in _PNG_DEPTHS.get(color, ()) or packing or filters or interlace > 1:
        raise DamagedError(f"the PNG's header makes no sense (colour type {color}, {depth} bits)")
    return ImageHeader("PNG", height, width)


def _webp(data: bytes) -> ImageHeader:
    canvas: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    exif = b""
    for kind, start, end in webp_chunks(data):
        if kind in (b"ANIM", b"ANMF") or (kind == b"VP8X" and data[start] & 2):
            raise UnreadError("an animated WebP image")
        if kind == b"VP8X":
            canvas = (
                1 + int.from_bytes(data[start + 7 : start + 10], "little"),
                1 + int.from_bytes(data[start + 4 : start + 7], "little"),
            )
        elif kind == b"VP8 " and size is None:
            mark, width, height = struct.unpack_from("<3x3sHH", data, start)
            if mark != b"\x9d\x01\x2a":
                raise DamagedError("the WebP's picture has no start code")
            size = height & 0x3FFF, width & 0x3FFF
        elif kind == b"VP8L" and size is None:
            mark, bits = struct.unpack_from("<BI", data, start)
            if mark != 0x2F:
                raise DamagedError("the WebP's picture has no signature")
            size = 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
        elif kind == b"EXIF":
            exif = data[start:end].removeprefix(b"Exif\0\0")
        if kind in (b"VP8 ", b"VP8L") and end > len(data):
            raise DamagedError("the WebP ends inside its picture (truncated?)")
        if size is not None and canvas is None:
            break
    if size is None:
        raise DamagedError("the WebP has no picture (truncated?)")
    if canvas is not None and canvas != size:
        raise DamagedError("the WebP states two sizes")
    return ImageHeader("WebP", *size, exif_orientation(exif))


def _brands(data: bytes) -> list[bytes]:
    """The brands of an ISO base media file: the major one and the compatible ones."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), len(data), 256)
    return [data[8:12], *(data[place : place + 4] for place in range(16, end - 3, 4))]


def _boxes(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, start and end of the content of each box."""
    for _ in range(MAX_PARTS):
        if position >= end:
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        elif length == 0:
            length = end - position
        if length < start - position:
            raise DamagedError("the AVIF has a box that ends before it starts")
        position += length
        yield kind, start, min(position, end)
    raise DamagedError(f"the AVIF has more than {MAX_PARTS:,} boxes")


def _box(data: bytes, span: tuple[int, int], name: bytes) -> tuple[int, int]:
    for kind, start, end in _boxes(data, *span):
        if kind == name:
            return start, end
    raise DamagedError(f"the AVIF has no box {name.decode()!r} (truncated?)")


def _avif(data: bytes) -> ImageHeader:
    if data[8:12] == b"avis":
        raise UnreadError("an animated AVIF image")
    start, end = _box(data, (0, len(data)), b"meta")
    meta = (start + 4, end)
    start, _ = _box(data, meta, b"pitm")
    (primary,) = struct.unpack_from(">I" if data[start] else ">H", data, start + 4)
    properties = _box(data, meta, b"iprp")
    listed = list(_boxes(data, *_box(data, properties, b"ipco")))
    size: tuple[int, int] | None = None
    angle, axis = 0, None
    upright: list[tuple[int, bytes]] = []
    for place, width, index in _associations(data, _box(data, properties, b"ipma")[0], primary):
        if not 1 <= index <= len(listed):
            continue
        kind, start, _ = listed[index - 1]
        if kind == b"ispe":
            size = struct.unpack_from(">4xII", data, start)
        elif kind == b"irot":
            angle = data[start] & 3
        elif kind == b"imir":
            axis = data[start] & 1
        if kind in (b"irot", b"imir"):
            upright.append((place, bytes(width)))  # tied to no property
    if size is None:
        raise DamagedError("the AVIF does not state its size")
    return ImageHeader("AVIF", size[1], size[0], _TURNS[angle, axis], upright=tuple(upright))


def _associations(data: bytes, start: int, primary: int) -> Iterator[tuple[int, int, int]]:
    """Yield offset, width and property's index of each association of an item (box ``ipma``)."""
    version, wide, entries = struct.unpack_from(">B2xBI", data, start)
    position = start + 8
    parts = 0
    for _ in range(entries):
        item, count = struct.unpack_from(">IB" if version else ">HB", data, position)
        position += 5 if version else 3
        width = 1 + (wide & 1)
        if item == primary:
            for place in range(position, position + width * count, width):
                index = int.from_bytes(data[place : place + width], "big")
                yield place, width, index & (0x7FFF if width == 2 else 0x7F)
        position += width * count
        parts += 1 + count
        if parts > MAX_PARTS:
            raise DamagedError(f"the AVIF has more than {MAX_PARTS:,} associations")


def _byte_order(data: bytes) -> str:
    return {b"II": "<", b"MM": ">"}.get(data[:2], "<")


def _tiff_directory(data: bytes) -> dict[int, tuple[int, ...]]:
    """The whole numbers of the first directory, by tag."""
    order = _byte_order(data)
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, start)
    if entries > _MAX_ENTRIES:
        raise DamagedError(f"the TIFF's directory has more than {_MAX_ENTRIES:,} entries")
    found: dict[int, tuple[int, ...]] = {}
    for entry in range(entries):
        place = start + 2 + 12 * entry
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, place)
        form, width = {1: ("u1", 1), 3: ("u2", 2), 4: ("u4", 4)}.get(kind, ("", 0))
        if not form or count == 0:
            continue
        if count > MAX_PARTS:
            raise DamagedError(f"the TIFF has more than {MAX_PARTS:,} parts")
        place += 8
        if count * width > 4:
            (place,) = struct.unpack_from(f"{order}I", data, place)
        content = data[place : place + count * width]
        if len(content) < count * width:
            raise DamagedError("the TIFF ends inside its directory (truncated?)")
        found.setdefault(tag, tuple(np.frombuffer(content, f"{order}{form}").tolist()))
    return found


def _tiff(data: bytes) -> ImageHeader:
    directory = _tiff_directory(data)

    def one(tag: int, default: int) -> int:
        return directory.get(tag, (default,))[0]

    height, width = one(257, 0), one(256, 0)
    color, samples, compression = one(262, 1), one(277, 1), one(259, 1)
    depths = directory.get(258, (1,))
    if 50706 in directory:
        raise UnreadError("a camera's raw file (DNG)")
    if set(directory.get(339, (1,))) - {1, 4}:
        raise UnreadError("a TIFF whose pixels are not unsigned integers; 8 and 16 bits are read")
    if compression not in _TIFF_COMPRESSIONS or (color == 6 and compression != 7):
        raise UnreadError(f"a TIFF with compression {compression}, which is not read")
    needed = _TIFF_COLORS.get(color)
    if needed is None or samples not in (needed, needed + (color == 2)):
        raise UnreadError(f"a TIFF with colours of kind {color} in {samples} channels, which is not read")
    deep = depths[0] == 16 and color in (0, 1, 2)
    if len(set(depths)) != 1 or not (depths[0] == 8 or deep or (depths[0] == 1 and samples == 1)):
        raise UnreadError(f"a TIFF of {depths[0]} bits a channel; 8 and 16 are read")
    if one(284, 1) != 1 and samples > 1:
        raise UnreadError("a TIFF with its channels apart from each other, which is not read")
    starts, lengths = (directory.get(a) or directory.get(b, ()) for a, b in ((273, 324), (279, 325)))
    if not starts or len(starts) != len(lengths):
        raise DamagedError("the TIFF does not say where its picture is")
    if any(start + length > len(data) for start, length in zip(starts, lengths, strict=True)):
        raise DamagedError("the TIFF ends inside its picture (truncated?)")
    # Nothing packs better than deflate's 1032 to 1.
    ratio = 1 if compression == 1 else 1100
    if height * width * samples * depths[0] // 8 > ratio * sum(lengths):
        raise DamagedError("the TIFF holds less than the picture it states (truncated?)")
    extra = directory[338][0] if samples > needed and 338 in directory else None
    place, form = _orientation_entry(data)
    upright = ((place, struct.pack(form, 1)),) if form else ()
    return ImageHeader("TIFF", height, width, exif_orientation(data), extra, upright)


def _bmp(data: bytes) -> ImageHeader:
    pixels, size = struct.unpack_from("<10xII", data)
    if size < 40:
        raise UnreadError("a BMP of OS/2, which is not read")
    width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    (colors,) = struct.unpack_from("<I", data, 46)
    if (packing, bits) not in ((0, 1), (0, 4), (0, 8), (0, 24), (0, 32), (3, 32)):
        raise UnreadError(f"a BMP of {bits} bits in compression {packing}, which is not read")
    if packing == 3 and struct.unpack_from("<III", data, 54) != (0xFF0000, 0xFF00, 0xFF):
        raise UnreadError("a BMP with channels in an unusual order, which is not read")
    if bits <= 8 and not 14 + size + 4 * min(colors or 1 << bits, 256) <= pixels:
        raise DamagedError("the BMP's palette reaches into its picture")
    height = abs(height)
    if width > 0 and pixels + (width * bits + 31) // 32 * 4 * height > len(data):
        raise DamagedError("the BMP ends inside its picture (truncated?)")
    return ImageHeader("BMP", height, width)


def ppm_header(data: bytes) -> tuple[int, int, int, int]:
    """Width, height, largest value and the offset of the pixels of a PGM or PPM file."""
    found = re.match(rb"P[56]((?:\s|#[^\n]{0,512}\n){1,64}\d{1,9}){3}\s", data[:8192])
    if found is None:
        raise DamagedError("the PPM's header makes no sense")
    words = re.sub(rb"#[^\n]*\n", b" ", found[0]).split()
    width, height, most = map(int, words[1:4])
    if not 1 <= most <= 65535:
        raise DamagedError(f"the PPM's largest value is {most}; expected 1 to 65535")
    return width, height, most, found.end()


def _ppm(data: bytes) -> ImageHeader:
    width, height, most, start = ppm_header(data)
    pixel = (3 if data[1:2] == b"6" else 1) * (2 if most > 255 else 1)
    if start + width * height * pixel > len(data):
        raise DamagedError("the PPM ends inside its picture (truncated?)")
    return ImageHeader("PPM", height, width)


_SIGNATURES: Final = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", PNG_SIGNATURE),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("BMP", b"BM"),
)
_READERS: Final[dict[str, Callable[[bytes], ImageHeader]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WebP": _webp,
    "AVIF": _avif,
    "TIFF": _tiff,
    "BMP": _bmp,
    "PPM": _ppm,
}


def _other_kind(data: bytes) -> str:
    brands = _brands(data)
    start = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = next((kind for signature, kind in _OTHERS if data.startswith(signature)), None)
    found = found or next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    if found is None and brands:
        found = "an ISO media file"
    elif found is None and re.match(rb"P[1-47f]\s", data):
        found = "a PNM image of another kind than the binary P5 and P6"
    elif found is None and start.startswith((b"<!doctype html", b"<html")):
        found = "a web page, not an image"
    elif found is None and b"<svg" in start:
        found = "an SVG drawing"
    elif found is None and not re.search(rb"[^\t\n\f\r -\xff]", data[:512]):
        found = "a text, not an image"
    return found or "not an image"
