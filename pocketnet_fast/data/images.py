"""Reading image files: whatever they hold, the result is RGB uint8, upright, or one clear error."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pocketnet_fast.data.image_header import (
    READ_KINDS,
    DamagedError,
    ImageHeader,
    UnreadError,
    exif_orientation,
    image_kind,
    ppm_header,
    read_header,
)
from pocketnet_fast.data.jpeg_file import check_jpeg, decode_jpeg
from pocketnet_fast.data.png_file import check_png, with_transparent_color
from pocketnet_fast.errors import PocketNetError

ImageArray = npt.NDArray[np.uint8]

BACKGROUND: Final = 255  # white, which is what viewers put behind a cut-out portrait

MAX_PIXELS_VARIABLE: Final = "POCKETNET_MAX_PIXELS"
MAX_BYTES_VARIABLE: Final = "POCKETNET_MAX_BYTES"
_HEAD: Final = 1 << 16


@dataclass(frozen=True)
class ImageLimits:
    """How large an image may be; what is larger is refused by its header, before anything is decoded.

    Attributes:
        pixels: Height times width.
        bytes: The bytes of the file.
    """

    pixels: int = 50_000_000
    bytes: int = 64 << 20

    @classmethod
    def from_environment(cls) -> ImageLimits:
        """Take what ``POCKETNET_MAX_PIXELS`` and ``POCKETNET_MAX_BYTES`` say; else the defaults.

        Raises:
            PocketNetError: One of them is no whole number of at least 1.
        """
        return cls(_limit(MAX_PIXELS_VARIABLE, cls.pixels), _limit(MAX_BYTES_VARIABLE, cls.bytes))


def read_image(path: str | os.PathLike[str], limits: ImageLimits | None = None) -> ImageArray:
    """Read an image file; see ``decode_image`` for what becomes of its content.

    Args:
        path: The file.
        limits: How large it may be; None for those of the environment.

    Returns:
        H x W x 3 uint8, RGB.

    Raises:
        PocketNetError: No such file, a folder, no permission, or what ``decode_image`` refuses.
    """
    return decode_image(read_bytes(path, limits), str(path), limits)


def read_bytes(path: str | os.PathLike[str], limits: ImageLimits | None = None) -> bytes:
    """Read an image file whole, without decoding it.

    Args:
        path: The file.
        limits: How large it may be; None for those of the environment.

    Raises:
        PocketNetError: No such file, a folder, no permission, or too large a file.
    """
    most = (limits or ImageLimits.from_environment()).bytes
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            if size > most:
                # Another kind of file is called that, however large it is.
                _refuse_other_kinds(file.read(_HEAD), str(path))
                raise PocketNetError(_too_many_bytes(str(path), f"{size:,}", most))
            data = file.read(size) if size else file.read(most + 1)
    except IsADirectoryError as error:
        raise PocketNetError(f"{path} is a folder, not an image file") from error
    except FileNotFoundError as error:
        raise PocketNetError(f"{path}: no such file") from error
    except PocketNetError:
        raise
    except (OSError, ValueError) as error:
        raise PocketNetError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > most:
        raise PocketNetError(_too_many_bytes(str(path), f"more than {most:,}", most))
    return data


def decode_image(data: bytes, name: str = "image", limits: ImageLimits | None = None) -> ImageArray:
    """Decode an encoded image: JPEG, PNG, WebP, AVIF, TIFF, BMP, or a binary PGM or PPM.

    The orientation stored as EXIF (JPEG, PNG, WebP, TIFF) or as ``irot`` and ``imir`` (AVIF) is applied. Grey
    becomes RGB; transparency is composited on white; 16 bits per channel are rounded to 8; CMYK is converted
    without its profile, as profiles are not applied at all. Animations are refused, for which of the pictures
    is meant is not known; of a TIFF of several pages the first is read.

    Size and kind are read from the header, and too large an image is refused before it is decoded. A file
    whose picture is cut off or broken is an error, because decoders fill what is missing with grey or with
    copies of the last row. A JPEG without end marker is read if its picture is whole, and bytes between
    its segments are passed over. JPEG has no checksum, so damage inside its compressed data that is valid
    code again cannot be told from picture content.

    Args:
        data: The bytes of the file.
        name: How errors call it.
        limits: How large it may be; None for those of the environment.

    Returns:
        H x W x 3 uint8, RGB.

    Raises:
        PocketNetError: Empty, too large, damaged, truncated, or not an image that is read.
    """
    if not data:
        raise PocketNetError(f"{name} is empty; expected an image: {READ_KINDS}")
    limits = limits or ImageLimits.from_environment()
    if len(data) > limits.bytes:
        raise PocketNetError(_too_many_bytes(name, f"{len(data):,}", limits.bytes))
    try:
        header = read_header(data)
        if header.height * header.width > limits.pixels:
            raise PocketNetError(
                f"{name} has {header.width}x{header.height} pixels; at most {limits.pixels:,} are read "
                f"({MAX_PIXELS_VARIABLE} changes that)"
            )
        pixels, orientation = _decoded(data, header)
        return np.ascontiguousarray(_upright(_to_rgb(pixels, header), orientation))
    except UnreadError as error:
        raise PocketNetError(f"{name} is {error}; expected {READ_KINDS}") from None
    except DamagedError as error:
        raise PocketNetError(f"{name} is damaged: {error}") from None
    except MemoryError:
        raise PocketNetError(f"{name} needs more memory than there is") from None


def stated_size(data: bytes) -> tuple[int, int] | None:
    """Read how large an image says that it is, without decoding: a few bytes can announce gigabytes.

    Returns:
        Height and width as stored, before any orientation is applied; None if it is no image that is read.
    """
    try:
        header = read_header(data)
    except (DamagedError, UnreadError):
        return None
    return header.height, header.width


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


def _limit(variable: str, default: int) -> int:
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise PocketNetError(f"{variable} is {text!r:.40}; expected a whole number of at least 1")
    return int(text)


def _too_many_bytes(name: str, size: str, most: int) -> str:
    return f"{name} has {size} bytes; at most {most:,} are read ({MAX_BYTES_VARIABLE} changes that)"


def _refuse_other_kinds(data: bytes, name: str) -> None:
    if image_kind(data) is None:
        try:
            read_header(data)
        except UnreadError as error:
            raise PocketNetError(f"{name} is {error}; expected {READ_KINDS}") from None


def _decoded(data: bytes, header: ImageHeader) -> tuple[npt.NDArray[Any], int]:
    """Pixels as H x W x C, grey or RGB, with alpha or without, of 8 or 16 bits, and their orientation."""
    if header.kind == "JPEG":
        jpeg = check_jpeg(data)
        return decode_jpeg(jpeg), exif_orientation(jpeg.exif)
    if header.kind == "PNG":
        png = check_png(data)
        pixels = _by_opencv(png.data, header.kind)
        if png.transparent is not None:
            pixels = with_transparent_color(pixels, png.transparent)
        return _rgb_order(pixels), exif_orientation(png.exif)
    if header.kind == "PPM":
        return _decode_ppm(data), 1
    for place, upright in header.upright:
        # Whether this version of OpenCV would turn the picture no longer matters.
        data = data[:place] + upright + data[place + len(upright) :]
    return _rgb_order(_by_opencv(data, header.kind)), header.orientation


def _decode_ppm(data: bytes) -> npt.NDArray[np.uint8]:
    width, height, most, start = ppm_header(data)
    channels = 3 if data[1:2] == b"6" else 1
    values = np.frombuffer(data, ">u2" if most > 255 else "u1", width * height * channels, start)
    pixels: npt.NDArray[Any] = values.reshape(height, width, channels)
    if most != 255:
        pixels = np.minimum((pixels.astype(np.uint32) * 255 + most // 2) // most, 255)
    return pixels.astype(np.uint8)


class _Quiet:
    """How many callers want OpenCV's log to be silent, and its level before the first of them."""

    lock = threading.Lock()
    callers = 0
    level = 0


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's log off stderr: its lines would stand before the error that says the same."""
    import cv2

    log = cv2.utils.logging
    with _Quiet.lock:
        if _Quiet.callers == 0:
            _Quiet.level = log.setLogLevel(log.LOG_LEVEL_SILENT)
        _Quiet.callers += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.callers -= 1
            if _Quiet.callers == 0:
                log.setLogLevel(_Quiet.level)


def _by_opencv(data: bytes, kind: str) -> npt.NDArray[Any]:
    """H x W x C of 8 or 16 bits, BGR, with alpha where there is any."""
    import cv2

    with _quiet_opencv():
        try:
            # Unchanged keeps alpha and the bit depth, and leaves the orientation to us whatever the version.
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise DamagedError(f"the {kind} cannot be decoded: {error.err}") from None
    if pixels is None or pixels.size == 0:
        hint = ", or this OpenCV cannot decode its kind" if kind == "AVIF" else ""
        raise DamagedError(f"the {kind}'s picture is cut or broken{hint}")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UnreadError(f"a {kind} with {pixels.dtype} pixels")
    return np.asarray(pixels if pixels.ndim == 3 else pixels[..., None])


def _rgb_order(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import cv2

    # Reversing the channels with numpy takes half as long as decoding a crop.
    if pixels.shape[2] == 3:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)) if pixels.shape[2] == 4 else pixels


def _to_rgb(pixels: npt.NDArray[Any], header: ImageHeader) -> ImageArray:
    full = int(np.iinfo(pixels.dtype).max)
    channels = pixels.shape[2]
    if channels in (2, 4):
        pixels = _on_white(pixels, full, header)
    if full > 255:
        # 65535 = 255 * 257
        pixels = (pixels.astype(np.uint32) + 128) // 257
    if channels <= 2:
        pixels = np.repeat(pixels, 3, axis=2)
    return pixels.astype(np.uint8, copy=False)


def _on_white(pixels: npt.NDArray[Any], full: int, header: ImageHeader) -> npt.NDArray[Any]:
    colors = pixels[..., :-1]
    if header.extra == 0:
        return colors
    alpha = pixels[..., -1:].astype(np.uint32)
    background = BACKGROUND * (full // 255)
    # libtiff multiplies colours of 8 bits by an alpha of kind 2; those of kind 1 are stored so.
    if header.extra == 1 or (header.extra == 2 and full == 255):
        mixed = np.minimum(colors + (full - alpha), background)
    else:
        mixed = (colors * alpha + background * (full - alpha) + full // 2) // full
    return mixed.astype(pixels.dtype)


def _upright(image: ImageArray, orientation: int) -> ImageArray:
    """Undo the EXIF orientation: from 5 on the axes are exchanged; then mirrored or turned by 180 degrees."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
