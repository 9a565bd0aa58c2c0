"""Files made to cost whoever opens them memory or time: each is a few bytes or hardly more than those it must have."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib

from image_files import PICTURE, box, chunk, jpeg, pil, png

HUGE = (60_000, 50_000)  # three gigapixels
LARGE = (7_000, 7_000)  # within the limit, so that only the lack of content gives it away


def png_of(
    width: int, height: int, *chunks: bytes, color: int = 2, depth: int = 8, interlace: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    parts = chunks or (chunk(b"IDAT", zlib.compress(bytes(9))),)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(parts) + chunk(b"IEND", b"")


def jpeg_of(width: int, height: int, *, frame: int = 0xC0, scans: int = 1, sampling: int = 0x11) -> bytes:
    """A JPEG with the tables of a real one, and scans of a few bytes."""
    real = jpeg(PICTURE[:16, :16], progressive=frame == 0xC2)
    tables, scan = real.index(b"\xff\xdb"), real.index(b"\xff\xda")
    start = real.index(bytes((0xFF, frame)))
    end = start + 2 + int.from_bytes(real[start + 2 : start + 4], "big")
    stated = bytearray(real[start:end])
    stated[5:9] = struct.pack(">HH", height, width)
    stated[11] = sampling
    one = real[scan : real.index(b"\xff\xda", scan + 2) if frame == 0xC2 else -2]
    return real[:tables] + real[tables:start] + bytes(stated) + real[end:scan] + one * scans + b"\xff\xd9"


def webp_of(kind: bytes, content: bytes, *, length: int | None = None) -> bytes:
    body = kind + struct.pack("<I", len(content) if length is None else length) + content
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def vp8(width: int, height: int) -> bytes:
    return struct.pack("<BH", 0x10, 1) + b"\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(40)


def vp8l(width: int, height: int) -> bytes:
    return b"\x2f" + struct.pack("<I", width - 1 | (height - 1) << 14) + bytes(40)


def vp8x(width: int, height: int, flags: int = 0) -> bytes:
    return bytes((flags, 0, 0, 0)) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]


def avif_of(width: int, height: int, *, associations: bytes | None = None, more: bytes = b"") -> bytes:
    size = box(b"ispe", struct.pack(">III", 0, width, height))
    tied = struct.pack(">IIHBB", 0, 1, 1, 1, 1) if associations is None else associations
    properties = box(b"iprp", box(b"ipco", size + more) + box(b"ipma", tied))
    meta = box(b"meta", bytes(4) + box(b"pitm", struct.pack(">IH", 0, 1)) + properties)
    return box(b"ftyp", b"avif\0\0\0\0avifmif1") + meta + box(b"mdat", bytes(50))


def tiff_of(entries: dict[int, tuple[int, int, int]], *, start: int = 8, after: int = 0) -> bytes:
    """A little-endian TIFF of entries by tag: type, count, value."""
    listed = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    return b"II*\0" + struct.pack("<IH", start, len(entries)) + listed + struct.pack("<I", after) + bytes(200)


def tiff_entries(width: int, height: int, **changes: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    plain = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    plain |= {273: (4, 1, 100), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, 20)}
    return plain | {int(tag[1:]): entry for tag, entry in changes.items()}


def bmp_of(width: int, height: int, *, bits: int = 24, offset: int = 54, packing: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, packing, 0, 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 99, 0, 0, offset) + header + bytes(99)


def zip_bomb() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("photo.png", bytes(8 << 20))
    return stream.getvalue()


def nested(depth: int) -> bytes:
    return struct.pack(">I4sI", 12 + 12 * depth, b"meta", 0) * depth


def hostile() -> dict[str, bytes]:
    """Files by name; every one is refused."""
    scan = jpeg(PICTURE[:16, :16])
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    gif = pil(PICTURE[:8, :8], "GIF")
    return {
        # Dimensions that the header states.
        "png huge": png_of(*HUGE),
        "png of the most": png_of(0x7FFFFFFF, 0x7FFFFFFF),
        "png beyond the most": png_of(0xFFFFFFFF, 0xFFFFFFFF),
        "png no width": png_of(0, 100),
        "png one row": png_of(0x7FFFFFFF, 1),
        "png 16 bit interlaced": png_of(12_000, 12_000, color=6, depth=16, interlace=1),
        "jpeg huge": jpeg_of(65_535, 65_535),
        "jpeg progressive huge": jpeg_of(32_000, 32_000, frame=0xC2, scans=60),
        "jpeg no height": jpeg_of(100, 0),
        "webp huge": webp_of(b"VP8 ", vp8(16_383, 16_383)),
        "webp lossless huge": webp_of(b"VP8L", vp8l(16_384, 16_384)),
        "webp canvas huge": webp_of(b"VP8X", vp8x(1 << 24, 1 << 24)),
        "webp two sizes": webp_of(b"VP8X", vp8x(100, 100) + b"VP8L" + struct.pack("<I", 45) + vp8l(16_384, 16_384)),
        "avif huge": avif_of(*HUGE),
        "avif of the most": avif_of(0xFFFFFFFF, 0xFFFFFFFF),
        "tiff huge": tiff_of(tiff_entries(*HUGE)),
        "tiff of the most": tiff_of(tiff_entries(0xFFFFFFFF, 0xFFFFFFFF, t259=(3, 1, 8))),
        "bmp huge": bmp_of(*HUGE),
        "bmp of the least": bmp_of(-0x80000000, -0x80000000),
        "bmp top down of the least": bmp_of(0x7FFFFFFF, -0x80000000),
        "ppm huge": b"P6 60000 50000 255\n" + bytes(99),
        "ppm of the most": b"P6 999999999 999999999 65535\n" + bytes(99),
        "gif huge": gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:],
        "jpeg 2000 huge": b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF) * 9,
        "heic huge": box(b"ftyp", b"heic\0\0\0\0mif1") + avif_of(*HUGE)[24:],
        # Dimensions within the limit, and hardly any content.
        "png large": png_of(*LARGE),
        "png large and cut": png_of(*LARGE)[:-20],
        "jpeg large": jpeg_of(*LARGE),
        "jpeg progressive large": jpeg_of(*LARGE, frame=0xC2),
        "webp large": webp_of(b"VP8 ", vp8(*LARGE)),
        "webp lossless large and cut": webp_of(b"VP8L", vp8l(*LARGE), length=1 << 20),
        "avif large": avif_of(*LARGE),
        "tiff large": tiff_of(tiff_entries(*LARGE)),
        "tiff large in deflate": tiff_of(tiff_entries(*LARGE, t259=(3, 1, 8))),
        "bmp large": bmp_of(*LARGE),
        "bmp large run lengths": bmp_of(*LARGE, bits=8, packing=1),
        "ppm large": b"P5 7000 7000 255\n" + bytes(99),
        # Lengths and counts.
        "png chunk length": png_of(8, 8, b"\xff\xff\xff\xffIDAT" + bytes(99)),
        "png many chunks": png_of(8, 8, chunk(b"IDAT", b"") * 100_000),
        "jpeg segment length": scan[:2] + b"\xff\xe1\xff\xff" + scan[2:],
        "jpeg segment length 0": scan[:2] + b"\xff\xe1\0\0" + scan[2:],
        "jpeg many segments": scan[:2] + b"\xff\xfe\0\2" * 500_000 + scan[2:],
        "jpeg fill bytes": scan[:2] + b"\xff" * 8_000_000,
        "jpeg many scans": jpeg_of(2_000, 2_000, frame=0xC2, scans=5_000),
        "jpeg restarts": scan[:2] + b"\xff\xd0" * 2_000_000,
        "webp chunk length": webp_of(b"VP8 ", vp8(100, 100), length=0xFFFFFFFF),
        "webp many chunks": webp_of(b"JUNK", b"JUNK\0\0\0\0" * 500_000),
        "avif box length": box(b"ftyp", b"avif\0\0\0\0avif") + b"\0\0\0\4meta" + bytes(99),
        "avif box length of 64 bits": box(b"ftyp", b"avif\0\0\0\0avif") + b"\0\0\0\1meta" + b"\xff" * 8 + bytes(9),
        "avif many properties": avif_of(8, 8, more=box(b"free", b"") * 500_000),
        "avif many associations": avif_of(8, 8, associations=struct.pack(">II", 0, 0xFFFFFFFF) + bytes(1_000_000)),
        "tiff many entries": tiff_of(tiff_entries(8, 8))[:8] + b"\xff\xff" + bytes(12 * 0xFFFF),
        "tiff many strips": tiff_of(tiff_entries(8, 8, t273=(4, 0xFFFFFFFF, 8), t279=(4, 0xFFFFFFFF, 8))),
        "tiff directory outside": tiff_of(tiff_entries(8, 8), start=0xFFFFFFFF),
        "tiff strip outside": tiff_of(tiff_entries(8, 8, t273=(4, 1, 0xFFFFFFFF))),
        "bmp offset outside": bmp_of(8, 8, offset=0xFFFFFFFF),
        "ppm endless header": b"P6" + b" " * 4_000_000 + b"8 8 255\n" + bytes(192),
        "ppm endless comments": b"P6" + b"\n#" * 2_000_000,
        # Recursion.
        "avif boxes in boxes": box(b"ftyp", b"avif\0\0\0\0avif") + nested(50_000),
        "heic boxes in boxes": box(b"ftyp", b"heic\0\0\0\0mif1") + nested(50_000),
        "tiff directory of itself": tiff_of(tiff_entries(0, 0), after=8),
        "svg entities": f'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY l0 "lol">{laughs}]><svg>&l9;</svg>'.encode(),
        # Animated.
        "webp frames": webp_of(b"VP8X", vp8x(7_000, 7_000, flags=2) + b"ANMF\x10\0\0\0" + bytes(16) * 9_000),
        "png frames": png_of(7_000, 7_000, chunk(b"acTL", struct.pack(">II", 0x7FFFFFFF, 0))),
        "gif frames": gif[:-1] * 2_000,
        # Archives.
        "zip bomb": zip_bomb(),
        "gzip bomb": gzip.compress(bytes(8 << 20)),
        "zip named png": b"PK\x03\x04" + png(PICTURE, 8, 2),
    }  # fmt: skip
