"""Feature files of MegaFace's kit, byte by byte, and every kind of damage."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from pocketnet_fast.errors import PocketNetError
from pocketnet_fast.evaluation.feature_file import (
    read_embedding,
    read_features,
    write_embedding,
    writing_features,
)


def test_written_as_the_kit_expects(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_embedding(path, np.array([0.5, -2, 3], np.float32))
    assert path.read_bytes() == struct.pack("<4i3f", 3, 1, 4, 5, 0.5, -2, 3)
    assert read_embedding(path).tolist() == [0.5, -2, 3]
    assert read_features(path).shape == (3, 1)


def test_a_row_is_an_embedding_too(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(struct.pack("<4i3f", 1, 3, 12, 5, 0.5, -2, 3))
    assert read_embedding(path).tolist() == [0.5, -2, 3]


def test_rows_may_be_padded(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(struct.pack("<4i8f", 2, 3, 16, 5, 1, 2, 3, np.nan, 4, 5, 6, np.nan))
    assert read_features(path).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_matrices(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    with writing_features(path, 4, 3) as write:
        for row in rows:
            write(row)
        assert not path.exists()
    assert path.read_bytes() == struct.pack("<4i12f", 4, 3, 12, 5, *range(12))
    found = read_features(path)
    np.testing.assert_array_equal(found, rows)
    found[0, 0] = 99
    assert read_features(path)[0, 0] == 0
    few = pytest.raises(PocketNetError, match="1 embeddings were given, not 4")
    with few, writing_features(path, 4, 3) as write:
        write(rows[0])
    with pytest.raises(PocketNetError, match="expected 3 numbers"), writing_features(path, 4, 3) as write:
        write(rows[0, :2])
    np.testing.assert_array_equal(read_features(path), rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated at byte 0, inside the header"),
        (b"\3\0\0\0\1", "truncated at byte 5, inside the header"),
        (struct.pack("<4i2f", 3, 1, 4, 5, 1, 2), "truncated: 24 bytes, of which the header states 28"),
        (struct.pack("<4i4f", 3, 1, 4, 5, 1, 2, 3, 4), "too long: 32 bytes, .* 28"),
        (struct.pack("<4i3d", 3, 1, 8, 6, 1, 2, 3), r"byte 12: numbers of OpenCV's type 6 \(float64\)"),
        (struct.pack("<4i", 3, 1, 4, 13), r"type 13 \(several channels or unknown\)"),
        (struct.pack(">4i3f", 3, 1, 4, 5, 1, 2, 3), "type 83886080"),
        (struct.pack("<4i", 0, 1, 4, 5), "0 rows of 1 numbers in 4 bytes each"),
        (struct.pack("<4i", 1, -1, 4, 5), "make no matrix"),
        (struct.pack("<4i", 1, 3, 8, 5), "3 numbers in 8 bytes each"),
        (struct.pack("<4i", 1, 1, 5, 5), "1 numbers in 5 bytes each"),
        (struct.pack("<4i4f", 2, 2, 8, 5, 1, 2, 3, 4), r"a matrix of \(2, 2\); expected one embedding"),
        (struct.pack("<4i3f", 3, 1, 4, 5, 1, np.nan, 3), "byte 20: number 1 is not finite"),
    ],
)
def test_damage(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(PocketNetError, match=f"{path}.*{message}"):
        read_embedding(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(PocketNetError, match="no such feature file"):
        read_features(tmp_path / "a.bin")
    with pytest.raises(PocketNetError, match="cannot be read"):
        read_features(tmp_path)
