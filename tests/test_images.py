"""Reading images: every kind of file has one defined answer."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketnet_fast.data.images import decode_image, encode_image, read_bytes, read_image, stated_size
from pocketnet_fast.errors import PocketNetError

cv2 = pytest.importorskip("cv2")


def encode(extension: str, pixels: np.ndarray, *options: int) -> bytes:
    """Encode RGB, RGBA or grey pixels."""
    if pixels.ndim == 3:
        pixels = np.dstack([pixels[..., 2::-1], pixels[..., 3:]])
    done, data = cv2.imencode(extension, pixels, list(options))
    assert done
    return data.tobytes()


def smooth_picture(height: int = 60, width: int = 80) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.dstack([x * 255 // width, y * 255 // height, (x + y) % 128]).astype(np.uint8)


def tiff_with_orientation(value: int, order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)


def jpeg_with_exif(data: bytes, exif: bytes) -> bytes:
    segment = b"Exif\0\0" + exif
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def png_with_exif(data: bytes, exif: bytes) -> bytes:
    chunk = b"eXIf" + exif
    packed = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:33] + packed + data[33:]


def test_colour_order_and_layout() -> None:
    picture = smooth_picture()
    decoded = decode_image(encode(".png", picture))
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, picture)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_grey_becomes_rgb(extension: str) -> None:
    grey = smooth_picture()[..., 0]
    decoded = decode_image(encode(extension, grey))
    assert decoded.shape == (60, 80, 3)
    assert (decoded == decoded[..., :1]).all()
    assert np.abs(decoded[..., 0].astype(int) - grey).max() <= (0 if extension == ".png" else 8)


def test_transparency_shows_white() -> None:
    picture = np.dstack([smooth_picture(), np.full((60, 80), 255, np.uint8)])
    picture[:10, :, 3] = 0
    picture[10:20, :, 3] = 128
    decoded = decode_image(encode(".png", picture)).astype(int)
    assert (decoded[:10] == 255).all()
    expected = picture[10:20, :, :3] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(decoded[10:20] - expected).max() <= 0.5
    np.testing.assert_array_equal(decoded[20:], picture[20:, :, :3])


def test_sixteen_bits_are_rounded() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    decoded = decode_image(encode(".png", values))[..., 0]
    np.testing.assert_array_equal(decoded, np.rint(values / 257.0).astype(np.uint8))


def test_sixteen_bits_with_alpha() -> None:
    pixels = np.full((4, 4, 4), 65535, np.uint16)
    pixels[..., :3] = 1000
    pixels[:2, :, 3] = 0
    decoded = decode_image(encode(".png", pixels))
    assert (decoded[:2] == 255).all()
    assert (decoded[2:] == round(1000 / 257)).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, order: str) -> None:
    exif = tiff_with_orientation(orientation, order)
    jpeg = jpeg_with_exif(encode(".jpg", smooth_picture()), exif)
    # OpenCV's own reading with orientation is the reference.
    reference = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode_image(jpeg), reference)

    picture = smooth_picture()
    transparent = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    upright = decode_image(encode(".png", picture))
    turned = decode_image(png_with_exif(encode(".png", transparent), exif))
    by_hand = {
        1: upright,
        2: upright[:, ::-1],
        3: np.rot90(upright, 2),
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, -1),
        7: np.rot90(upright, 2).swapaxes(0, 1),
        8: np.rot90(upright, 1),
    }
    np.testing.assert_array_equal(turned, by_hand[orientation])


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_of_each_container(fmt: str) -> None:
    pillow = pytest.importorskip("PIL.Image")
    exif = pillow.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    options = {"lossless": True} if fmt == "WEBP" else {}
    pillow.fromarray(smooth_picture()).save(buffer, fmt, exif=exif, **options)
    decoded = decode_image(buffer.getvalue())
    assert np.abs(decoded.astype(int) - np.rot90(smooth_picture(), -1)).mean() < 4


@pytest.mark.parametrize("exif", [b"", b"II", b"II*\0\xff\xff\xff\xff", tiff_with_orientation(9)])
def test_senseless_exif_is_ignored(exif: bytes) -> None:
    plain = encode(".jpg", smooth_picture())
    np.testing.assert_array_equal(decode_image(jpeg_with_exif(plain, exif)), decode_image(plain))


def jpeg_progressive(pixels: np.ndarray) -> bytes:
    return encode(".jpg", pixels, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


def jpeg_with_restarts(pixels: np.ndarray) -> bytes:
    return encode(".jpg", pixels, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)


def jpeg_with_thumbnail(pixels: np.ndarray) -> bytes:
    # The thumbnail's own end marker must not pass for the picture's.
    thumbnail = encode(".jpg", pixels[::4, ::4])
    return jpeg_with_exif(encode(".jpg", pixels), tiff_with_orientation(1) + thumbnail)


def png(pixels: np.ndarray) -> bytes:
    return encode(".png", pixels)


@pytest.mark.parametrize("make", [jpeg_progressive, jpeg_with_restarts, jpeg_with_thumbnail, png])
def test_truncation_is_an_error_at_every_length(make: object) -> None:
    data = make(smooth_picture(24, 24))  # type: ignore[operator]
    assert decode_image(data).shape == (24, 24, 3)
    for length in range(1, len(data)):
        with pytest.raises(PocketNetError, match=r"^photo\.x "):
            decode_image(data[:length], "photo.x")


def test_truncated_file_padded_with_zeros_is_an_error() -> None:
    data = encode(".jpg", smooth_picture())
    half = len(data) // 2
    with pytest.raises(PocketNetError, match="truncated"):
        decode_image(data[:half] + bytes(len(data) - half))


def test_bytes_after_the_end_are_ignored() -> None:
    for extension in (".jpg", ".png"):
        data = encode(extension, smooth_picture())
        np.testing.assert_array_equal(decode_image(data + b"trailer" * 9), decode_image(data))


def test_png_checksum() -> None:
    data = bytearray(encode(".png", smooth_picture()))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(PocketNetError, match="'IDAT' fails its checksum"):
        decode_image(bytes(data))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_never_escapes_as_another_exception(data: st.DataObject) -> None:
    extension = data.draw(st.sampled_from([".jpg", ".png", ".webp", ".bmp"]))
    content = bytearray(encode(extension, smooth_picture(16, 16)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode_image(bytes(content))
    except PocketNetError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3


@pytest.mark.parametrize("content", [b"hello, this is text\n" * 20, b"\x00" * 500, b"%PDF-1.7\n" * 40])
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "letter.jpg"
    path.write_bytes(content)
    with pytest.raises(PocketNetError, match=r"letter\.jpg is not an image"):
        read_image(path)


def test_float_pixels_are_refused() -> None:
    with pytest.raises(PocketNetError, match="float32 pixels"):
        decode_image(encode(".tiff", np.zeros((4, 4), np.float32)))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(PocketNetError, match="no such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(PocketNetError, match="cannot be read"):
        read_image("nul\0byte.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(PocketNetError, match=r"empty\.png is empty"):
        read_image(tmp_path / "empty.png")


def test_a_name_outside_ascii(tmp_path: Path) -> None:
    path = tmp_path / "Zoë 写真.png"
    path.write_bytes(encode(".png", smooth_picture()))
    assert read_image(path).shape == (60, 80, 3)


@pytest.mark.parametrize("make", [jpeg_progressive, jpeg_with_restarts, jpeg_with_thumbnail, png])
def test_stated_size(make: Callable[[np.ndarray], bytes]) -> None:
    data = make(smooth_picture())
    assert stated_size(data) == decode_image(data).shape[:2]
    for end in range(len(data)):
        assert stated_size(data[:end]) in (None, stated_size(data))


def test_other_kinds_state_no_size() -> None:
    for data in (b"", b"text", encode(".bmp", smooth_picture()), b"\xff\xd8\xff", b"\xff\xd8\xff\xff" * 9):
        assert stated_size(data) is None


def test_encoding() -> None:
    picture = smooth_picture()
    np.testing.assert_array_equal(decode_image(encode_image(picture, ".png")), picture)
    assert np.abs(decode_image(encode_image(picture, ".jpg")).astype(int) - picture).mean() < 3
    for suffix in (".xyz", ""):
        with pytest.raises(PocketNetError, match=f"OpenCV cannot write {suffix} files"):
            encode_image(picture, suffix)


def test_reading_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    assert read_bytes(tmp_path / "a") == b"bytes"
    with pytest.raises(PocketNetError, match="is a folder, not an image file"):
        read_bytes(tmp_path)
