"""Reading images: every kind of file has one defined answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import exif, with_segment

from pocketnet_fast.data.images import decode_image, encode_image, read_bytes, read_image
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


def jpeg_with_exif(data: bytes, exif: bytes) -> bytes:
    return with_segment(data, 0xE1, b"Exif\0\0" + exif)


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


def jpeg_progressive(pixels: np.ndarray) -> bytes:
    return encode(".jpg", pixels, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


def jpeg_with_restarts(pixels: np.ndarray) -> bytes:
    return encode(".jpg", pixels, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)


def jpeg_with_thumbnail(pixels: np.ndarray) -> bytes:
    # The thumbnail's own end marker must not pass for the picture's.
    thumbnail = encode(".jpg", pixels[::4, ::4])
    return jpeg_with_exif(encode(".jpg", pixels), exif(1) + thumbnail)


def png(pixels: np.ndarray) -> bytes:
    return encode(".png", pixels)


@pytest.mark.parametrize("make", [jpeg_progressive, jpeg_with_restarts, jpeg_with_thumbnail, png])
def test_truncation_is_an_error_at_every_length(make: object) -> None:
    data = make(smooth_picture(24, 24))  # type: ignore[operator]
    assert decode_image(data).shape == (24, 24, 3)
    # A JPEG may lack its end marker, and nothing else.
    whole = len(data) if make is png else len(data) - 2
    for length in range(1, whole):
        with pytest.raises(PocketNetError, match=r"^photo\.x "):
            decode_image(data[:length], "photo.x")


def test_truncated_file_padded_with_zeros_is_an_error() -> None:
    data = encode(".jpg", smooth_picture())
    half = len(data) // 2
    with pytest.raises(PocketNetError, match="truncated"):
        decode_image(data[:half] + bytes(len(data) - half))


def test_many_ways_to_cut_a_photo() -> None:
    """Lengths of a photo that is too large to try each of them."""
    generator = np.random.default_rng(0)
    for progressive in (0, 1):
        picture = generator.integers(0, 256, (200, 300, 3), dtype=np.uint8)
        data = encode(".jpg", picture, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
        for length in generator.integers(1, len(data) - 2, 40):
            for end in (b"", b"\xff\xd9", bytes(100)):
                try:
                    decode_image(data[:length] + end)
                except PocketNetError:
                    continue
                # Cut within the last bits, or between two scans of a file that has its end marker.
                assert len(data) - length < 4 or (progressive and end == b"\xff\xd9")


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
