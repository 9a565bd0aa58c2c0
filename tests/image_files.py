"""Image files of every kind that users bring, made in memory: what is read, and what is refused and why."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, features

SIDE = 112
ANIMATED = "an animated {} image"


@dataclass(frozen=True)
class Readable:
    """A file that is read.

    Attributes:
        name: Of the case.
        data: The file.
        picture: What it shows, 112 x 112 x 3.
        tolerance: Largest mean difference to the picture, in levels of 255.
    """

    name: str
    data: bytes
    picture: np.ndarray
    tolerance: float = 0.0


def face_like(seed: int = 0) -> np.ndarray:
    """A smooth picture without symmetry: 112 x 112 x 3 uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    return cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


PICTURE = face_like()
# Where a picture is transparent: a disc is opaque, its rim half.
_Y, _X = np.mgrid[0:SIDE, 0:SIDE]
_RADIUS = np.hypot(_Y - 50, _X - 60)
ALPHA = np.clip((58 - _RADIUS) * 16, 0, 255).astype(np.uint8)


def on_white(picture: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    part = alpha[..., None] / 255.0
    return np.rint(picture * part + 255 * (1 - part)).astype(np.uint8)


def grey(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def shown(values: np.ndarray) -> np.ndarray:
    """A grey picture as RGB."""
    return np.repeat(values[..., None], 3, axis=2)


def as_stored(picture: np.ndarray, orientation: int) -> np.ndarray:
    """The picture as a camera stores it that notes this EXIF orientation."""
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture.swapaxes(0, 1) if orientation >= 5 else picture)


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """An EXIF block with the orientation as SHORT (3) or LONG (4)."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + ("H2x" if kind == 3 else "I"), orientation)
    return head + struct.pack(order + "IHHHI", 8, 1, 0x0112, kind, 1) + value + bytes(4)


def pil(picture: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, depth: int, color: int, *, interlace: bool = False, before: bytes = b"") -> bytes:
    """A PNG of H x W x C values as they are stored; ``before`` are chunks that precede the picture."""
    height, width = values.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlace:
        passes = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
    rows = []
    for y, x, dy, dx in passes:
        for row in values.reshape(height, width, -1)[y::dy, x::dx]:
            if depth == 16:
                packed = row.astype(">u2").tobytes()
            elif depth == 8:
                packed = row.astype(np.uint8).tobytes()
            else:
                bits = (row.reshape(-1, 1) >> np.arange(depth)[::-1]) & 1
                packed = np.packbits(bits.astype(np.uint8)).tobytes()
            rows.append(b"\0" + packed)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    content = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + content + chunk(b"IEND", b"")


def png_cases() -> list[Readable]:
    p, a, g = PICTURE, ALPHA, grey(PICTURE)
    wide = p.astype(np.uint16) * 257
    wide_grey = g.astype(np.uint16) * 257
    wide_alpha = a.astype(np.uint16) * 257
    index = (g // 16).astype(np.uint8)  # 16 colours
    colors = np.random.default_rng(5).integers(0, 256, (16, 3), dtype=np.uint8)
    palette = chunk(b"PLTE", colors.tobytes())
    opacity = np.linspace(0, 255, 16).astype(np.uint8)
    exact = p.copy()
    hole = (p // 32 == p[40, 40] // 32).all(axis=2)
    exact[hole] = p[40, 40]
    clear = exact.copy()
    clear[(exact == p[40, 40]).all(axis=2)] = 255
    few = g // 16
    cases = [
        Readable("png rgb", png(p, 8, 2), p),
        Readable("png rgb 16", png(np.maximum(wide, 100) - 100, 16, 2), np.rint((np.maximum(wide, 100) - 100.0) / 257)),
        Readable("png grey", png(g, 8, 0), shown(g)),
        Readable("png grey 16", png(wide_grey, 16, 0), shown(g)),
        Readable("png grey alpha", png(np.dstack([g, a]), 8, 4), on_white(shown(g), a), 0.5),
        Readable("png grey alpha 16", png(np.dstack([wide_grey, wide_alpha]), 16, 4), on_white(shown(g), a), 0.5),
        Readable("png rgba", png(np.dstack([p, a]), 8, 6), on_white(p, a), 0.5),
        Readable("png rgba 16", png(np.dstack([wide, wide_alpha]), 16, 6), on_white(p, a), 0.5),
        Readable("png palette", png(index, 4, 3, before=palette), colors[index]),
        Readable("png palette 8", png(index, 8, 3, before=palette), colors[index]),
        Readable(
            "png palette tRNS",
            png(index, 4, 3, before=palette + chunk(b"tRNS", opacity.tobytes())),
            on_white(colors[index], opacity[index]),
            0.5,
        ),
        Readable(
            "png palette tRNS of some",
            png(index, 8, 3, before=palette + chunk(b"tRNS", opacity[:7].tobytes())),
            on_white(colors[index], np.append(opacity[:7], np.full(9, 255, np.uint8))[index]),
            0.5,
        ),
        Readable(
            "png palette cut",
            png(index, 8, 3, before=chunk(b"PLTE", colors[:12].tobytes())),
            np.vstack([colors[:12], np.zeros((4, 3), np.uint8)])[index],
        ),
        Readable(
            "png grey tRNS",
            png(g // 8 * 8, 8, 0, before=chunk(b"tRNS", struct.pack(">H", 120))),
            shown(np.where(g // 8 * 8 == 120, 255, g // 8 * 8).astype(np.uint8)),
        ),
        Readable(
            "png grey 4 tRNS",
            png(few, 4, 0, before=chunk(b"tRNS", struct.pack(">H", 7))),
            shown(np.where(few == 7, 255, few * 17).astype(np.uint8)),
        ),
        Readable(
            "png grey 16 tRNS",
            png(few.astype(np.uint16) * 4097, 16, 0, before=chunk(b"tRNS", struct.pack(">H", 7 * 4097))),
            shown(np.where(few == 7, 255, np.rint(few * 4097.0 / 257)).astype(np.uint8)),
        ),
        Readable(
            "png rgb tRNS", png(exact, 8, 2, before=chunk(b"tRNS", struct.pack(">3H", *p[40, 40]))), clear
        ),
        Readable(
            "png rgb 16 tRNS",
            png(
                exact.astype(np.uint16) * 257,
                16,
                2,
                before=chunk(b"tRNS", struct.pack(">3H", *(int(v) * 257 for v in p[40, 40]))),
            ),
            clear,
        ),
        Readable("png 1 bit", png(g > 128, 1, 0), shown(np.where(g > 128, 255, 0).astype(np.uint8))),
        Readable("png 2 bits", png(g >> 6, 2, 0), shown((g >> 6) * 85)),
        Readable("png interlaced", png(p, 8, 2, interlace=True), p),
        Readable("png interlaced rgba 16", png(np.dstack([wide, wide_alpha]), 16, 6, interlace=True), on_white(p, a), 0.5),
        Readable("png interlaced 1 bit", png(g > 128, 1, 0, interlace=True), shown(np.where(g > 128, 255, 0).astype(np.uint8))),
        Readable("png with a broken profile", png(p, 8, 2, before=chunk(b"iCCP", b"x\0\0" + b"no profile")), p),
        Readable("png with gamma", png(p, 8, 2, before=chunk(b"gAMA", struct.pack(">I", 100000))), p),
        Readable("png with a trailer", png(p, 8, 2) + b"PK\x03\x04 more", p),
    ]  # fmt: skip
    cases += [
        Readable(
            f"png orientation {o} {order}{kind}",
            png(as_stored(p, o), 8, 2, before=chunk(b"eXIf", exif(o, order, kind))),
            p,
        )
        for o, order, kind in ((6, "<", 3), (7, ">", 4), (3, ">", 3))
    ]
    return cases


def jpeg(picture: np.ndarray, **options: Any) -> bytes:
    return pil(picture, "JPEG", **({"quality": 95, "subsampling": 0} | options))


def with_segment(data: bytes, marker: int, content: bytes, *, stray: bytes = b"") -> bytes:
    """The JPEG with a segment, and bytes that belong nowhere behind it, at its start."""
    segment = bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content
    return data[:2] + segment + stray + data[2:]


def adobe_ycck(picture: np.ndarray) -> bytes:
    """Inks stored inverted as luma, chroma and black, which no library at hand writes."""
    inks = cv2.cvtColor(255 - picture, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    four = np.dstack([255 - inks, np.zeros(picture.shape[:2], np.uint8)])
    data = bytearray(pil(Image.fromarray(four, "CMYK"), "JPEG", quality=95, subsampling=0))
    start = data.index(b"\xff\xee")
    data[start + 15] = 2  # the transform that the Adobe segment states
    return bytes(data)


def cmyk(picture: np.ndarray) -> Image.Image:
    black = 255 - picture.max(axis=2).astype(int)
    inks = 255 - picture.astype(int) * 255 // np.maximum(255 - black, 1)[..., None]
    return Image.fromarray(np.dstack([inks, black]).astype(np.uint8), "CMYK")


def jpeg_cases() -> list[Readable]:
    p = PICTURE
    plain, progressive = jpeg(p), jpeg(p, progressive=True)
    bgr = p[..., ::-1]

    def opencv(*options: int) -> bytes:
        return cv2.imencode(".jpg", bgr, list(options))[1].tobytes()

    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR
    cases = [
        Readable("jpeg", plain, p, 2),
        Readable("jpeg progressive", progressive, p, 2),
        Readable("jpeg grey", jpeg(grey(p)), shown(grey(p)), 2),
        Readable("jpeg restarts", opencv(cv2.IMWRITE_JPEG_RST_INTERVAL, 3), p, 4),
        Readable("jpeg 4:2:0", opencv(sampling, 0x221111), p, 4),
        Readable("jpeg 4:2:2", opencv(sampling, 0x211111), p, 4),
        Readable("jpeg 4:1:1", opencv(sampling, 0x411111), p, 8),
        Readable("jpeg 4:4:0", opencv(sampling, 0x121111), p, 4),
        Readable("jpeg stored as RGB", jpeg(p, keep_rgb=True), p, 2),
        Readable("jpeg CMYK", pil(cmyk(p), "JPEG", quality=95, subsampling=0), p, 3),
        Readable("jpeg YCCK", adobe_ycck(p), p, 3),
        Readable("jpeg no end marker", plain[:-2], p, 2),
        Readable("jpeg half an end marker", plain[:-1], p, 2),
        Readable("jpeg progressive no end marker", progressive[:-2], p, 2),
        Readable("jpeg no end marker, zeros", plain[:-2] + bytes(500), p, 2),
        Readable("jpeg stray bytes", with_segment(plain, 0xE2, b"profile", stray=b"\0\x11\xff\xff\x42"), p, 2),
        Readable("jpeg bytes before the end", plain[:-2] + b"\0" * 9 + plain[-2:], p, 2),
        Readable("jpeg trailer", plain + b"PK\x03\x04 more", p, 2),
        Readable("jpeg thumbnail", with_segment(plain, 0xE1, b"Exif\0\0" + exif(1) + jpeg(p[::4, ::4])), p, 2),
        Readable("jpeg XMP first", with_segment(with_segment(jpeg(as_stored(p, 6)), 0xE1, b"Exif\0\0" + exif(6)), 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"), p, 2),
    ]  # fmt: skip
    for orientation in range(1, 9):
        stored = jpeg(as_stored(p, orientation))
        cases += [
            Readable(
                f"jpeg orientation {orientation} {order}{kind}",
                with_segment(stored, 0xE1, b"Exif\0\0" + exif(orientation, order, kind)),
                p,
                2,
            )
            for order in "<>"
            for kind in (3, 4)
        ]
    for number, senseless in enumerate((b"", b"II", b"II*\0\xff\xff\xff\xff", exif(9), exif(0))):
        cases.append(
            Readable(
                f"jpeg senseless EXIF {number}", with_segment(plain, 0xE1, b"Exif\0\0" + senseless), p, 2
            )
        )
    return cases


def other_cases() -> list[Readable]:
    p, a, g = PICTURE, ALPHA, grey(PICTURE)
    rgba = np.dstack([p, a])
    indexed = Image.fromarray(p).quantize(64)
    quantized = np.asarray(indexed.convert("RGB"))
    bilevel = Image.fromarray(g > 128)
    black = np.asarray(bilevel.convert("RGB"))
    cases = [
        Readable("webp", pil(p, "WEBP", quality=95), p, 4),
        Readable("webp lossless", pil(p, "WEBP", lossless=True), p),
        Readable("webp rgba", pil(rgba, "WEBP", lossless=True, exact=True), on_white(p, a), 0.5),
        Readable("webp lossy rgba", pil(rgba, "WEBP", quality=95), on_white(p, a), 4),
        Readable("bmp", pil(p, "BMP"), p),
        Readable("bmp top down", top_down_bmp(p), p),
        Readable("bmp palette", pil(indexed, "BMP"), quantized),
        Readable("bmp grey", pil(g, "BMP"), shown(g)),
        Readable("bmp 1 bit", pil(bilevel, "BMP"), black),
        Readable("bmp 32 without alpha", bmp32(p, None), p),
        Readable("bmp rgba", bmp32(p, a), on_white(p, a), 0.5),
        Readable("ppm", b"P6\n# a comment\n112 112\n255\n" + p.tobytes(), p),
        Readable("pgm", b"P5 112 112 255\n" + g.tobytes(), shown(g)),
        Readable("ppm 16", b"P6 112 112 65535\n" + (p.astype(">u2") * 257).tobytes(), p),
        Readable("ppm of 100", b"P6 112 112 100\n" + (p // 3).tobytes(), np.rint(p // 3 * 2.55), 0.5),
        Readable("tiff", pil(p, "TIFF"), p),
        Readable("tiff grey", pil(g, "TIFF"), shown(g)),
        Readable("tiff grey 16", pil(g.astype(np.uint16) * 257, "TIFF"), shown(g)),
        Readable("tiff rgb 16", cv2.imencode(".tiff", p[..., ::-1].astype(np.uint16) * 257)[1].tobytes(), p),
        Readable("tiff rgba", pil(rgba, "TIFF"), on_white(p, a), 0.5),
        Readable("tiff rgba 16", cv2.imencode(".tiff", rgba[..., [2, 1, 0, 3]].astype(np.uint16) * 257)[1].tobytes(), on_white(p, a), 1),
        Readable("tiff palette", pil(indexed, "TIFF"), quantized),
        Readable("tiff 1 bit", pil(bilevel, "TIFF"), black),
        Readable("tiff LZW", pil(p, "TIFF", compression="tiff_lzw"), p),
        Readable("tiff deflate", pil(p, "TIFF", compression="tiff_adobe_deflate"), p),
        Readable("tiff packbits", pil(p, "TIFF", compression="packbits"), p),
        Readable("tiff jpeg", pil(p, "TIFF", compression="jpeg", quality=95), p, 3),
        Readable("tiff CMYK", pil(cmyk(p), "TIFF"), p, 2),
        Readable("tiff of two pages", pil(p, "TIFF", save_all=True, append_images=[Image.fromarray(g)]), p),
    ]  # fmt: skip
    options: dict[str, Any]
    for kind, options in (("WEBP", {"lossless": True}), ("TIFF", {}), ("AVIF", {"quality": 95})):
        if kind == "AVIF" and not features.check("avif"):
            continue
        for orientation in range(1, 9):
            block = Image.Exif()
            block[0x0112] = orientation
            stored = pil(as_stored(p, orientation), kind, exif=block, **options)
            tolerance = 4 if kind == "AVIF" else 0
            cases.append(Readable(f"{kind.lower()} orientation {orientation}", stored, p, tolerance))
    sixteen = cv2.imencode(".tiff", as_stored(p, 6)[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    cases.append(Readable("tiff rgb 16 orientation 6", with_tiff_orientation(sixteen, 6), p))
    if features.check("avif"):
        cases += [
            Readable("avif", pil(p, "AVIF", quality=95), p, 4),
            Readable("avif 4:4:4", pil(p, "AVIF", quality=95, subsampling="4:4:4"), p, 3),
            Readable("avif limited range", pil(p, "AVIF", quality=95, range="limited"), p, 4),
            Readable("avif grey", pil(g, "AVIF", quality=95), shown(g), 3),
            Readable("avif rgba", pil(rgba, "AVIF", quality=95), on_white(p, a), 5),
        ]
    return cases


def with_tiff_orientation(data: bytes, orientation: int) -> bytes:
    """The little-endian TIFF with another value in its entry for the orientation, or with one more entry."""
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    entries = [data[start + 2 + 12 * k : start + 14 + 12 * k] for k in range(count)]
    entries = [entry for entry in entries if entry[:2] != b"\x12\x01"]
    entries.append(struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0))
    entries.sort(key=lambda entry: int.from_bytes(entry[:2], "little"))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


def top_down_bmp(picture: np.ndarray) -> bytes:
    data = bytearray(pil(picture[::-1], "BMP"))
    data[22:26] = struct.pack("<i", -picture.shape[0])
    return bytes(data)


def bmp32(picture: np.ndarray, alpha: np.ndarray | None) -> bytes:
    """A BMP of 32 bits: with the masks of a version 5 header if there is alpha, else with zeros."""
    height, width = picture.shape[:2]
    fourth = np.zeros((height, width), np.uint8) if alpha is None else alpha
    pixels = np.dstack([picture[::-1, :, ::-1], fourth[::-1]]).tobytes()
    size, packing = (40, 0) if alpha is None else (124, 3)
    masks = b"" if alpha is None else struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs"
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, 32, packing, len(pixels), 2835, 2835, 0, 0)
    header = (header + masks).ljust(size, b"\0")
    return struct.pack("<2sIHHI", b"BM", 14 + size + len(pixels), 0, 0, 14 + size) + header + pixels


def readable() -> list[Readable]:
    """Every file that is read."""
    return png_cases() + jpeg_cases() + other_cases()


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def refused() -> list[tuple[str, bytes, str]]:
    """Every file that is refused: its name, the file, and words of the sentence that says why."""
    p, g = PICTURE, grey(PICTURE)
    plain, progressive, whole = jpeg(p), jpeg(p, progressive=True), png(p, 8, 2)
    frames: dict[str, Any] = {"save_all": True, "append_images": [Image.fromarray(face_like(1))]}
    webp = pil(p, "WEBP", quality=95)
    tiff, bmp = pil(p, "TIFF"), pil(p, "BMP")
    scans = [place for place in range(len(progressive)) if progressive[place : place + 2] == b"\xff\xda"]
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 0x10
    raw = b"\x05" + bytes(3 * SIDE)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)

    def made(*parts: bytes) -> bytes:
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")

    start = chunk(b"IHDR", header)
    float_tiff = cv2.imencode(".tiff", np.zeros((8, 8), np.float32))[1].tobytes()
    cases = [
        ("empty", b"", "is empty"),
        ("text", b"hello, this is text\n" * 20, "is a text"),
        ("web page", b"\n<!DOCTYPE html><html></html>", "is a web page"),
        ("svg", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing"),
        ("pdf", b"%PDF-1.7\n" * 40, "is a PDF document"),
        ("zip", b"PK\x03\x04" + bytes(60), "is a ZIP archive"),
        ("gzip", b"\x1f\x8b\x08" + bytes(60), "is a gzip archive"),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
        ("zeros", bytes(500), "is not an image"),
        ("noise", np.random.default_rng(0).bytes(500), "is not an image"),
        ("gif", pil(p, "GIF"), "is a GIF image"),
        ("gif animated", pil(p, "GIF", **frames), "is a GIF image"),
        ("heic", box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"mdat", bytes(99)), "is a HEIC image"),
        ("heic by mif1", box(b"ftyp", b"mif1\0\0\0\0mif1heic") + bytes(99), "is a HEIF image"),
        ("video", box(b"ftyp", b"isom\0\0\0\0isomavc1") + bytes(99), "is a video"),
        ("jpeg 2000", cv2.imencode(".jp2", p)[1].tobytes(), "is a JPEG 2000 image"),
        ("jpeg xl", b"\xff\x0a" + bytes(60), "is a JPEG XL image"),
        ("psd", b"8BPS\0\1" + bytes(60), "is a Photoshop file"),
        ("icon", pil(p, "ICO"), "is a Windows icon"),
        ("ascii ppm", b"P3 1 1 255 0 0 0\n", "is a PNM image of another kind"),
        ("webp animated", pil(p, "WEBP", **frames), "is an animated WebP image"),
        ("png animated", pil(p, "PNG", **frames), "is an animated PNG image"),
        ("jpeg half", plain[: len(plain) // 2], "truncated"),
        ("jpeg three quarters", plain[: len(plain) * 3 // 4], "truncated"),
        ("jpeg without the last bytes", plain[:-4], "truncated"),
        ("jpeg half and end", plain[: len(plain) // 2] + b"\xff\xd9", "truncated"),
        ("jpeg half and zeros", plain[: len(plain) // 2] + bytes(len(plain) // 2), "truncated"),
        ("jpeg header", plain[:200], "truncated"),
        ("jpeg start", plain[:3], "truncated"),
        ("jpeg progressive half", progressive[: len(progressive) // 2], "truncated"),
        ("jpeg progressive but one scan", progressive[: scans[-1]], "truncated"),
        ("jpeg progressive first scan", progressive[: scans[1]], "truncated"),
        ("jpeg 12 bits", plain.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "12 bits a channel"),
        ("jpeg arithmetic", plain.replace(b"\xff\xc0\0\x11", b"\xff\xc9\0\x11"), "lossless or arithmetic"),
        ("jpeg two channels", plain.replace(b"\0\x70\0\x70\x03", b"\0\x70\0\x70\x02"), "2 channels"),
        ("jpeg twice", plain[:20] + plain, "is damaged: the JPEG"),
        ("jpeg sampling", jpeg(p, subsampling=1).replace(b"\x01\x21\0\x02\x11", b"\x01\x11\0\x02\x21"), "channels differ in resolution"),
        ("jpeg without height", plain.replace(b"\0\x70\0\x70\x03", b"\0\0\0\x70\x03"), "112x0 pixels"),
        ("png half", whole[: len(whole) // 2], "truncated"),
        ("png without end", whole[:-12], "truncated"),
        ("png checksum", bytes(broken), "fails its checksum"),
        ("png bad zlib", made(start, chunk(b"IDAT", b"x\x9c" + bytes(99999))), "is damaged: the PNG"),
        ("png bad filter", made(start, chunk(b"IDAT", zlib.compress(raw * SIDE))), "is damaged: the PNG"),
        ("png few rows", made(start, chunk(b"IDAT", zlib.compress(bytes(3 * SIDE + 1) * 50))), "is damaged: the PNG"),
        ("png no picture", made(start), "truncated"),
        ("png no palette", png(g, 8, 3), "is damaged: the PNG"),
        ("png apple", b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", bytes(4)) + start, "Apple"),
        ("png senseless", made(chunk(b"IHDR", header[:8] + b"\x07\x02\0\0\0")), "makes no sense"),
        ("webp half", webp[: len(webp) // 2], "is damaged: the WebP"),
        ("webp start", webp[:14], "truncated"),
        ("tiff half", tiff[: len(tiff) // 2], "truncated"),
        ("tiff float", float_tiff, "not unsigned integers"),
        ("tiff big", b"II+\0\x08\0\0\0" + bytes(60), "is a BigTIFF image"),
        ("tiff fax", pil(Image.fromarray(g > 128), "TIFF", compression="group4"), "compression 4"),
        ("bmp half", bmp[: len(bmp) // 2], "truncated"),
        ("bmp start", bmp[:20], "truncated"),
        ("ppm half", b"P6 112 112 255\n" + p.tobytes()[:-1], "truncated"),
        ("ppm senseless", b"P6 many 112 255\n", "makes no sense"),
    ]  # fmt: skip
    if features.check("avif"):
        avif = pil(p, "AVIF")
        cases += [
            ("avif animated", pil(p, "AVIF", **frames), "is an animated AVIF image"),
            ("avif half", avif[: len(avif) // 2], "is damaged: the AVIF"),
            ("avif start", avif[:40], "is damaged: the AVIF"),
        ]
    return cases
